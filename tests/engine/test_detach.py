"""Training a model with ``detach: true``: the checkpoint holds the stock model that the same command trains."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import yaml

from yolo_uncert import YOLO
from yolo_uncert.engine.info import describe_model
from yolo_uncert.engine.retrofit import branch_parameters

BORDER = {"finer": True, "finer_channels": 4, "beside": 0.1}
SECTIONS = {
    "detect": {"gaussian": {"spread": True}, "dfl": {}, "iou_aware": {"reads": "border"}, "border": BORDER},
    "obb": {"gaussian": {"spread": True}, "dfl": {}, "iou_aware": {}, "border": {**BORDER, "turn": True}},
}
"""What the recommended yamls have, with fewer channels."""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "obb"])
def test_the_detector_is_the_stock_model_bit_for_bit(tiny, tmp_path, task):
    base = {"base": tiny.yaml("stock"), "task": task}
    found, fresh, trainers = {}, {}, {}
    ours = {"uncertainty": SECTIONS[task]}
    for name, keys in (("stock", {}), ("apart", {**ours, "detach": True}), ("joined", {**ours, "detach": False})):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**base, **keys}), encoding="utf-8")
        model = YOLO(file)
        model.add_callback("on_train_start", lambda t, name=name: fresh.update({name: deepcopy(t.model)}))
        trainers[name] = tiny.train(model, f"{task}-{name}", task, epochs=2, val=False, save=False)
        found[name] = YOLO(trainers[name].last).model.float()
    given = found["stock"].state_dict()
    apart, joined = (found[name].state_dict() for name in ("apart", "joined"))
    assert all(torch.equal(value, apart[name]) for name, value in given.items())
    assert not all(torch.equal(value, joined[name]) for name, value in given.items())
    assert found["apart"].model[-1].detach, "the checkpoint knows"
    assert "; detach=True" in describe_model(YOLO(trainers["apart"].last))
    started, ended = (branch_parameters(model) for model in (fresh["apart"], found["apart"]))
    for rate, parameters in ended.items():
        assert not any(map(torch.equal, started[rate], parameters)), "the branches have learned"
