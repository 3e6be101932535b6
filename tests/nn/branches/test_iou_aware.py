"""IoU-aware branch: cross-entropy against the overlap of the decoded box."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torchvision.ops import box_iou
from ultralytics.utils.metrics import probiou

from yolo_uncert.losses.overlap import positives_iou
from yolo_uncert.nn.branches.base import Borders, Features
from yolo_uncert.nn.branches.iou_aware import conv_of_taps, narrow_conv
from yolo_uncert.options import OptionError

PRED = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 1.0, 1.0]])
TRUTH = torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 4.0, 4.0], [5.0, 5.0, 6.0, 6.0]])
ROTATED = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.5], [1.0, 1.0, 3.0, 3.0, 0.1]])
ROTATED_TRUTH = torch.tensor([[0.5, 0.0, 4.0, 2.5, 0.2], [1.0, 1.5, 3.0, 2.0, 0.1]])


def test_loss_is_torchs_cross_entropy_against_the_iou(make_branch, make_context):
    logits = torch.randn(3, 1)
    loss = make_branch("iou_aware", gain=2.0).loss(make_context(PRED, TRUTH, iou_aware=logits))
    iou = box_iou(PRED, TRUTH).diagonal()
    torch.testing.assert_close(loss, 2 * F.binary_cross_entropy_with_logits(logits[:, 0], iou))


def test_oriented_target_is_the_exact_iou_and_prob_iou_where_it_needs_a_gradient(make_branch, make_context):
    logits = torch.randn(2, 1)
    context = make_context(ROTATED, ROTATED_TRUTH, iou_aware=logits)
    exact, prob = positives_iou(context), probiou(ROTATED, ROTATED_TRUTH).squeeze(-1)
    assert not torch.allclose(exact, prob, atol=0.01)
    for grad_target, target in ((False, exact), (True, prob)):
        loss = make_branch("iou_aware", "obb", grad_target=grad_target).loss(context)
        torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits[:, 0], target))


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("grad_target", [False, True])
def test_the_gradient_reaches_the_box_only_on_request(make_branch, make_context, task, grad_target):
    pred, truth = (PRED, TRUTH) if task == "detect" else (ROTATED, ROTATED_TRUTH)
    pred, logits = pred[:1].clone().requires_grad_(), torch.ones(1, 1, requires_grad=True)
    make_branch("iou_aware", task, grad_target=grad_target).loss(
        make_context(pred, truth[:1], iou_aware=logits)
    ).backward()
    assert logits.grad.item() != 0
    assert (pred.grad is not None and pred.grad.any()) if grad_target else pred.grad is None


def test_a_confident_prediction_pulls_the_box_towards_its_object(make_branch, make_context):
    pred, logits = PRED[:1].clone().requires_grad_(), torch.full((1, 1), 2.0)
    make_branch("iou_aware", grad_target=True).loss(make_context(pred, TRUTH[:1], iou_aware=logits)).backward()
    # the object lies to the right: a step against the gradient moves x1 and x2 there
    assert pred.grad[0, 0] < 0
    assert pred.grad[0, 2] < 0


def test_it_trains_the_shared_features(make_branch):
    branch = make_branch("iou_aware")
    modules, hidden = branch.build(), torch.randn(1, 8, 2, 3, requires_grad=True)
    assert modules[0].kernel_size == (3, 3)
    raw = branch.forward(modules, Features([hidden], [], []))
    assert raw.shape == (1, 1, 6)
    assert torch.equal(branch.decode({"iou_aware": raw}, None), raw.sigmoid())
    raw.sum().backward()
    assert hidden.grad.any()


@pytest.fixture
def reader(make_branch):
    """A branch beside a border branch of 8 channels, which it reads."""

    def make(rate=3.0):
        branch = make_branch("iou_aware", reads="border")
        branch.join({"iou_aware": branch, "border": make_branch("border", hidden=2, lr_mult=rate)})
        return branch

    return make


def test_it_reads_what_the_border_branch_has_seen_instead_of_the_neighbours(reader):
    branch = reader()
    assert not branch.reads_around
    layer, border = modules = branch.build()
    assert layer.kernel_size == (1, 1)
    border.weight.data = torch.arange(8.0).view(1, 8, 1)
    hidden, seen = torch.randn(1, 8, 1, 3, requires_grad=True), torch.randn(1, 8, 2, requires_grad=True)
    borders = Borders(seen, torch.ones(1, 4, 2), torch.tensor([[2, 0]]), 3)
    raw = branch.forward(modules, Features([hidden], [], borders=borders))
    own = layer.weight[0, :, 0, 0] @ hidden[0, :, 0] + layer.bias
    torch.testing.assert_close(
        raw[0, 0], own + torch.stack((seen[0].T[1], seen.new_zeros(8), seen[0].T[0])) @ border.weight[0, :, 0]
    )
    raw.sum().backward()
    torch.testing.assert_close(seen.grad[0], torch.arange(8.0)[:, None].expand(8, 2))
    assert hidden.grad.any()


@pytest.mark.parametrize(("rate", "rates"), [(3.0, {1.0: 2, 3.0: 1}), (1.0, {1.0: 3})])
def test_what_reads_the_borders_learns_like_their_branch(reader, rate, rates):
    branch = reader(rate)
    assert {r: len(parameters) for r, parameters in branch.rates(branch.build()).items()} == rates


def test_without_a_border_branch_there_is_none_to_read(build):
    with pytest.raises(OptionError, match="iou_aware: reads: border needs a border branch"):
        build("yolov8n.yaml", "detect", {"iou_aware": {"reads": "border"}})


@pytest.mark.parametrize("base", ["yolo11n.yaml", "yolo26n.yaml"])
@pytest.mark.parametrize("task", ["detect", "obb"])
def test_a_training_step_reaches_all_that_reads_the_borders(build, make_batch, base, task):
    model = build(base, task, {"iou_aware": {"reads": "border"}, "border": {}}).train()
    model.loss(make_batch(task))[0].sum().backward()
    head = model.model[-1]
    readers = [head.cv_iou_aware, *([head.one2one_cv_iou_aware] if "26" in base else [])]
    for *levels, border in readers:
        assert border.weight.grad.abs().sum() > 0
        assert any(level.weight.grad.abs().sum() > 0 for level in levels)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
@pytest.mark.parametrize("grad_target", [False, True])
def test_extremes_give_finite_losses_and_gradients(make_branch, make_context, logit, grad_target):
    pred = torch.tensor([[1e4, 1e4, 1e4, 1e4], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    logits = torch.full((2, 1), logit, requires_grad=True)
    loss = make_branch("iou_aware", grad_target=grad_target).loss(make_context(pred, TRUTH[:2], iou_aware=logits))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert pred.grad is None or pred.grad.isfinite().all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 6, 9), (1, 3, 1, 4), (3, 1, 2, 2)])
def test_the_fast_convolution_is_the_layer(shape, bias):
    conv = nn.Conv2d(shape[1], 1, 3, padding=1, bias=bias).eval()
    x = torch.randn(shape)
    for given in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3)):
        with torch.no_grad():
            torch.testing.assert_close(narrow_conv(conv, given), conv(given))
    assert torch.equal(narrow_conv(conv.train(), x), conv(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_left_to_the_layer(dtype):
    conv, x = nn.Conv2d(4, 1, 3, padding=1).eval().to(dtype), torch.randn(1, 4, 5, 5).to(dtype)
    assert torch.equal(narrow_conv(conv, x), conv(x))


def test_a_traced_head_has_the_layer():
    conv = nn.Conv2d(4, 1, 3, padding=1).eval().requires_grad_(False)
    traced = torch.jit.trace(lambda x: narrow_conv(conv, x), torch.randn(1, 4, 5, 5))
    assert "_convolution" in str(traced.graph)
    assert "col2im" not in str(traced.graph)


@pytest.mark.parametrize("bias", [True, False])
def test_what_the_taps_see_gives_the_convolution(bias):
    conv, x = nn.Conv2d(5, 1, 3, padding=1, bias=bias), torch.randn(2, 5, 4, 7)
    taps = F.unfold(x, 3, padding=1)[:, :, None]
    torch.testing.assert_close(conv_of_taps(conv, taps).flatten(2), conv(x).flatten(2))
