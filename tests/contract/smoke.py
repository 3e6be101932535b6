"""Train, validate and predict with the oldest supported Ultralytics: run by ``test_supported_range.py``."""

from __future__ import annotations

import csv
import math
import os

import pytest
import ultralytics

from yolo_uncert import YOLO
from yolo_uncert.synthetic import SceneSpec, make_dataset

pytestmark = pytest.mark.seam("__init__.py")


def test_it_is_the_version_that_was_asked_for():
    assert ultralytics.__version__ == os.environ["EXPECTED_ULTRALYTICS"], ultralytics.__file__


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("base", ["yolo11n", "yolo26n"])
def test_a_model_trains_validates_and_predicts(base, task, tmp_path):
    """For an epoch on a few scenes; a look at what training, validation and prediction leave."""
    name = f"{base}-uncert.yaml" if task == "detect" else f"{base}-obb-uncert.yaml"
    data = make_dataset(tmp_path / task, task, {"train": 8, "val": 2}, SceneSpec(imgsz=64))
    common = {"imgsz": 64, "device": "cpu", "project": str(tmp_path / "runs")}
    fixed = {"data": str(data), "workers": 0, "plots": False}
    YOLO(name).train(epochs=1, batch=4, nbs=4, name=name, **common, **fixed)
    with (tmp_path / "runs" / name / "results.csv").open(encoding="utf-8") as file:
        (row,) = ({key.strip(): value for key, value in line.items()} for line in csv.DictReader(file))
    losses = {key: float(value) for key, value in row.items() if "loss" in key}
    assert {"train/gauss_loss", "val/gauss_loss"} <= losses.keys(), losses
    assert all(math.isfinite(value) for value in losses.values()), losses
    model = YOLO(str(tmp_path / "runs" / name / "weights" / "best.pt"))
    metrics = model.val(name=f"{name}-val", **common, **fixed)
    assert "uncert/nll" in metrics.results_dict
    for mode in ({}, {"nms": False}) if "26" in name else ({},):
        for result in model.predict(str(tmp_path / task / "images" / "val"), conf=1e-6, **mode, **common):
            found = result.boxes if task == "detect" else result.obb
            assert len(found) > 0, mode
            assert found.std.shape == (len(found), 4 if task == "detect" else 5)
            assert found.std.isfinite().all()
            assert (found.std > 0).all()
