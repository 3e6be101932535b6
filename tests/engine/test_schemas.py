from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from ultralytics.nn.autobackend import AutoBackend

from yolo_uncert.engine.schemas import METADATA_KEY, schema_of, write_schema
from yolo_uncert.nn.build import build_model
from yolo_uncert.options import OptionError
from yolo_uncert.schema import Schema


@pytest.fixture(scope="module")
def model():
    return build_model("yolov8n-obb-light.yaml", "obb", nc=2)


def exported(**metadata):
    """What AutoBackend shows of an exported file with two classes."""
    return SimpleNamespace(format="onnx", names={0: "a", 1: "b"}, model=None, **metadata)


def test_schema_of_a_model_is_that_of_its_head(model):
    assert schema_of(model, "obb") == Schema("obb", 2, ("gaussian", "dfl", "iou_aware"))


def test_schema_behind_a_backend(model):
    backend = AutoBackend(model, device=torch.device("cpu"), fuse=False)
    assert schema_of(backend, "obb") is model.model[-1].schema


def test_stock_model_has_no_extra_channels():
    assert schema_of(build_model("yolov8n.yaml", "detect", nc=4), "detect") == Schema("detect", 4)


def test_exported_file_lists_its_fields():
    assert schema_of(exported(**{METADATA_KEY: '["gaussian", "iou_aware"]'}), "detect") == Schema(
        "detect", 2, ("gaussian", "iou_aware")
    )
    assert schema_of(exported(**{METADATA_KEY: ["dfl"]}), "obb") == Schema("obb", 2, ("dfl",)), "a list that was parsed"
    assert schema_of(exported(**{METADATA_KEY: "[]"}, head="UncertDetect"), "detect") == Schema("detect", 2)


def test_exported_stock_file():
    assert schema_of(exported(head="Detect"), "detect") == Schema("detect", 2)
    assert schema_of(exported(), "detect") == Schema("detect", 2), "a file of another program"


def test_exported_file_that_says_nothing_of_its_channels():
    with pytest.raises(OptionError, match="UncertOBB but no list of its channels; export it with yolo-uncert"):
        schema_of(exported(head="UncertOBB"), "obb")


def test_exporter_notes_the_fields_in_their_order(model):
    exporter = SimpleNamespace(model=model, metadata={"task": "obb"})
    write_schema(exporter)
    assert json.loads(exporter.metadata.pop(METADATA_KEY)) == ["gaussian", "dfl", "iou_aware"]
    assert exporter.metadata == {"task": "obb"}
    stock = SimpleNamespace(model=SimpleNamespace(model=[nn.Identity()]), metadata={})
    write_schema(stock)
    assert stock.metadata == {}
