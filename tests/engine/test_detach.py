"""Training a model with ``detach: true``: the checkpoint holds the stock model that the same command trains."""

from __future__ import annotations

import pytest
import torch
import yaml

from yolo_uncert import YOLO
from yolo_uncert.engine.retrofit import branch_parameters

SECTION = {"gaussian": {"spread": True}, "dfl": {}, "iou_aware": {}, "border": {"beside": 0.1}}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "obb"])
def test_the_detector_is_the_stock_model_bit_for_bit(tiny, tmp_path, task):
    stock = "yolov8n.yaml" if task == "detect" else "yolov8n-obb.yaml"
    found = {}
    for name, keys in (("stock", {}), ("apart", {"detach": True}), ("joined", {"detach": False})):
        file = tmp_path / f"yolov8n-{name}.yaml"
        file.write_text(yaml.safe_dump({"base": "yolov8.yaml", "task": task, "uncertainty": SECTION, **keys}))
        model = YOLO(stock if name == "stock" else str(file))
        trainer = tiny.train(model, f"{task}-{name}", task, epochs=2, val=False, save=True)
        found[name] = YOLO(trainer.last).model.float()
    given = found["stock"].state_dict()
    apart, joined = (found[name].state_dict() for name in ("apart", "joined"))
    assert all(torch.equal(value, apart[name]) for name, value in given.items())
    assert not all(torch.equal(value, joined[name]) for name, value in given.items())
    assert found["apart"].model[-1].detach, "the checkpoint knows"
    torch.manual_seed(0)
    fresh = [p for group in branch_parameters(found["apart"]).values() for p in group]
    assert all(p.abs().sum() > 0 for p in fresh if p.dim() > 1)
