"""Contract tests: what we rely on inside Ultralytics, checked on the stock classes.

Every test is marked with the files of ours that break with it, and names them when it fails. Where such a test fails
and the others do not, the seam has moved: mend the named files, then widen the range in ``pyproject.toml``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from ultralytics.nn.tasks import DetectionModel, OBBModel
from ultralytics.utils import DEFAULT_CFG

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STOCK = {
    "detect": (DetectionModel, "yolo11n.yaml"),
    "obb": (OBBModel, "yolo11n-obb.yaml"),
    "detect-e2e": (DetectionModel, "yolo26n.yaml"),
    "obb-e2e": (OBBModel, "yolo26n-obb.yaml"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "seam(*files): files below yolo_uncert/ that depend on what this test checks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            files = users(item)
            if not files or not all((ROOT / file).is_file() for file in files):
                raise pytest.UsageError(f"{item.nodeid}: name the existing files that use this seam, not {files}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = (yield).get_result()  # type: ignore[attr-defined]
    if report.failed:
        text = f"Ultralytics {ultralytics.__version__} no longer does what we rely on in: {', '.join(users(item))}"
        report.sections.append(("seam", text))


def users(item: pytest.Item) -> list[str]:
    """Files of ours, relative to the project, that the test stands for."""
    marker = item.get_closest_marker("seam")
    return [f"yolo_uncert/{file}" for file in marker.args] if marker else []


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """For tensors as small as these a second thread only waits, for very long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def stock() -> Any:
    """Builder of untrained stock models with three classes: ``stock("obb-e2e")``."""

    def build(kind: str) -> Any:
        cls, name = STOCK[kind]
        model = cls(name, nc=3, verbose=False)
        model.args = DEFAULT_CFG
        return model.eval()

    return build


@pytest.fixture
def batch() -> Any:
    """Builder of labels for two 64 px images: one object of class 1 each, 32 x 16 px about the centre."""

    def build(task: str) -> dict[str, torch.Tensor]:
        box = [0.5, 0.5, 0.5, 0.25] + [0.0] * (task == "obb")
        return {
            "img": torch.rand(2, 3, 64, 64),
            "batch_idx": torch.tensor([0.0, 1]),
            "cls": torch.ones(2, 1),
            "bboxes": torch.tensor([box, box]),
        }

    return build


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data yaml of a tiny detection data set with three classes."""
    from yolo_uncert.synthetic import SceneSpec, make_dataset

    root = tmp_path_factory.mktemp("data") / "detect"
    return make_dataset(root, "detect", {"train": 4, "val": 2}, SceneSpec(imgsz=64))
