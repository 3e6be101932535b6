"""The criteria: exactly Ultralytics' where no branch has a say, and one named term per branch otherwise."""

from __future__ import annotations

import inspect

import pytest
import torch
from ultralytics.utils.loss import BboxLoss, E2ELoss, RotatedBboxLoss, v8DetectionLoss, v8OBBLoss

from yolo_uncert.losses.criterion import RecordingBoxLoss, UncertDetectionLoss, UncertOBBLoss
from yolo_uncert.nn.branches import BRANCHES

STOCK = {"detect": v8DetectionLoss, "obb": v8OBBLoss}
OURS = {"detect": UncertDetectionLoss, "obb": UncertOBBLoss}
NEED_DFL = ("dfl", "quality")
TASKS = pytest.mark.parametrize("task", ["detect", "obb"])
HEADS = pytest.mark.parametrize(("reg_max", "end2end"), [(16, False), (1, True)], ids=["dfl", "end2end"])


def criterion_of(model, classes, task, *, end2end=False):
    return E2ELoss(model, classes[task]) if end2end else classes[task](model)


def run(build, labels, task, uncertainty, *, empty=False, **head):
    """Build a head, compute loss and gradients: model, vector, items."""
    model = build(task, uncertainty, **head)
    classes = STOCK if uncertainty is None else OURS
    criterion = criterion_of(model, classes, task, end2end=head.get("end2end", False))
    vector, items = criterion(model.preds(), labels(task, empty=empty))
    vector.sum().backward()
    return model, vector.detach(), items


def stock_gradients(model):
    return {k: p.grad for k, p in model.named_parameters() if "cv_" not in k}


@pytest.mark.parametrize("stock", [BboxLoss, RotatedBboxLoss])
def test_the_recorder_has_the_signature_of_the_stock_box_losses(stock):
    assert list(inspect.signature(RecordingBoxLoss.forward).parameters) == list(
        inspect.signature(stock.forward).parameters
    )


@TASKS
@HEADS
@pytest.mark.parametrize("empty", [False, True], ids=["objects", "empty"])
def test_without_a_loss_term_the_criterion_is_the_stock_one(build, labels, task, reg_max, end2end, empty):
    head = {"reg_max": reg_max, "end2end": end2end, "empty": empty}
    # three images: a vector divided by the batch size and multiplied again would differ by a rounding
    stock, expected, expected_items = run(build, labels, task, None, **head)
    ours, vector, items = run(build, labels, task, {} if reg_max == 1 else {"dfl": {}}, **head)
    assert torch.equal(vector, expected)
    assert items == expected_items
    gradients = stock_gradients(ours)
    assert gradients.keys() == stock_gradients(stock).keys()
    for name, gradient in stock_gradients(stock).items():
        assert (gradient is None) == (gradients[name] is None), name
        assert gradient is None or torch.equal(gradient, gradients[name]), name


@TASKS
@HEADS
def test_a_detached_variance_leaves_the_detector_alone(build, labels, task, reg_max, end2end):
    head = {"reg_max": reg_max, "end2end": end2end}
    stock, expected, expected_items = run(build, labels, task, None, **head)
    ours, vector, items = run(build, labels, task, {"gaussian": {"detach_features": True}}, **head)
    assert torch.equal(vector[:-1], expected)
    assert list(items) == [*expected_items, "gauss_loss"]
    assert {k: items[k] for k in expected_items} == expected_items
    for name, gradient in stock_gradients(stock).items():
        if gradient is not None:
            assert torch.equal(gradient, stock_gradients(ours)[name]), name
    for mine, theirs in zip(ours.features, stock.features, strict=True):
        assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.parametrize(
    ("uncertainty", "names"),
    [
        ({"gaussian": {}, "iou_aware": {}}, ["box_loss", "cls_loss", "dfl_loss", "gauss_loss", "iou_loss"]),
        ({"kld": {}}, ["kld_loss", "cls_loss", "dfl_loss"]),
        ({"kld": {"mode": "add"}}, ["box_loss", "cls_loss", "dfl_loss", "kld_loss"]),
        ({"qfl": {}}, ["box_loss", "qfl_loss", "dfl_loss"]),
        ({"quality": {}}, ["box_loss", "cls_loss", "dfl_loss"]),
        ({"quality": {}, "qfl": {}}, ["box_loss", "qfl_loss", "dfl_loss"]),
    ],
)
@TASKS
def test_items_are_named_and_belong_to_the_vector(build, labels, task, uncertainty, names):
    _, vector, items = run(build, labels, task, uncertainty)
    angle = ["angle_loss"] if task == "obb" else []
    assert list(items) == [*names[:3], *angle, *names[3:]]
    torch.testing.assert_close(vector, torch.stack(list(items.values())) * 3)
    assert not any(v.requires_grad for v in items.values())


