from __future__ import annotations

import pytest
import torch

from yolo_uncert import YOLO
from yolo_uncert.engine.retrofit import branch_parameters, check_transferred, stock_layers
from yolo_uncert.nn.build import build_model
from yolo_uncert.options import OptionError

ONE = {"epochs": 1, "val": False, "save": True}


def tensors(path):
    """State of a checkpoint's model, loaded with the class that the file names."""
    return YOLO(path).model.float().state_dict()


def frozen(state):
    return {k: v for k, v in state.items() if ".cv_" not in k}


@pytest.mark.parametrize("start", ["pretrained", "load"])
def test_retrofit_trains_the_branches_alone(tiny, start):
    stock = tiny.weights("stock")
    model = YOLO("yolov8n-gaussian.yaml")
    options = {"pretrained": stock} if start == "pretrained" else {}
    if start == "load":
        model.load(stock)
    trainer = tiny.train(model, f"retrofit-{start}", retrofit=True, **{**ONE, "epochs": 2}, **options)
    before, after = tensors(stock), tensors(str(trainer.best))
    assert frozen(after).keys() == before.keys()
    for name, value in frozen(after).items():
        assert torch.equal(value, before[name]), name
    fresh = build_model("yolov8n-gaussian.yaml", "detect", nc=2).state_dict()
    branch = after.keys() - before.keys()
    assert len(branch) == 6
    assert not any(torch.equal(after[name], fresh[name]) for name in branch if name.endswith("bias"))


def test_retrofit_of_an_end_to_end_model(tiny):
    options = {"pretrained": tiny.weights("e2e"), "retrofit": True}
    trainer = tiny.train(YOLO("yolo26n-uncert.yaml"), "retrofit-e2e", **options, **ONE)
    trainable = {n.split(".")[2] for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert trainable == {"cv_gaussian", "cv_iou_aware", "one2one_cv_gaussian", "one2one_cv_iou_aware"}


@pytest.mark.parametrize("model", ["stock.pt", "yolov8n-dfl.yaml"])
def test_retrofit_needs_branches(tiny, model):
    model = tiny.weights("stock") if model == "stock.pt" else model
    with pytest.raises(
        OptionError, match="retrofit=True trains only the uncertainty branches, but this model has none"
    ):
        tiny.train(YOLO(model), "retrofit-none", retrofit=True, **ONE)


def test_retrofit_needs_every_other_weight(tiny):
    with pytest.raises(OptionError, match=r"yet 298 of 298 tensors .* have no pretrained value: give"):
        tiny.train(YOLO("yolov8n-gaussian.yaml"), "retrofit-bare", retrofit=True, **ONE)


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        ({0: "disc", 1: "plate"}, True),
        ({0: "plate", 1: "disc"}, True),  # Ultralytics puts the rows of the scores in this order
        ({0: "plate"}, True),
        ({0: "arrow", 1: "cross"}, True),  # taken to be new names of the same classes
        ({0: "disc", 1: "arrow"}, False),
        ({0: "disc", 1: "plate", 2: "arrow"}, False),
    ],
)
def test_transfer_is_complete_if_every_class_has_its_scores(tiny, names, fits):
    given = YOLO(tiny.weights("stock")).model.float()
    model = build_model("yolov8n-gaussian.yaml", "detect", nc=len(names))
    model.names = names
    model.load(given)
    if fits:
        check_transferred(model, given.state_dict())
    else:
        with pytest.raises(OptionError, match=r"yet 6 of 298 tensors \(model.22.cv3.2.2.bias, ...\)"):
            check_transferred(model, given.state_dict())


def test_frozen_layers_are_everything_but_the_branches():
    model = build_model("yolo26n-uncert.yaml", "detect", nc=2)
    names = stock_layers(model)
    frozen = {n for n, _ in model.named_parameters() if any(f"model.{layer}." in n for layer in names)}
    own = {id(p) for group in branch_parameters(model).values() for p in group}
    assert {n for n, p in model.named_parameters() if id(p) not in own} == frozen
