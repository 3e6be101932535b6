"""Heads with branches: the stock predictions untouched, the extra channels in their place."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.block import DFL
from ultralytics.nn.modules.head import OBB, OBB26, Detect

from yolo_uncert.nn import places
from yolo_uncert.nn.branches import BRANCHES, border
from yolo_uncert.nn.branches.dfl import MomentsDFL
from yolo_uncert.nn.heads import STOCK_TO_UNCERT, UncertDetect, UncertOBB, UncertOBB26
from yolo_uncert.options import OptionError
from yolo_uncert.schema import FIELDS

NEED_DFL = ("dfl", "quality")
BASES = ("yolo11n.yaml", "yolov8n.yaml", "yolov5n.yaml", "yolo26n.yaml")
FITTING = [
    (base, task, branch)
    for base in BASES
    for task in ("detect", "obb")
    for branch in BRANCHES
    if not ("26" in base and branch in NEED_DFL)
]
ALL = {"gaussian": {}, "dfl": {}, "quality": {}, "qfl": {}, "iou_aware": {}, "kld": {}, "border": {}}
WITHOUT_DFL = {"gaussian": {}, "iou_aware": {}}
KINDS = [(UncertDetect, Detect, 16), (UncertOBB, OBB, 16), (UncertOBB26, OBB26, 1)]


def stock_part(y: torch.Tensor, task: str, nc: int = 3) -> torch.Tensor:
    """Box, scores and, from the last channel, the angle."""
    return torch.cat((y[:, : 4 + nc], y[:, -1:]), 1) if task == "obb" else y[:, : 4 + nc]


@pytest.fixture(scope="module")
def stock_models(build, perturb):
    """Stock models by base and task, with a prediction each."""
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    models = {}
    for base in BASES:
        for task in ("detect", "obb"):
            model = perturb(build(base, task))
            with torch.no_grad():
                models[base, task] = model, image, model(image)
    return models


@pytest.mark.parametrize(("base", "task", "branch"), FITTING)
def test_boxes_and_class_logits_equal_the_stock_models_bit_for_bit(build, stock_models, base, task, branch):
    stock, image, (expected, expected_raw) = stock_models[base, task]
    section = {"gaussian": {}, "border": {"refine": False}} if branch == "border" else {branch: {}}
    model = build(base, task, section, seed=1).eval()
    missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected
    assert all(any(f"cv_{name}." in key for name in section) for key in missing)
    with torch.no_grad():
        y, raw = model(image)
    assert torch.equal(stock_part(y, task), expected)
    extra = sum(FIELDS.get(name, {"detect": 0, "obb": 0})[task] for name in section)
    assert y.shape[1] == expected.shape[1] + extra
    assert y.isfinite().all()
    for mine, theirs in _pairs(raw, expected_raw):
        assert torch.equal(mine, theirs)


FINER = {"finer": True, "finer_channels": 6, "beside": 0.15}
"""A border branch whose finer map is mixed at points where few anchors are looked at."""

SECTIONS = [
    (base, task, section)
    for base in BASES
    for task in ("detect", "obb")
    for section in ({"gaussian": {"spread": "26" not in base}}, WITHOUT_DFL if "26" in base else ALL)
] + [
    ("yolov8n.yaml", "detect", {**WITHOUT_DFL, "border": {"candidates": 5}}),
    ("yolov8n.yaml", "obb", {**WITHOUT_DFL, "border": {"candidates": 5, "beside": 0.15, "turn": True}}),
    *(("yolo11n.yaml", task, {"iou_aware": {"reads": "border"}, "border": FINER}) for task in ("detect", "obb")),
    *(
        (base, "detect", {"gaussian": {"spread": True}, **dfl, "border": FINER})
        for base, dfl in (("yolov8n.yaml", {"dfl": {}}), ("yolo11n.yaml", {"dfl": {"decode": "peak"}}))
    ),
]


@torch.no_grad()
@pytest.mark.parametrize(("base", "task", "section"), SECTIONS)
def test_anchors_that_may_count_predict_the_same_alone_and_the_others_are_zero(
    build, perturb, monkeypatch, base, task, section
):
    model = perturb(build(base, task, section))
    head = model.model[-1]
    model.end2end = False
    images = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    whole, _ = model(images)
    best = whole[:, 4:7].amax(1)
    head.least_score = float(best.flatten().sort().values[-6:-4].mean())  # five anchors of 378 count
    counts = best > head.least_score
    for worth in (0, 10**12):  # layers at places, and layers everywhere of which places are taken
        monkeypatch.setattr(places, "WORTH", worth)
        monkeypatch.setattr(border, "DEAR", worth)
        some, raw = model(images)
        assert "parts" in raw.get("one2many", raw)
        torch.testing.assert_close(some.mT[counts], whole.mT[counts], rtol=1e-4, atol=1e-4)
        looked = some[:, 4:7].amax(1) > 0
        assert 5 <= looked.sum() <= 5 + 3 * 2, "and of each image one of a level without any"
        assert not some.mT[~looked].any()
    head.least_score = 1.0
    nothing = model(images)[0]
    assert nothing.shape == whole.shape
    assert not nothing.any()
    head.least_score = 0.0
    assert torch.equal(model(images)[0], whole)


@torch.no_grad()
@pytest.mark.parametrize("task", ["detect", "obb"])
def test_an_end_to_end_head_selects_the_same_of_what_counts(build, perturb, monkeypatch, task):
    monkeypatch.setattr(places, "WORTH", 0)
    model = perturb(build("yolo26n.yaml", task, WITHOUT_DFL))
    model.end2end = True
    model = model.fuse(verbose=False)
    head, images = model.model[-1], torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    whole, _ = model(images)
    head.least_score = float(whole[..., 4].flatten().sort().values[-7]) * 0.999
    some, raw = model(images)
    assert "parts" in raw["one2one"]
    assert some.shape == whole.shape
    chosen = whole[..., 4] > head.least_score
    assert 7 <= chosen.sum() < 30, "of an anchor several classes may be selected"
    torch.testing.assert_close(some[chosen], whole[chosen], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_bound_is_heeded_in_plain_prediction_alone(build, perturb, monkeypatch):
    monkeypatch.setattr(places, "WORTH", 0)
    model, image = perturb(build("yolov8n.yaml", "detect", ALL)), torch.rand(1, 3, 64, 96)
    head, (whole, _) = model.model[-1], model(image)
    head.least_score = float(whole[:, 4:7].min()) * 0.999
    torch.testing.assert_close(model(image)[0], whole)
    head.least_score = 1.0
    assert not model(image)[0].any()
    head.export = True
    assert torch.equal(model(image), whole)
    head.export = False
    with torch.enable_grad():
        assert torch.equal(model(image)[0], whole)
    assert model.train()(image)["boxes"].shape == (1, 64, 126)


def _pairs(raw, expected):
    for head in ("one2many", "one2one") if "one2many" in expected else ("",):
        for name in {"boxes", "scores", "angle"} & (expected[head] if head else expected).keys():
            yield (raw[head][name], expected[head][name]) if head else (raw[name], expected[name])


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_end_to_end_selection_carries_the_extra_channels(build, stock_models, task):
    stock, image, _ = stock_models["yolo26n.yaml", task]
    model = build("yolo26n.yaml", task, WITHOUT_DFL, seed=1).eval()
    model.load_state_dict(stock.state_dict(), strict=False)
    with torch.no_grad():
        for m in (stock, model):
            m.end2end = True
        try:
            y, expected = model(image)[0], stock(image)[0]
        finally:
            stock.end2end = False
    extra = model.model[-1].schema.channels
    assert y.shape == (1, 126, 6 + extra + (task == "obb"))  # 126 = 8*12 + 4*6 + 2*3 anchors, below max_det
    assert torch.equal(y[..., :6], expected[..., :6])
    if task == "obb":
        assert torch.equal(y[..., -1], expected[..., -1])
    sides = y[..., 6:10]
    assert (sides > 0).all()


@pytest.mark.parametrize(("cls", "stock_cls", "reg_max"), KINDS)
def test_a_head_is_one_of_ultralytics_under_a_name_that_tells_the_task(cls, stock_cls, reg_max):
    assert STOCK_TO_UNCERT[stock_cls] is cls
    assert issubclass(cls, stock_cls)
    assert ("obb" in cls.__name__.lower()) == (cls.task == "obb")


@pytest.mark.parametrize(("cls", "stock_cls", "reg_max"), KINDS)
def test_a_head_can_be_built_on_its_own(cls, stock_cls, reg_max):
    args = (3, 1, reg_max, False, (16, 32)) if cls.task == "obb" else (3, reg_max, False, (16, 32))
    head = cls(*args, uncertainty=WITHOUT_DFL)
    assert isinstance(head, stock_cls)
    assert [b.name for b in head.branches] == ["gaussian", "iou_aware"]
    head.stride = torch.tensor([8.0, 16.0])
    y, raw = head.eval()([torch.rand(2, 16, 4, 4), torch.rand(2, 32, 2, 2)])
    angle = int(cls.task == "obb")
    assert y.shape == (2, 4 + 3 + head.schema.channels + angle, 20)
    assert torch.equal(raw["angle"], y[:, -1:]) if angle else "angle" not in raw


def test_a_head_without_branches_is_the_stock_head():
    torch.manual_seed(0)
    stock = Detect(3, 16, False, (16,))
    torch.manual_seed(0)
    head = UncertDetect(3, 16, False, (16,))
    assert head.state_dict().keys() == stock.state_dict().keys()
    assert head.schema.channels == 0


def test_branches_keep_the_order_of_the_registry_whatever_that_of_the_yaml():
    head = UncertDetect(3, ch=(16,), uncertainty=dict(reversed(ALL.items())))
    assert [b.name for b in head.branches] == list(BRANCHES)
    assert head.schema.names == ("gaussian", "dfl", "quality", "iou_aware")


@pytest.mark.parametrize(("stock_cls", "reg_max"), [(Detect, 16), (OBB, 16), (OBB26, 1)])
@pytest.mark.parametrize("end2end", [False, True])
def test_from_stock_shares_the_weights_and_leaves_stock_head_and_random_state_alone(stock_cls, reg_max, end2end):
    args = (3, reg_max, end2end, (16,)) if stock_cls is Detect else (3, 1, reg_max, end2end, (16,))
    stock = stock_cls(*args)
    attributes, state = set(vars(stock)), torch.random.get_rng_state()
    names = {name for name, _ in stock.named_modules()}
    head = STOCK_TO_UNCERT[stock_cls].from_stock(stock, WITHOUT_DFL)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(stock) is stock_cls
    assert set(vars(stock)) == attributes
    assert {name for name, _ in stock.named_modules()} == names
    shared = dict(head.named_parameters())
    assert all(shared[name] is parameter for name, parameter in stock.named_parameters())
    head.register_forward_hook(lambda *_: None)
    assert not stock._forward_hooks


def test_peak_decoding_does_not_reach_the_stock_head():
    stock = Detect(3, 16, False, (16,))
    dfl = stock.dfl
    head = UncertDetect.from_stock(stock, {"dfl": {"decode": "peak"}})
    assert stock.dfl is dfl
    assert head.dfl is not dfl
    assert head.state_dict().keys() == stock.state_dict().keys()


def test_head_of_an_older_checkpoint_decodes_as_one_of_today():
    head = UncertDetect.from_stock(Detect(3, 16, False, (16,)), {"dfl": {}})
    old = copy.deepcopy(head)
    old.dfl = DFL(16)  # as checkpoints had it when the branch ran a softmax of its own
    again = pickle.loads(pickle.dumps(old))
    assert type(again.dfl) is MomentsDFL
    assert again.state_dict().keys() == head.state_dict().keys()


def test_branches_join_a_head_of_another_precision():
    stock = Detect(3, 16, True, (16,)).double()
    head = UncertDetect.from_stock(stock, {"gaussian": {}, "quality": {}, "iou_aware": {}})
    assert {p.dtype for p in head.parameters()} == {torch.float64}


@pytest.mark.parametrize("end2end", [False, True])
def test_an_end_to_end_head_has_a_twin_of_every_branch(end2end):
    head = UncertDetect(3, 1, end2end, (16,), WITHOUT_DFL)
    for name in ("cv_gaussian", "cv_iou_aware"):
        assert hasattr(head, f"one2one_{name}") == end2end
        assert name in head.one2many
        if end2end:
            assert head.one2one[name] is getattr(head, f"one2one_{name}") is not getattr(head, name)
            twin = getattr(head, f"one2one_{name}").state_dict()
            assert all(torch.equal(v, twin[k]) for k, v in getattr(head, name).state_dict().items())
    raw = head.train()([torch.rand(1, 16, 4, 4)])
    for preds in (raw["one2many"], raw["one2one"]) if end2end else (raw,):
        assert {"gaussian", "iou_aware"} <= preds.keys()


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("end2end", [False, True])
def test_fusing_drops_the_unused_twin_and_keeps_the_prediction(build, perturb, make_batch, task, end2end):
    model = perturb(build("yolo26n.yaml", task, WITHOUT_DFL))
    model.end2end = end2end
    image = make_batch(task)["img"]
    with torch.no_grad():
        expected, expected_raw = model(image)
        fused = copy.deepcopy(model).fuse(verbose=False)
        y, raw = fused(image)
    head = fused.model[-1]
    kept, dropped = ("one2one", "one2many") if end2end else ("one2many", "one2one")
    prefix = {"one2one": "one2one_", "one2many": ""}
    for branch in WITHOUT_DFL:
        assert getattr(head, f"{prefix[kept]}cv_{branch}") is not None
        assert getattr(head, f"{prefix[dropped]}cv_{branch}") is None
    assert fused.is_fused()
    assert y.shape == expected.shape
    assert raw[dropped] == {} if end2end else "one2one" not in raw
    # folding batch norms into convolutions rounds
    for name, value in (raw[kept] if end2end else raw).items():
        if name != "feats":
            torch.testing.assert_close(value, expected_raw[kept][name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_copies_and_checkpoints_predict_the_same(build, perturb, make_batch, task):
    model = perturb(build("yolo11n.yaml", task, ALL))
    image = make_batch(task)["img"]
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    with torch.no_grad():
        expected = model(image)[0]
        for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
            assert torch.equal(other(image)[0], expected)
            head = other.model[-1]
            assert head.schema == model.model[-1].schema
            assert [b.options for b in head.branches] == [b.options for b in model.model[-1].branches]
            assert head is not model.model[-1]


def test_a_training_model_can_be_copied_after_a_step(build, make_batch):
    model = build("yolo11n.yaml", "detect", {"gaussian": {}})
    loss, _ = model.loss(make_batch("detect"))
    loss.sum().backward()
    assert copy.deepcopy(model).criterion.head is not model.model[-1]


def test_half_precision_predicts_half_and_agrees(build, perturb, make_batch):
    model = perturb(build("yolo11n.yaml", "detect", ALL))
    image = make_batch("detect")["img"]
    with torch.no_grad():
        expected = model(image)[0]
        y = model.bfloat16()(image.bfloat16())[0]
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y[:, 7:].float(), expected[:, 7:], rtol=0.05, atol=0.01)


@pytest.mark.parametrize("branch", NEED_DFL)
def test_a_head_without_distributions_refuses_branches_that_read_them(branch):
    with pytest.raises(OptionError, match=rf"^uncertainty\.{branch}: this head .*\(reg_max: 1\)"):
        UncertDetect(3, 1, False, (16,), {branch: {}})


def test_initial_sigma_is_that_of_the_options_at_every_anchor(build, make_batch):
    model = build("yolo11n.yaml", "obb", {"gaussian": {"init_sigma": 0.3, "init_angle_sigma": 0.05}}).eval()
    head = model.model[-1]
    for conv in head.cv_gaussian:
        # 5 x (64 + 16) weights of a normal distribution: the deviation of their std is 1 / sqrt(800) = 3.5 %
        assert conv.weight.std().item() == pytest.approx(1e-4, rel=0.15)
        assert torch.allclose(conv.bias, torch.tensor([2 * math.log(0.3)] * 4 + [2 * math.log(0.05)]))
    with torch.no_grad():
        y = model(make_batch("obb")["img"])[0]
    fields = head.schema.split(y[:, 7:].mT)["gaussian"].mT
    sides = fields[:, :4] / head.strides
    torch.testing.assert_close(sides, torch.full_like(sides, 0.3), rtol=0.01, atol=0)
    torch.testing.assert_close(fields[:, 4], torch.full_like(fields[:, 4], 0.05), rtol=0.01, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
def test_the_traced_head_gives_the_same_prediction(build, perturb, make_batch):
    model = perturb(build("yolo11n.yaml", "obb", ALL))
    model.model[-1].export = True
    image = make_batch("obb")["img"]
    with torch.no_grad():
        traced = torch.jit.trace(model, image, check_trace=False)
        torch.testing.assert_close(traced(image), model(image))
    assert isinstance(model.model[-1].cv_quality[0], nn.Sequential)
