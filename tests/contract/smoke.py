"""Train, validate and predict with the Ultralytics that is found, once for each task: ``smoke.py VERSION FOLDER``."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import torch
import ultralytics

from yolo_uncert import YOLO
from yolo_uncert.synthetic import SceneSpec, make_dataset

MODELS = {
    "yolo11n-uncert.yaml": "detect",
    "yolo11n-obb-uncert.yaml": "obb",
    "yolo26n-uncert.yaml": "detect",
    "yolo26n-obb-uncert.yaml": "obb",
}


def run(name: str, task: str, folder: Path) -> None:
    """Train for an epoch on a few scenes, and look at what training, validation and prediction leave."""
    data = make_dataset(folder / task, task, {"train": 8, "val": 2}, SceneSpec(imgsz=64))
    common = {"imgsz": 64, "device": "cpu", "project": str(folder / "runs")}
    fixed = {"data": str(data), "workers": 0, "plots": False}
    YOLO(name).train(epochs=1, batch=4, nbs=4, name=name, **common, **fixed)
    with (folder / "runs" / name / "results.csv").open(encoding="utf-8") as file:
        (row,) = ({key.strip(): value for key, value in line.items()} for line in csv.DictReader(file))
    losses = {key: float(value) for key, value in row.items() if "loss" in key}
    assert {"train/gauss_loss", "val/gauss_loss"} <= losses.keys(), losses
    assert all(math.isfinite(value) for value in losses.values()), losses
    model = YOLO(str(folder / "runs" / name / "weights" / "best.pt"))
    metrics = model.val(name=f"{name}-val", **common, **fixed)
    assert "uncert/nll" in metrics.results_dict
    for mode in ({}, {"nms": False}) if "26" in name else ({},):
        for result in model.predict(str(folder / task / "images" / "val"), conf=1e-6, **mode, **common):
            found = result.boxes if task == "detect" else result.obb
            assert len(found) > 0, mode
            assert found.std.shape == (len(found), 4 if task == "detect" else 5)
            assert found.std.isfinite().all()
            assert (found.std > 0).all()


if __name__ == "__main__":
    assert ultralytics.__version__ == sys.argv[1], f"found {ultralytics.__version__} in {ultralytics.__file__}"
    torch.set_num_threads(1)
    for model, task in MODELS.items():
        run(model, task, Path(sys.argv[2]))
    print(f"{len(MODELS)} models passed with Ultralytics {sys.argv[1]}")
