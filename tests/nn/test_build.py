"""The model class that a yaml asks for."""

from __future__ import annotations

import pytest
from ultralytics.nn.tasks import DetectionModel, OBBModel

from yolo_uncert.nn.build import build_model, task_of
from yolo_uncert.nn.models import UncertDetectionModel, UncertOBBModel
from yolo_uncert.nn.yamls import load_model_yaml
from yolo_uncert.options import OptionError


@pytest.mark.parametrize(
    ("name", "task", "cls"),
    [
        ("yolo11n-gaussian.yaml", "detect", UncertDetectionModel),
        ("yolo26n-obb-kld.yaml", "obb", UncertOBBModel),
        ("yolov8n.yaml", "detect", DetectionModel),
        ("yolov8n-obb.yaml", "obb", OBBModel),
    ],
)
def test_a_name_or_a_resolved_dict_gives_the_class_for_it(name, task, cls):
    full = load_model_yaml(name)
    assert task_of(full) == task
    for cfg in (name, full):
        model = build_model(cfg, task, ch=1, nc=2)
        assert type(model) is cls
        assert model.yaml["channels"] == 1
        assert model.yaml["nc"] == model.model[-1].nc == len(model.names) == 2


@pytest.mark.parametrize(("name", "task"), [("yolo11n-gaussian.yaml", "obb"), ("yolov8n-obb.yaml", "detect")])
def test_a_yaml_of_another_task_is_refused(name, task):
    found = "detect" if task == "obb" else "obb"
    with pytest.raises(OptionError, match=f"this model yaml is for task {found}, not {task}"):
        build_model(name, task)
