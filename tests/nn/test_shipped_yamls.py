"""Every shipped model yaml: builds, trains, fuses, predicts, and stays about as large as the stock model."""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import PurePosixPath

import pytest
import torch
from torch import nn
from ultralytics.utils import DEFAULT_CFG

from yolo_uncert.nn.build import build_model, task_of
from yolo_uncert.nn.yamls import load_model_yaml, resolve
from yolo_uncert.paths import find_asset, list_assets

NAMES = [PurePosixPath(name).name for name in list_assets("models")]
SMALLEST = {name: re.sub(r"^(yolov?\d+)", r"\1n", name) for name in NAMES}


@cache
def model_of(name: str):
    """The model of smallest scale, built once for all tests."""
    torch.manual_seed(0)
    full = load_model_yaml(SMALLEST[name])
    model = build_model(full, task_of(full), nc=3)
    model.args = DEFAULT_CFG
    return model


@cache
def stock_size(base: str, task: str) -> int:
    model = build_model(resolve({"base": base, "scale": "n", "task": task}), task, nc=3)
    return size_of(model)


def size_of(model: nn.Module) -> int:
    """Return the parameters of one head: an end-to-end model has a twin of it in training, which fusing drops."""
    return sum(p.numel() for name, p in model.named_parameters() if ".one2one_" not in name)


def text_of(name: str) -> str:
    return find_asset(name, "models").read_text(encoding="utf-8")


each_yaml = pytest.mark.parametrize("name", NAMES)


def test_all_families_tasks_and_branches_are_there():
    assert len(NAMES) == len(set(NAMES)) == 56
    everywhere = {"gaussian", "iou-aware", "kld", "uncert", "light"}
    for family in ("yolo11", "yolov8", "yolov5", "yolo26"):
        for variant in everywhere | (set() if family == "yolo26" else {"dfl", "gfl"}):
            assert {f"{family}-{variant}.yaml", f"{family}-obb-{variant}.yaml"} <= set(NAMES)
        assert f"{family}-border.yaml" in NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-uncert.yaml")])
def test_the_recommended_ones_look_twice_and_leave_the_detector_alone(name):
    """The recipe that docs/measured.md reads its goal on."""
    full = load_model_yaml(SMALLEST[name])
    assert full["detach"] is True
    assert {"gaussian", "iou_aware", "border"} <= full["uncertainty"].keys()
    assert full["uncertainty"]["border"]["finer"]
    assert full["uncertainty"]["border"].get("turn", False) == ("-obb" in name)


@each_yaml
def test_its_comment_names_a_scale_that_loads(name):
    assert f"# Scale letter in the name: {SMALLEST[name]}" in text_of(name)
    for scale in "nsmlx":
        assert load_model_yaml(re.sub(r"^(yolov?\d+)", rf"\1{scale}", name))["scale"] == scale


@each_yaml
def test_it_trains_one_batch(name, make_batch):
    model, task = copy.deepcopy(model_of(name)), "obb" if "-obb" in name else "detect"
    loss, items = model.train().loss(make_batch(task))
    assert loss.isfinite().all()
    assert len(loss) == len(items)
    assert {k for k in items if not k.endswith("_loss")} == set()
    loss.sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
    for key, modules in model.model[-1].named_children():
        if "cv_" in key:  # a level without an object has no gradient
            assert any(p.grad.any() for p in modules.parameters()), key
    ours = {
        "gauss_loss": "gaussian",
        "iou_loss": "iou_aware",
        "kld_loss": "kld",
        "qfl_loss": "qfl",
        "border_loss": "border",
    }
    assert {ours[k] for k in items if k in ours} == model.yaml["uncertainty"].keys() & set(ours.values())


@each_yaml
def test_it_predicts_fused_or_not_in_the_shape_of_its_schema(name, make_batch):
    model, task = model_of(name), "obb" if "-obb" in name else "detect"
    image, angle = make_batch(task)["img"], int(task == "obb")
    schema = model.model[-1].schema
    assert (schema.task, schema.nc) == (task, 3)
    fused = copy.deepcopy(model).eval().fuse(verbose=False)
    with torch.no_grad():
        for m in (model.eval(), fused):
            y = m(image)[0]
            assert y.shape == (2, 4 + 3 + schema.channels + angle, 84)  # 64 + 16 + 4 anchors
            assert y.isfinite().all()
    for field, channels in schema.split(y[:, 7:].mT).items():
        positive = channels[..., :5] if field == "gaussian" else channels
        assert (positive > 0).all(), field


@each_yaml
def test_it_is_hardly_larger_than_the_stock_model(name):
    base = re.search(r"^base: (\S+)$", text_of(name), re.MULTILINE)[1]
    size = size_of(model_of(name))
    stock = stock_size(base, "obb" if "-obb" in name else "detect")
    assert stock <= size <= 1.03 * stock


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("yolo26")])
def test_the_one_to_one_head_predicts_too(name, make_batch):
    model, task = copy.deepcopy(model_of(name)).eval(), "obb" if "-obb" in name else "detect"
    model.end2end = True
    with torch.no_grad():
        y = model(make_batch(task)["img"])[0]
        fused = model.fuse(verbose=False)(make_batch(task)["img"])[0]
    assert y.shape == fused.shape == (2, 84, 6 + model.model[-1].schema.channels + (task == "obb"))
    assert fused.isfinite().all()
