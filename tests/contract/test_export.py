"""Exporter: the callback that adds to the metadata, and the metadata on a loaded file."""

from __future__ import annotations

import pytest
import torch
from ultralytics.nn.autobackend import AutoBackend

from yolo_uncert import YOLO
from yolo_uncert.engine.schemas import METADATA_KEY, schema_of
from yolo_uncert.schema import Schema

pytestmark = [
    pytest.mark.seam("engine/schemas.py"),
    pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:Converting"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A TorchScript file with one more entry in its metadata, and what the callback saw."""
    seen = []

    def note(exporter):
        seen.append((dict(exporter.metadata), exporter.model.model[-1]))
        exporter.metadata["note"] = "ours"

    model = YOLO("yolo11n-obb-gaussian.yaml")
    model.model.pt_path = str(tmp_path_factory.mktemp("export") / "model.pt")
    model.add_callback("on_export_start", note)
    return model.export(format="torchscript", imgsz=64, device="cpu"), seen


@pytest.mark.seam("engine/schemas.py", "model.py")
def test_callback_runs_once_with_metadata_and_model(exported):
    ((metadata, head),) = exported[1]
    assert metadata["head"] == type(head).__name__ == "UncertOBB"
    assert {"task", "names", "end2end"} <= metadata.keys()
    assert head.schema.names == ("gaussian",)


def test_loaded_file_has_each_entry_of_its_metadata_as_attribute(exported):
    backend = AutoBackend(exported[0], device=torch.device("cpu"))
    assert backend.note == "ours", "what the callback adds is written and read"
    assert (backend.head, backend.task, len(backend.names)) == ("UncertOBB", "obb", 80)
    assert backend.format != "pt"
    assert hasattr(backend, METADATA_KEY)
    assert schema_of(backend, "obb") == Schema("obb", 80, ("gaussian",))


def test_exported_model_returns_the_bare_tensor(exported):
    backend = AutoBackend(exported[0], device=torch.device("cpu"))
    y = backend(torch.zeros(1, 3, 64, 64))
    assert isinstance(y, torch.Tensor)
    assert y.shape == (1, 4 + 80 + 7 + 1, 84)


def test_backend_around_a_model_leads_to_its_head():
    model = YOLO("yolo11n-dfl.yaml").model
    backend = AutoBackend(model, device=torch.device("cpu"))
    assert backend.format == "pt"
    assert schema_of(backend, "detect").names == ("dfl",)