@TASKS
def test_kld_replaces_or_joins_the_stock_box_loss(build, labels, task):
    _, stock, _ = run(build, labels, task, None)
    _, replaced, _ = run(build, labels, task, {"kld": {"gain": 2.0}})
    _, added, _ = run(build, labels, task, {"kld": {"gain": 2.0, "mode": "add"}})
    assert torch.equal(added[:-1], stock)
    assert replaced[0] == added[-1] != stock[0]
    assert torch.equal(replaced[1:], stock[1:])


def test_a_replaced_loss_has_no_gradient(build, labels):
    model, _, _ = run(build, labels, "detect", {"kld": {"gain": 0.0}})
    model.args.dfl = 0.0
    model.zero_grad()
    criterion = UncertDetectionLoss(model)
    criterion(model.preds(), labels("detect"))[0].sum().backward()
    assert not model.model[-1].cv2[0][-1].weight.grad.any()


@TASKS
@pytest.mark.parametrize(
    ("branch", "reg_max", "end2end"),
    [(name, 16, False) for name in BRANCHES] + [(name, 1, True) for name in BRANCHES if name not in NEED_DFL],
)
def test_empty_images_give_finite_terms_and_keep_every_parameter_in_the_graph(
    build, labels, task, branch, reg_max, end2end
):
    uncertainty = {branch: {"detach_mean": False, "detach_features": False} if branch == "gaussian" else {}}
    model, vector, items = run(build, labels, task, uncertainty, reg_max=reg_max, end2end=end2end, empty=True)
    assert vector.isfinite().all()
    for name in {"gauss_loss", "iou_loss", "kld_loss", "box_loss"} & items.keys():
        assert items[name] == 0, name
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@TASKS
def test_the_assignment_is_dropped_after_the_step(build, labels, task):
    model = build(task, {"gaussian": {}})
    criterion = OURS[task](model)
    criterion(model.preds(), labels(task))
    assert criterion.bbox_loss.last is None


@TASKS
def test_an_empty_batch_does_not_see_the_assignment_of_the_one_before(build, labels, task):
    model = build(task, {"gaussian": {}})
    criterion = OURS[task](model)
    assert criterion(model.preds(), labels(task))[1]["gauss_loss"] != 0
    assert criterion(model.preds(), labels(task, empty=True))[1]["gauss_loss"] == 0


@TASKS
def test_class_weights_reach_the_class_losses_of_the_branches(build, labels, task):
    weighted = {}
    for name, uncertainty in {"quality": {"quality": {}}, "qfl": {"qfl": {}}}.items():
        model = build(task, uncertainty)
        plain = OURS[task](model)(model.preds(), labels(task))[0][1]
        model.class_weights = torch.full((3,), 2.0)
        weighted[name] = OURS[task](model)(model.preds(), labels(task))[0][1] / plain
    assert {k: v.item() for k, v in weighted.items()} == pytest.approx({"quality": 2.0, "qfl": 2.0})


def test_the_variance_term_warms_up_with_the_epoch_of_the_head(build, labels):
    model = build("detect", {"gaussian": {"warmup_epochs": 4.0, "gain": 3.0}})
    criterion = UncertDetectionLoss(model)
    terms = []
    for epoch in (0, 1, 2, 4, 9, None):
        model.model[-1].epoch = epoch
        terms.append(criterion(model.preds(), labels("detect"))[1]["gauss_loss"].item())
    # validation outside of training (no epoch) reports the full term
    assert terms == pytest.approx([f * terms[-1] for f in (0, 0.25, 0.5, 1, 1, 1)])
    assert terms[-1] != 0


@TASKS
def test_autocast_gives_finite_float32_losses(build, labels, task):
    uncertainty = {"gaussian": {"detach_mean": False}, "quality": {}, "qfl": {}, "iou_aware": {}, "kld": {}}
    model = build(task, uncertainty)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        preds = model.preds()
        vector, items = OURS[task](model)(preds, labels(task))
    assert preds["gaussian"].dtype == preds["scores"].dtype == torch.bfloat16
    assert vector.dtype == torch.float32
    assert vector.isfinite().all()
    assert all(v.dtype == torch.float32 for v in items.values())
    _, exact, _ = run(build, labels, task, uncertainty)
    torch.testing.assert_close(vector, exact, rtol=0.1, atol=0.3)


@TASKS
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_exploding_raw_predictions_give_finite_losses_and_gradients(build, labels, task, scale):
    uncertainty = {"gaussian": {"detach_mean": False}, "qfl": {}, "iou_aware": {"grad_target": True}, "kld": {}}
    model = build(task, uncertainty, reg_max=1)
    raw = {k: v.detach() for k, v in model.preds().items() if k != "feats"}
    raw = {k: (v if k == "angle" else v * scale).requires_grad_() for k, v in raw.items()}
    vector, _ = OURS[task](model)({**raw, "feats": model.features}, labels(task))
    # the stock losses at such predictions are upstream's business
    ours = vector[[0, 1, *range(4 if task == "obb" else 3, len(vector))]]
    assert ours.isfinite().all()
    ours.sum().backward()
    assert all(v.grad is None or v.grad.isfinite().all() for v in raw.values())
