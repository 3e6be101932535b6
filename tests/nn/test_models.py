"""Models: built from yamls or on a trained stock model, and rebuilt from what a checkpoint keeps."""

from __future__ import annotations

import copy

import pytest
import torch
import yaml
from torch.testing import assert_close
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.nn.tasks import DetectionModel, OBBModel, guess_model_task
from ultralytics.utils import DEFAULT_CFG
from ultralytics.utils.loss import E2ELoss

from yolo_uncert.losses.context import LATER
from yolo_uncert.losses.criterion import UncertDetectionLoss, UncertOBBLoss
from yolo_uncert.nn.heads import UncertDetect, UncertOBB, UncertOBB26
from yolo_uncert.nn.models import MODELS, UncertDetectionModel, UncertOBBModel, finer_map
from yolo_uncert.options import OptionError

CASES = [
    ("yolo11n.yaml", "detect", {"gaussian": {}, "dfl": {}, "quality": {}, "qfl": {}, "iou_aware": {}, "kld": {}}),
    ("yolov5n.yaml", "obb", {"gaussian": {}, "quality": {}, "iou_aware": {}}),
    ("yolo26n.yaml", "detect", {"gaussian": {}, "iou_aware": {}}),
    ("yolo26n.yaml", "obb", {"gaussian": {}, "kld": {}}),
    ("yolov8n.yaml", "obb", {"gaussian": {}, "border": {"refine": False, "finer": True}}),
]
FINER = {"gaussian": {"detach_features": False}, "border": {"finer": True}}
EACH = pytest.mark.parametrize(("base", "task", "uncertainty"), CASES)


@EACH
def test_one_seed_gives_the_same_stock_weights_as_the_stock_model(build, base, task, uncertainty):
    stock, state = build(base, task), torch.random.get_rng_state()
    model = build(base, task, uncertainty)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in stock.state_dict().items())
    assert torch.equal(model.stride, stock.stride)
    assert model.names == stock.names


@EACH
def test_the_yaml_in_a_checkpoint_rebuilds_the_architecture(build, base, task, uncertainty):
    model = build(base, task, uncertainty)
    stored = yaml.safe_load(yaml.safe_dump(model.yaml))  # plain types only
    again = MODELS[task](stored, verbose=False)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert again.yaml == model.yaml
    assert again.model[-1].schema == model.model[-1].schema
    assert type(again.model[-1]) is type(model.model[-1])
    for_other_classes = MODELS[task](stored, nc=5, verbose=False)
    assert for_other_classes.model[-1].nc == for_other_classes.yaml["nc"] == 5
    assert stored["nc"] == 3


@EACH
def test_ultralytics_guesses_the_task(build, base, task, uncertainty):
    model = build(base, task, uncertainty)
    del model.args
    assert guess_model_task(model.yaml) == guess_model_task(model) == task


@EACH
def test_the_criterion_is_ours(build, base, task, uncertainty):
    criterion = build(base, task, uncertainty).init_criterion()
    ours = {"detect": UncertDetectionLoss, "obb": UncertOBBLoss}[task]
    parts = (criterion.one2many, criterion.one2one) if "26" in base else (criterion,)
    assert isinstance(criterion, E2ELoss) == ("26" in base)
    assert all(type(part) is ours for part in parts)


@EACH
def test_from_stock_gives_a_trained_model_branches_and_leaves_it_alone(
    build, perturb, make_batch, base, task, uncertainty
):
    stock = perturb(build(base, task))
    image = make_batch(task)["img"]
    with torch.no_grad():
        expected = stock(image)[0]
    content, names = copy.deepcopy(stock.yaml), set(stock.state_dict())
    state = torch.random.get_rng_state()
    model = MODELS[task].from_stock(stock, uncertainty)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = dict(model.named_parameters())
    assert all(weights[name] is parameter for name, parameter in stock.named_parameters())
    assert type(model.model[-1]) in (UncertDetect, UncertOBB, UncertOBB26)
    assert stock.yaml == content
    assert set(stock.state_dict()) == names
    with torch.no_grad():
        assert torch.equal(stock(image)[0], expected)
        y = model(image)[0]
    assert torch.equal(y[:, :7], expected[:, :7])
    rebuilt = MODELS[task](model.yaml, verbose=False)
    assert rebuilt.state_dict().keys() == model.state_dict().keys()
    loss, _ = model.train().loss(make_batch(task))
    assert loss.isfinite().all()
    assert not hasattr(stock, "criterion")


