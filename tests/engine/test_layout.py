"""Images have their channels last in memory where that is faster, and nothing else changes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from yolo_uncert import YOLO
from yolo_uncert.engine.layout import fast_layout, runs_in_torch


def channels_last(images: torch.Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last)


def test_values_stay():
    images = torch.rand(2, 3, 8, 12)
    turned = fast_layout(images)
    assert channels_last(turned)
    assert not channels_last(images)
    assert torch.equal(turned, images)


def test_other_devices_keep_their_layout():
    images = torch.empty(2, 3, 8, 12, device="meta")
    assert fast_layout(images) is images


def test_exported_models_do_not_run_in_torch():
    assert runs_in_torch(torch.nn.Identity())
    assert runs_in_torch(SimpleNamespace(format="pt"))
    assert not runs_in_torch(SimpleNamespace(format="onnx"))


@pytest.mark.parametrize("kind", ["stock", "detect", "obb"])
def test_predictor_and_validator_use_it(tiny, tmp_path, kind):
    task, seen = "obb" if kind == "obb" else "detect", []

    def look(_, inputs):
        seen.append(channels_last(inputs[0]))

    for mode in ("predict", "val"):
        model = YOLO(tiny.weights(kind))
        model.model.model[0].register_forward_pre_hook(look)
        common = {"imgsz": 64, "device": "cpu", "verbose": False, "project": str(tmp_path)}
        if mode == "predict":
            model.predict(np.zeros((50, 80, 3), np.uint8), **common)
        else:
            model.val(data=str(tiny.data(task)), plots=False, workers=0, **common)
        assert seen[-1]
        seen.clear()
