"""A model yaml with ``detach: true``: the branches learn, and the detector as if they were not there."""

from __future__ import annotations

import pytest
import torch
from ultralytics.utils import YAML

from yolo_uncert.engine.retrofit import branch_parameters
from yolo_uncert.losses.context import LATER
from yolo_uncert.nn.branches import BRANCHES
from yolo_uncert.nn.build import build_model
from yolo_uncert.nn.models import MODELS
from yolo_uncert.nn.yamls import resolve
from yolo_uncert.options import OptionError
from yolo_uncert.paths import find_asset, list_assets

RECOMMENDED = [name for name in list_assets("models") if name.endswith("-uncert.yaml")]
TEACHING = {"kld": {}, "qfl": {}, "quality": {}, "gaussian": {"detach_mean": False}, "iou_aware": {"grad_target": True}}
"""Branches and options that change the training of the detector by more than its features."""


def section(task: str) -> dict:
    """Every branch that fits YOLOv8 and does not teach, with the options that read most."""
    border = {"finer": True, "finer_channels": 3, "beside": 0.1, "turn": task == "obb"}
    return {"gaussian": {"spread": True}, "dfl": {}, "iou_aware": {}, "border": border}


def gradients(model, batch):
    """Gradients of a training step by name, those of the branches apart."""
    loss = model.train().loss(batch)[0].sum()
    loss.backward()
    ours = {id(p) for group in branch_parameters(model).values() for p in group}
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    names = {n for n, p in model.named_parameters() if id(p) in ours}
    return {n: g for n, g in found.items() if n not in names}, {n: g for n, g in found.items() if n in names}


@pytest.mark.parametrize("name", RECOMMENDED)
def test_the_detector_has_the_gradients_of_the_stock_model_bit_for_bit(build, make_batch, name):
    content = YAML.load(find_asset(name, "models"))
    base, task, branches_of = content["base"], "obb" if "obb" in name else "detect", content["uncertainty"]
    assert content["detach"] is True
    stock, _ = gradients(build(base, task), make_batch(task))
    detached, branches = gradients(build(base, task, branches_of, detach=True), make_batch(task))
    assert stock.keys() == detached.keys()
    assert all(torch.equal(stock[name], detached[name]) for name in stock)
    assert sum(g.abs().sum() for g in branches.values()) > 0
    attached, _ = gradients(build(base, task, branches_of), make_batch(task))
    assert not all(torch.equal(stock[name], attached[name]) for name in stock), "without the key they take part"


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_in_mixed_precision_the_detector_is_the_stock_model_too_and_the_branches_are_exact(build, make_batch, task):
    plain, model = build("yolov8n.yaml", task), build("yolov8n.yaml", task, section(task), detach=True)
    with torch.autocast("cpu", torch.bfloat16):
        stock, _ = gradients(plain, make_batch(task))
        detached, _ = gradients(model, make_batch(task))
        preds = model(make_batch(task)["img"])
        found = preds[LATER](preds, torch.ones(2, 84, dtype=torch.bool))
    assert preds["boxes"].dtype == torch.bfloat16
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert all(torch.equal(stock[name], detached[name]) for name in stock)


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_the_branches_have_the_gradients_that_they_have_anyway(build, make_batch, task):
    _, detached = gradients(build("yolov8n.yaml", task, section(task), detach=True), make_batch(task))
    _, attached = gradients(build("yolov8n.yaml", task, section(task)), make_batch(task))
    assert detached.keys() == attached.keys()
    for name, gradient in detached.items():
        torch.testing.assert_close(gradient, attached[name])


@pytest.mark.parametrize("name", TEACHING)
def test_what_changes_the_detector_otherwise_is_refused(build, name):
    with pytest.raises(OptionError, match=rf"uncertainty\.{name}: detach: true leaves .* would change it; leave out"):
        build("yolov8n.yaml", "detect", {name: TEACHING[name]}, detach=True)
    build("yolov8n.yaml", "detect", {name: TEACHING[name]}, detach=False)


def test_all_branches_are_either_allowed_or_refused(build):
    for name in BRANCHES:
        if name in TEACHING and not TEACHING[name]:
            continue
        wanted = {"gaussian": {}, name: {"refine": False} if name == "border" else {}}
        assert build("yolov8n.yaml", "detect", wanted, detach=True).model[-1].detach


def test_the_key_is_a_yes_or_a_no(build):
    full = {**build("yolov8n.yaml", "detect").yaml, "uncertainty": {"gaussian": {}}}
    for cfg in ({"base": "yolov8n.yaml", "uncertainty": {"gaussian": {}}}, full):
        with pytest.raises(OptionError, match="detach"):
            resolve({**cfg, "detach": "no"})
        with pytest.raises(OptionError, match="did you mean 'detach'"):
            resolve({**cfg, "detatch": True})
    assert resolve({**full, "depth": 1})["depth"] == 1, "a key of somebody else's, though it looks alike"


def test_a_full_yaml_and_a_stock_model_may_say_it_too(build):
    stock = build("yolov8n.yaml", "detect")
    full = {**stock.yaml, "detach": True, "uncertainty": {"gaussian": {}}}
    assert build_model(full, "detect").model[-1].detach
    assert not MODELS["detect"].from_stock(stock, {"gaussian": {}}).model[-1].detach
