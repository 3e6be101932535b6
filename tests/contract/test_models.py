"""Stock models: what ``parse_model`` accepts, what a model dict may hold, how a criterion comes to be."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.head import OBB, OBB26, Detect
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG, ROOT, YAML

pytestmark = pytest.mark.seam("nn/models.py")


def model_dict(name="yolo11.yaml"):
    (file,) = (ROOT / "cfg" / "models").rglob(name)
    return {**YAML.load(file), "scale": "n"}


def test_parse_model_still_needs_a_stand_in_for_a_head_of_ours():
    cfg = model_dict()
    cfg["head"][-1][2] = "UncertDetect"
    with pytest.raises(KeyError, match="UncertDetect"):
        DetectionModel(cfg, verbose=False)


@pytest.mark.seam("nn/models.py", "nn/build.py")
def test_a_dict_builds_a_model_that_keeps_it_as_yaml():
    cfg = {**model_dict(), "uncertainty": {"gaussian": {}}}
    model = DetectionModel(deepcopy(cfg), ch=4, nc=7, verbose=False)
    assert (model.yaml["nc"], model.yaml["channels"]) == (7, 4)
    assert model.yaml["uncertainty"] == {"gaussian": {}}
    assert model.yaml["head"][-1][2] == "Detect"
    assert next(model.parameters()).shape[:2] == (16, 4), "scale n: 64 channels * 0.25"
    assert len(model.names) == 7


@pytest.mark.seam("nn/models.py", "nn/branched.py", "nn/heads.py", "engine/train.py", "engine/schemas.py")
@pytest.mark.parametrize(
    ("kind", "head"), [("detect", Detect), ("obb", OBB), ("detect-e2e", Detect), ("obb-e2e", OBB26)]
)
@torch.no_grad()
def test_the_head_is_the_last_layer_of_a_sequential_and_replaceable(stock, kind, head):
    model, image = stock(kind), torch.rand(1, 3, 64, 64)
    assert type(model.model[-1]) is head
    want = model(image)[0]
    model.model = type(model.model)(*model.model)
    assert model(image)[0].equal(want)
    model.model[-1] = deepcopy(model.model[-1])
    assert model(image)[0].equal(want)


@pytest.mark.seam("nn/yamls.py")
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("yolov5.yaml", "Detect"),
        ("yolov8.yaml", "Detect"),
        ("yolo11.yaml", "Detect"),
        ("yolo26.yaml", "Detect"),
        ("yolov8-obb.yaml", "OBB"),
        ("yolo11-obb.yaml", "OBB"),
        ("yolo26-obb.yaml", "OBB26"),
    ],
)
def test_shipped_yamls_end_in_a_head_row_that_we_know(name, head):
    cfg = model_dict(name)
    assert cfg["head"][-1][2:] == [head, ["nc"] if head == "Detect" else ["nc", 1]]
    assert ("yolo26" in name) == (cfg.get("reg_max") == 1) == bool(cfg.get("end2end")), "end-to-end bases have no DFL"


def test_criterion_comes_lazily_from_init_criterion(stock, batch):
    model, asked = stock("detect").train(), []

    def criterion(preds, labels):
        asked.append("call")
        return torch.zeros(3), {}

    model.init_criterion = lambda: asked.append("init") or criterion
    model.criterion = None
    model.loss(batch("detect"))
    model.loss(batch("detect"))
    assert asked == ["init", "call", "call"]


@pytest.mark.seam("nn/models.py", "engine/train.py", "nn/weights.py")
def test_load_and_state_dict_go_by_name_and_shape(stock):
    donor, model = stock("detect"), stock("detect")
    assert "model.0.conv.weight" in model.state_dict()
    model.model[-1].cv_x = nn.Conv2d(1, 1, 1)
    model.load(donor, verbose=False)
    ours = model.state_dict()
    assert all(ours[name].equal(value) for name, value in donor.state_dict().items())


@pytest.mark.seam("nn/models.py", "nn/branched.py", "nn/heads.py")
@pytest.mark.parametrize("kind", ["detect", "obb", "detect-e2e", "obb-e2e"])
def test_a_stock_model_with_branches_gives_the_same_boxes_and_scores(stock, kind):
    from yolo_uncert.nn.models import MODELS

    model, image = stock(kind), torch.rand(1, 3, 64, 64)
    want = model(image)[0]
    extended = MODELS[kind.removesuffix("-e2e")].from_stock(model, {"gaussian": {}, "iou_aware": {}})
    got = extended.eval()(image)[0]
    assert got.shape[1] == want.shape[1] + (8 if "obb" in kind else 5), "without nms=False no head selects"
    assert got[:, :7].equal(want[:, :7])
    assert got[:, -1].equal(want[:, -1]) == ("obb" in kind), "the angle stays last"


@pytest.mark.seam("nn/models.py", "model.py")
def test_default_settings_hold_the_gains_that_the_criteria_read():
    assert {"box", "cls", "dfl", "epochs"} <= vars(DEFAULT_CFG).keys()


def test_every_way_to_run_a_model_passes_through_one_method(stock, monkeypatch):
    model, calls = stock("detect"), []
    inner = DetectionModel._predict_once
    monkeypatch.setattr(
        DetectionModel, "_predict_once", lambda self, x, *a, **k: calls.append(len(x)) or inner(self, x, *a, **k)
    )
    image = torch.rand(2, 3, 64, 64)
    model(image)
    model.predict(image)
    model.predict(image, embed=[4])
    assert calls == [2, 2, 2]


def test_an_embedding_is_made_without_the_layers_behind_it(stock):
    model, ran = stock("detect"), []
    for layer in model.model:
        layer.register_forward_hook(lambda layer, *_: ran.append(layer.i))
    last = len(model.model) - 2
    model.eval().predict(torch.zeros(1, 3, 256, 256), embed=[last])
    assert ran == list(range(last + 1))