@pytest.mark.parametrize(
    ("base", "layer", "stride"),
    [
        ("yolov5n.yaml", 2, 4),
        ("yolov8n.yaml", 2, 4),
        ("yolo11n.yaml", 2, 4),
        ("yolo12n.yaml", 2, 4),
        ("yolo26n.yaml", 2, 4),
        ("yolov8n-p6.yaml", 2, 4),
        ("yolov8n-p2.yaml", 0, 2),
    ],
)
def test_a_finer_map_is_the_backbones_of_twice_the_resolution_of_the_heads_finest(build, base, layer, stride):
    stock = build(base, "detect").train()
    stock.model[0].bn.eval()
    before, seen = copy.deepcopy(stock.state_dict()), []
    found, channels = finer_map(stock)
    assert found == layer
    assert all(torch.equal(value, before[name]) for name, value in stock.state_dict().items())
    assert [m for m in stock.modules() if not m.training] == [stock.model[0].bn]
    model = UncertDetectionModel.from_stock(stock, FINER).eval()
    head = model.model[-1]
    head.register_forward_pre_hook(lambda head, args: seen.extend((len(args[0]), head.finer)))
    model(torch.rand(1, 3, 192, 128))
    assert seen[0] == len(stock.stride), "to Ultralytics the inputs of the head are its levels"
    assert seen[1].shape == (1, channels, 192 // stride, 128 // stride)
    assert DistillationModel.get_distill_layers(model) == DistillationModel.get_distill_layers(stock)


def test_a_head_of_few_small_strides_has_a_finer_map_too(build):
    full = build("yolov8n.yaml", "detect").yaml
    head = [*full["head"][:-1], [[15], 1, "Detect", ["nc"]]]
    model = UncertDetectionModel({**full, "head": head, "uncertainty": FINER}, verbose=False)
    assert (model.stride.tolist(), model.model[-1].finer_layer) == ([8.0], 2)


def test_nothing_of_the_finer_map_is_left_behind(build, monkeypatch):
    model, image = build("yolo11n.yaml", "detect", FINER).eval(), torch.rand(1, 3, 64, 64)
    head = model.model[-1]

    def check():
        assert head.finer is None
        assert not any(layer._forward_hooks for layer in model.model)

    model(image)
    check()
    model.predict(image, embed=[4])  # which stops before the head
    check()
    monkeypatch.setattr(head, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(image)
    check()


def test_one_to_one_heads_send_no_gradient_to_the_finer_map(build, make_batch):
    model = build("yolo26n.yaml", "detect", FINER).train()
    preds, backbone = model(make_batch("detect")["img"]), model.model[2].cv1.conv.weight
    for name, reached in (("one2one", False), ("one2many", True)):
        own = preds[name][LATER](preds[name], torch.ones(2, 84, dtype=torch.bool))["gaussian"]
        (grad,) = torch.autograd.grad(own.sum(), backbone, retain_graph=True, allow_unused=True)
        assert (grad is not None and bool(grad.any())) == reached


def test_a_checkpoint_knows_of_the_finer_map(build, perturb, tmp_path):
    model = perturb(build("yolo11n.yaml", "detect", FINER))
    torch.save({"model": model}, tmp_path / "model.pt")
    again, image = torch.load(tmp_path / "model.pt", weights_only=False)["model"], torch.rand(1, 3, 64, 64)
    fused = copy.deepcopy(model).fuse(verbose=False)
    with torch.no_grad():
        expected = model(image)[0]
        assert torch.equal(again(image)[0], expected)
        assert_close(fused(image)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_branch_that_weights_fit_in_part_is_named(build, caplog):
    trained = build("yolov8n.yaml", "obb", {"gaussian": {}, "border": {}})
    for weights in (trained, {"model": trained}, {"ema": trained, "model": None}):
        model = build("yolov8n.yaml", "obb", {"gaussian": {}, "border": {"turn": True, "beside": 0.15}}, seed=1)
        caplog.clear()
        model.load(weights, verbose=False)
        (message,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert "a part of the branch border, of a model with other options: " in message
        names = [f"model.22.cv_border.{name}" for name in ("2.weight", "4.bias", "4.weight")]
        assert f"options: {', '.join(names)} start anew" in message
    caplog.clear()
    for uncertainty in (
        {"gaussian": {}, "border": {}},
        {"gaussian": {}},
        {"gaussian": {}, "border": {}, "iou_aware": {}},
    ):
        build("yolov8n.yaml", "obb", uncertainty, seed=1).load(trained, verbose=False)
    assert "a part of the branch" not in caplog.text


def test_from_stock_forgets_the_criterion_of_the_stock_model(build, make_batch):
    stock = build("yolo11n.yaml", "detect")
    stock.loss(make_batch("detect"))
    model = UncertDetectionModel.from_stock(stock, {"iou_aware": {}})
    _, items = model.loss(make_batch("detect"))
    assert "iou_loss" in items
    assert "iou_loss" not in stock.loss(make_batch("detect"))[1]


def test_from_stock_refuses_other_heads_and_branches_that_do_not_fit():
    v10 = DetectionModel("yolov10n.yaml", verbose=False)
    with pytest.raises(OptionError, match="a head v10Detect cannot carry uncertainty branches"):
        UncertDetectionModel.from_stock(v10, {"gaussian": {}})
    without_dfl = DetectionModel("yolo26n.yaml", verbose=False)
    with pytest.raises(OptionError, match=r"uncertainty\.dfl: this head .* \(reg_max: 1\)"):
        UncertDetectionModel.from_stock(without_dfl, {"dfl": {}})


def test_an_oriented_stock_model_gets_an_oriented_head():
    model = UncertOBBModel.from_stock(OBBModel("yolo11n-obb.yaml", nc=2, verbose=False), {"dfl": {}})
    assert type(model.model[-1]) is UncertOBB
    assert model.yaml["head"][-1][2] == "UncertOBB"


def test_a_yaml_with_a_backbone_of_its_own(tmp_path, make_batch):
    path = tmp_path / "yolo7s-mine.yaml"
    path.write_text(
        """
        nc: 3
        scales: {n: [1.0, 1.0, 1024], s: [1.0, 2.0, 1024]}
        backbone:
          - [-1, 1, Conv, [16, 3, 2]]
          - [-1, 1, Conv, [16, 3, 4]]
          - [-1, 1, Conv, [32, 3, 2]]
        head:
          - [[1, 2], 1, UncertOBB, [nc, 1]]
        uncertainty:
          gaussian: {gain: 0.5}
          iou_aware: {}
        """
    )
    model = UncertOBBModel(path, verbose=False)
    assert model.model[0].conv.out_channels == 32  # 16 times the width 2 of scale s in the file name
    assert model.model[-1].branches[0].options.gain == 0.5
    assert model.stride.tolist() == [8, 16]
    model.args = DEFAULT_CFG
    loss, items = model.loss(make_batch("obb"))
    assert loss.isfinite().all()
    assert list(items)[-2:] == ["gauss_loss", "iou_loss"]


def test_a_model_without_a_finer_map_says_so(tmp_path):
    path = tmp_path / "mine.yaml"
    rows = "[[-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [16, 3, 4]]]"
    section = "{gaussian: {}, border: {finer: true}}"
    path.write_text(f"nc: 3\nbackbone: {rows}\nhead: [[[1], 1, Detect, [nc]]]\nuncertainty: {section}\n")
    with pytest.raises(OptionError, match=r"^mine\.yaml: uncertainty\.border: finer: true needs a backbone layer with"):
        UncertDetectionModel(path, verbose=False)


def test_errors_of_a_head_name_the_file(tmp_path):
    path = tmp_path / "yolo26n-mine.yaml"
    path.write_text("base: yolo26.yaml\nuncertainty:\n  dfl: {}\n")
    with pytest.raises(OptionError, match=r"^yolo26n-mine\.yaml: uncertainty\.dfl: this head predicts distances"):
        UncertDetectionModel(path, verbose=False)


@pytest.mark.parametrize("cfg", ["yolo11n.yaml", {"base": "yolo11n.yaml"}])
def test_a_stock_yaml_has_no_place_here(cfg):
    with pytest.raises(OptionError, match=r"^(yolo11n\.yaml|model yaml) has no uncertainty: section"):
        UncertDetectionModel(cfg, verbose=False)


def test_the_dict_given_is_left_alone():
    cfg = {"base": "yolo11n.yaml", "uncertainty": {"gaussian": {}}}
    model = UncertDetectionModel(cfg, nc=4, verbose=False)
    assert cfg == {"base": "yolo11n.yaml", "uncertainty": {"gaussian": {}}}
    model.yaml["uncertainty"]["gaussian"]["gain"] = 2.0
    assert cfg["uncertainty"] == {"gaussian": {}}


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("detach", [True, False])
def test_the_variance_term_reaches_box_branch_and_backbone_only_on_request(build, make_batch, task, detach):
    options = {"detach_mean": detach, "detach_features": detach}
    model = build("yolo11n.yaml", task, {"gaussian": options})
    vector, items = model.loss(make_batch(task))
    assert list(items)[-1] == "gauss_loss"
    vector[-1].backward()
    head = model.model[-1]
    shared = [p for name, p in model.named_parameters() if "cv_gaussian" not in name and p.requires_grad]
    assert any(p.grad.any() for p in head.cv_gaussian.parameters())
    if detach:
        assert all(p.grad is None or not p.grad.any() for p in shared)
    else:
        assert any(p.grad.any() for p in head.cv2.parameters())
        assert model.model[0].conv.weight.grad.any()


@pytest.mark.parametrize(("option", "reached"), [("detach_mean", "features"), ("detach_features", "mean")])
def test_the_two_detaching_options_are_independent(build, make_batch, option, reached):
    options = {"detach_mean": False, "detach_features": False, option: True}
    model = build("yolo11n.yaml", "detect", {"gaussian": options})
    model.loss(make_batch("detect"))[0][-1].backward()
    last, hidden = model.model[-1].cv2[0][-1], model.model[-1].cv2[0][0]
    # the last convolution makes the mean; what comes before it makes mean and variance
    assert (last.weight.grad is not None and bool(last.weight.grad.any())) == (reached == "mean")
    assert hidden.conv.weight.grad.any()


def test_autocast_trains_with_float32_losses(build, make_batch):
    model = build("yolo11n.yaml", "obb", {"gaussian": {}, "iou_aware": {}, "qfl": {}, "kld": {}})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, items = model.loss(make_batch("obb"))
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert all(v.isfinite() for v in items.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
