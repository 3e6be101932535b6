from __future__ import annotations

import pytest
import torch

from yolo_uncert import YOLO
from yolo_uncert.engine.retrofit import branch_parameters, check_outputs, check_transferred, compare_names, stock_layers
from yolo_uncert.nn.build import build_model
from yolo_uncert.nn.yamls import resolve
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
    data = tiny.yaml("detect", "gaussian")
    model = YOLO(data)
    options = {"pretrained": stock} if start == "pretrained" else {}
    if start == "load":
        model.load(stock)
    trainer = tiny.train(model, f"retrofit-{start}", retrofit=True, **{**ONE, "epochs": 2}, **options)
    before, after = tensors(stock), tensors(str(trainer.best))
    assert frozen(after).keys() == before.keys()
    for name, value in frozen(after).items():
        assert torch.equal(value, before[name]), name
    fresh = build_model(data, "detect", nc=2).state_dict()
    branch = after.keys() - before.keys()
    assert len(branch) == 6
    assert not any(torch.equal(after[name], fresh[name]) for name in branch if name.endswith("bias"))


def test_retrofit_with_a_second_look_at_the_sides(tiny):
    stock, data = tiny.weights("stock"), tiny.yaml("detect", "gaussian", "border")
    trainer = tiny.train(YOLO(data), "retrofit-border", pretrained=stock, retrofit=True, **ONE)
    before, after = tensors(stock), tensors(str(trainer.best))
    for name, value in frozen(after).items():
        assert torch.equal(value, before[name]), name
    fresh = build_model(data, "detect", nc=2).state_dict()
    # Those that do not start from random numbers: all others differ from fresh ones by themselves.
    ends = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "cv_border.3.bias")
    constant = [name for name in after if ".cv_border." in name and name.endswith(ends)]
    assert len(constant) == 5
    assert [name for name in constant if torch.equal(after[name], fresh[name])] == []


def test_retrofit_of_an_end_to_end_model(tiny):
    options = {"pretrained": tiny.weights("e2e"), "retrofit": True}
    trainer = tiny.train(YOLO(tiny.yaml("e2e")), "retrofit-e2e", **options, **ONE)
    trainable = {n.split(".")[2] for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert trainable == {"cv_gaussian", "cv_iou_aware", "one2one_cv_gaussian", "one2one_cv_iou_aware"}


@pytest.mark.parametrize("model", ["stock.pt", "yolov8n-dfl.yaml"])
def test_retrofit_needs_branches(tiny, model):
    model = tiny.weights("stock") if model == "stock.pt" else model
    with pytest.raises(
        OptionError, match="retrofit=True trains only the uncertainty branches, but this model has none"
    ):
        tiny.train(YOLO(model), "retrofit-none", retrofit=True, **ONE)


def head_of(uncertainty):
    return build_model(resolve({"base": "yolov8n.yaml", "uncertainty": uncertainty}), "detect", nc=2).model[-1]


def test_branches_that_take_part_in_scores_are_named(caplog):
    check_outputs(head_of({"gaussian": {}, "dfl": {}}))
    assert "scores" not in caplog.text
    check_outputs(head_of({"gaussian": {}, "iou_aware": {}, "quality": {}}))
    assert "the branch iou_aware and quality takes part in the scores" in caplog.text
    check_outputs(head_of({"gaussian": {}, "border": {"refine": False}}))
    assert "moves the boxes" not in caplog.text
    check_outputs(head_of({"border": {}}))
    assert "the branch border moves the boxes" in caplog.text


def test_a_decoding_that_moves_the_boxes_is_refused():
    with pytest.raises(OptionError, match=r"dfl: {decode: peak} would move them"):
        check_outputs(head_of({"gaussian": {}, "dfl": {"decode": "peak"}}))


@pytest.mark.parametrize(
    ("branches", "options"), [(("gaussian",), {}), (("gaussian", "dfl", "iou_aware"), {"iou_alpha": 1.0})]
)
def test_boxes_and_scores_are_those_of_the_detector(tiny, branches, options):
    stock = tiny.weights("stock")
    trainer = tiny.train(YOLO(tiny.yaml("detect", *branches)), "retrofit-same", pretrained=stock, retrofit=True, **ONE)
    image = str(sorted((tiny.data("detect").parent / "images" / "train").iterdir())[1])
    quiet = {"imgsz": 64, "conf": 1e-4, "verbose": False, "device": "cpu"}
    before = YOLO(stock)(image, **quiet)[0].boxes.data
    assert len(before) > 1
    assert torch.equal(YOLO(trainer.last)(image, **quiet, **options)[0].boxes.data, before)


def test_classes_of_other_names_are_mentioned(caplog):
    compare_names({0: "disc", 1: "plate"}, {0: "Plate"})
    compare_names({}, {0: "plate"})
    assert not caplog.messages
    compare_names({0: "disc", 1: "plate"}, {0: "cat", 1: "dog"})
    assert "taken by number, 'cat' is what the detector calls 'disc'" in caplog.text


def test_retrofit_needs_every_other_weight(tiny):
    model = YOLO(tiny.yaml("detect", "gaussian"))
    with pytest.raises(OptionError, match=r"yet (\d+) of \1 tensors .* have no pretrained value: give"):
        tiny.train(model, "retrofit-bare", retrofit=True, **ONE)


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
    model = build_model(tiny.yaml("detect", "gaussian"), "detect", nc=len(names))
    model.names = names
    model.load(given)
    if fits:
        check_transferred(model, given.state_dict())
    else:
        with pytest.raises(OptionError, match=r"yet 6 of \d+ tensors \(model.7.cv3.2.2.bias, ...\)"):
            check_transferred(model, given.state_dict())


def test_frozen_layers_are_everything_but_the_branches():
    model = build_model("yolo26n-light.yaml", "detect", nc=2)
    names = stock_layers(model)
    frozen = {n for n, _ in model.named_parameters() if any(f"model.{layer}." in n for layer in names)}
    own = {id(p) for group in branch_parameters(model).values() for p in group}
    assert {n for n, p in model.named_parameters() if id(p) not in own} == frozen
