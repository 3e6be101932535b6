"""Gaussian branch: decoded standard deviations, residuals, label noise, gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from yolo_uncert.functional.boxes import sides_to_rbox
from yolo_uncert.functional.gaussian import KINDS, regression_loss
from yolo_uncert.nn.branches.base import Borders, Decoded, Features
from yolo_uncert.nn.branches.gaussian import LEAST_SPREAD
from yolo_uncert.options import OptionError

SQUARE = [0.0, 0.0, 4.0, 4.0, 0.0]


def zeros(count: int, columns: int) -> torch.Tensor:
    return torch.zeros(count, columns, requires_grad=True)


def test_decoded_sides_are_in_pixels(make_branch):
    # a = ln(sigma^2): sigma = exp(a / 2) grid units, times the stride
    raw = torch.tensor([0.0, math.log(4.0), math.log(0.25), math.log(9.0)]).view(1, 4, 1)
    decoded = Decoded(torch.zeros(1, 4, 1), torch.zeros(2, 1), torch.tensor([[16.0]]))
    std = make_branch("gaussian").decode({"gaussian": raw}, decoded)
    torch.testing.assert_close(std.flatten(), torch.tensor([16.0, 32.0, 8.0, 48.0]))


def test_decoded_angle_is_in_rad_and_the_offset_in_the_frame_of_the_box(make_branch):
    # sides (l, t, r, b) = (1, 2, 5, 4) grid units: offset ((r - l) / 2, (b - t) / 2) = (2, 1) before the rotation
    theta, anchor = math.radians(30), torch.tensor([[3.5, 1.5]])
    box = sides_to_rbox(anchor, torch.tensor([[1.0, 2.0, 5.0, 4.0]]), torch.tensor([theta]))
    raw = {"gaussian": torch.log(torch.tensor([1.0, 1, 1, 1, 0.01])).view(1, 5, 1), "angle": box[:, 4:].view(1, 1, 1)}
    decoded = Decoded(box[:, :4, None] * 8, anchor.t(), torch.tensor([[8.0]]))
    std = make_branch("gaussian", "obb").decode(raw, decoded).flatten()
    torch.testing.assert_close(std, torch.tensor([8.0, 8.0, 8.0, 8.0, 0.1, 16.0, 8.0]))


@pytest.mark.parametrize(("log_var", "sigma"), [(100.0, math.exp(5.0)), (-100.0, math.exp(-5.0))])
def test_decoded_deviations_are_bounded(make_branch, log_var, sigma):
    decoded = Decoded(torch.zeros(1, 4, 1).half(), torch.zeros(2, 1), torch.ones(1, 1))
    std = make_branch("gaussian").decode({"gaussian": torch.full((1, 4, 1), log_var).half()}, decoded)
    assert std.dtype == torch.float16
    torch.testing.assert_close(std.float(), torch.full((1, 4, 1), sigma), rtol=1e-3, atol=0)


def spread_alone(branch, inputs):
    """Modules whose log-variance of each side is that input, whatever the features are."""
    modules = branch.build()
    with torch.no_grad():
        for conv in modules:
            conv.weight.zero_()
            conv.bias.zero_()
            for side in range(4):
                conv.weight[side, inputs + side] = 1.0
    return modules


@pytest.mark.parametrize(("task", "inputs"), [("detect", 8), ("obb", 12)])
def test_with_spread_the_branch_hears_the_variance_of_each_side(make_branch, task, inputs):
    # Bins 0 to 3 with p, of l, t, r, b: variance 1.25 of the uniform one, 0.25 of two neighbours, 2.25 of 0 and 3
    # alike, and one certain bin, whose variance 0 counts as the least one
    p = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5], [0, 0, 1, 0]])
    branch = make_branch("gaussian", task, reg_max=4, spread=True)
    boxes = (p + 1e-30).log().view(1, 16, 1, 1)
    angle = [torch.randn(1, 4, 1, 1)] if task == "obb" else []
    raw = branch.forward(spread_alone(branch, inputs), Features([torch.randn(1, 8, 1, 1)], [boxes], angle))
    expected = torch.tensor([1.25, 0.25, 2.25, LEAST_SPREAD]).log()
    torch.testing.assert_close(raw[0, :4, 0], expected)


def test_the_spread_gives_the_distributions_no_gradient(make_branch):
    branch = make_branch("gaussian", spread=True)
    hidden, boxes = torch.randn(1, 8, 2, 2, requires_grad=True), torch.randn(1, 64, 2, 2, requires_grad=True)
    branch.forward(branch.build(), Features([hidden], [boxes], [])).sum().backward()
    assert boxes.grad is None
    assert hidden.grad.any()


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_the_spread_of_extreme_distributions_is_finite_in_half_precision(make_branch, scale):
    branch = make_branch("gaussian", spread=True)
    features = Features([torch.ones(1, 8, 2, 2).bfloat16()], [scale * torch.randn(1, 64, 2, 2).bfloat16()], [])
    raw = branch.forward(branch.build().bfloat16(), features)
    assert raw.dtype == torch.bfloat16
    assert raw.isfinite().all()


def test_spread_needs_distributions(make_branch):
    with pytest.raises(OptionError, match=r"spread: this head has no side distributions \(reg_max: 1\)"):
        make_branch("gaussian", reg_max=1, spread=True)


def test_horizontal_loss_by_hand(make_branch, make_context):
    # residuals 1, 0, 0.5, 3 at a = 0: smooth L1 is 0.5, 0, 0.125, 2.5; their mean over the coordinates is 0.78125
    pred, target = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[1.0, 0.0, 4.5, 7.0]])
    context = make_context(pred, target, gaussian=zeros(1, 4))
    assert make_branch("gaussian").loss(context).item() == 0.78125
    assert make_branch("gaussian", gain=2.0).loss(context).item() == 1.5625


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "kl_target"])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_every_loss_is_that_of_the_functional_layer(make_branch, make_context, kind, beta):
    pred, target, log_var = torch.rand(6, 4), torch.rand(6, 4) * 3, torch.randn(6, 4)
    loss = make_branch("gaussian", loss=kind, beta=beta).loss(make_context(pred, target, gaussian=log_var))
    torch.testing.assert_close(loss, regression_loss(target - pred, log_var, kind, beta=beta).mean())


@pytest.mark.parametrize("turns", [-3, -2, -1, 0, 1, 2, 3])
def test_other_representations_of_the_same_box_have_no_residual(make_branch, make_context, turns):
    pred = torch.tensor([[1.0, 2.0, 6.0, 2.0, 0.4]])
    width, height = (6.0, 2.0) if turns % 2 == 0 else (2.0, 6.0)
    target = torch.tensor([[1.0, 2.0, width, height, 0.4 + turns * math.pi / 2]])
    context = make_context(pred, target, gaussian=zeros(1, 5))
    # kl at a = 0 is smooth L1 of the residual
    assert make_branch("gaussian", "obb").loss(context).item() == pytest.approx(0, abs=1e-11)


def test_oriented_residuals_by_hand(make_branch, make_context):
    # anchor at the origin, same angle; the target is moved by 1 along its own width axis and is 2 wider:
    # l = 3 -> 3 + 1 - 1 = 3, r = 3 -> 3 + 1 + 1 = 5, t and b stay: residuals 0, 0, 2, 0, 0
    theta = 0.3
    pred = torch.tensor([[0.0, 0.0, 6.0, 2.0, theta]])
    target = torch.tensor([[math.cos(theta), math.sin(theta), 8.0, 2.0, theta]])
    residual = make_branch("gaussian", "obb")._residual(make_context(pred, target, gaussian=zeros(1, 5)))
    torch.testing.assert_close(residual, torch.tensor([[0.0, 0.0, 2.0, 0.0, 0.0]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("delta", [0.1, 0.5, math.pi / 4 - 1e-3])
def test_angle_residual(make_branch, make_context, delta):
    pred = torch.tensor([[0.0, 0.0, 6.0, 2.0, 1.0]])
    target = torch.tensor([[0.0, 0.0, 6.0, 2.0, 1.0 + delta]])
    residual = make_branch("gaussian", "obb")._residual(make_context(pred, target, gaussian=zeros(1, 5)))
    assert residual[0, 4].item() == pytest.approx(delta, abs=1e-6)


@pytest.mark.parametrize("angle", [0.2, math.pi / 4, 1.0, math.pi / 2, 3.0, 100.0])
def test_the_angle_residual_of_a_square_is_bounded(make_branch, make_context, angle):
    # a square looks the same every pi / 2: no residual exceeds pi / 4, and its sides agree for every angle
    target = torch.tensor([[0.0, 0.0, 4.0, 4.0, angle]])
    residual = make_branch("gaussian", "obb")._residual(
        make_context(torch.tensor([SQUARE]), target, gaussian=zeros(1, 5))
    )
    assert residual[0, 4].abs() <= math.pi / 4 + 1e-6
    torch.testing.assert_close(residual[0, :4], torch.zeros(4), atol=1e-5, rtol=0)


def test_label_noise_is_that_of_the_class_in_grid_units(make_branch, make_context):
    branch = make_branch("gaussian", loss="kl_target", label_std=[1.0, 4.0, 16.0])
    context = make_context(torch.rand(3, 4), torch.rand(3, 4), labels=[2, 0, 1], stride=8.0, gaussian=zeros(3, 4))
    # (std / stride)^2: (16/8)^2, (1/8)^2, (4/8)^2
    expected = torch.tensor([[4.0], [1 / 64], [0.25]]).expand(3, 4)
    assert torch.equal(branch._label_var(context), expected)


def test_label_noise_of_all_classes_says_nothing_of_the_angle(make_branch, make_context):
    # pixels are no radians: the angle's label counts as exact
    branch = make_branch("gaussian", "obb", loss="kl_target", label_std=4.0)
    context = make_context(torch.rand(1, 5), torch.rand(1, 5), labels=[1], stride=16.0, gaussian=zeros(1, 5))
    assert branch._label_var(context).tolist() == [[1 / 16] * 4 + [0.0]]
    assert branch.loss(context).isfinite()


@pytest.mark.parametrize(("sigma", "sign"), [(0.5, 1), (0.1, -1), (1.0, 1)])
def test_with_label_noise_sigma_is_pulled_towards_that_noise(make_branch, make_context, sigma, sign):
    # no residual: the divergence is least where the prediction has the label's own deviation, 2 px / 8 = 0.25
    log_var = torch.full((1, 4), 2 * math.log(sigma), requires_grad=True)
    context = make_context(torch.ones(1, 4), torch.ones(1, 4), stride=8.0, gaussian=log_var)
    make_branch("gaussian", loss="kl_target", label_std=2.0).loss(context).backward()
    assert (log_var.grad.sign() == sign).all()


@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("detach", [True, False])
def test_detach_mean(make_branch, make_context, columns, detach):
    pred = torch.tensor([[0.0, 0.0, 4.0, 3.0, 0.2]])[:, :columns].requires_grad_()
    target = torch.tensor([[0.5, 0.4, 5.2, 3.5, 0.3]])[:, :columns]
    log_var = zeros(1, columns)
    task = "obb" if columns == 5 else "detect"
    make_branch("gaussian", task, detach_mean=detach).loss(make_context(pred, target, gaussian=log_var)).backward()
    assert (log_var.grad != 0).all()
    if detach:
        assert pred.grad is None
    else:
        assert (pred.grad != 0).all()


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("detach", [True, False])
def test_detach_features(make_branch, task, detach):
    branch = make_branch("gaussian", task, detach_features=detach)
    modules = branch.build()
    hidden, angle = torch.randn(1, 8, 2, 2, requires_grad=True), torch.randn(1, 4, 2, 2, requires_grad=True)
    raw = branch.forward(modules, Features([hidden], [], [angle] if task == "obb" else []))
    raw.square().sum().backward()
    assert (modules[0].weight.grad != 0).all()
    for x in (hidden, angle) if task == "obb" else (hidden,):
        assert x.grad is None if detach else (x.grad != 0).any()


@pytest.mark.parametrize(("epoch", "factor"), [(None, 1.0), (0, 0.0), (1, 0.2), (5, 1.0), (50, 1.0)])
def test_warm_up(make_branch, make_context, epoch, factor):
    pred, target = torch.zeros(1, 4), torch.full((1, 4), 2.0)
    context = make_context(pred, target, epoch=epoch, gaussian=zeros(1, 4))
    # smooth L1 of 2 is 1.5
    assert make_branch("gaussian", warmup_epochs=5).loss(context).item() == pytest.approx(1.5 * factor)
    assert make_branch("gaussian").loss(context).item() == 1.5


@pytest.mark.parametrize(("weight", "expected"), [("alignment", (0.9 * 1.5 + 0.1 * 9.5) / 1.0), ("uniform", 5.5)])
def test_weights_of_the_positives(make_branch, make_context, weight, expected):
    # smooth L1 of residuals 2 and 10 is 1.5 and 9.5
    context = make_context(torch.zeros(2, 4), torch.tensor([[2.0] * 4, [10.0] * 4]), gaussian=zeros(2, 4))
    scores = context.assignment.target_scores * torch.tensor([0.9, 0.1]).view(1, 2, 1)
    assignment = replace(context.assignment, target_scores=scores, normaliser=torch.tensor(1.0))
    loss = make_branch("gaussian", weight=weight).loss(replace(context, assignment=assignment))
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("log_var", [-1e3, -10.0, 0.0, 10.0, 1e3])
def test_extremes_give_finite_losses_and_gradients(make_branch, make_context, kind, columns, log_var):
    pred = torch.tensor([[1e4, 1e4, 1e4, 1e4, 50.0], [0.0, 0.0, 0.0, 0.0, 0.0], [-1e4, 1e4, 1e-8, 1e4, -50.0]])
    target = torch.tensor([[0.0, 0.0, 4.0, 3.0, 0.2], [0.0, 0.0, 0.0, 0.0, 0.0], [1e4, -1e4, 3.0, 0.0, 1.0]])
    pred, target = pred[:, :columns].requires_grad_(), target[:, :columns]
    raw = torch.full((3, columns), log_var, requires_grad=True)
    options = {"label_std": 2.0} if kind == "kl_target" else {}
    branch = make_branch("gaussian", "obb" if columns == 5 else "detect", loss=kind, detach_mean=False, **options)
    loss = branch.loss(make_context(pred, target, gaussian=raw))
    loss.backward()
    assert loss.isfinite()
    assert pred.grad.isfinite().all()
    assert raw.grad.isfinite().all()


def test_the_learning_rate_is_an_option(make_branch):
    for options, rate in (({}, 10.0), ({"lr_mult": 3.0}, 3.0)):
        branch = make_branch("gaussian", **options)
        modules = branch.build()
        assert {r: len(p) for r, p in branch.rates(modules).items()} == {rate: 2}
    iou = make_branch("iou_aware")
    assert [*iou.rates(iou.build())] == [1.0]


@pytest.mark.parametrize(("rate", "rates"), [(3.0, {10.0: 2, 3.0: 1}), (10.0, {10.0: 3})])
def test_what_reads_the_borders_learns_like_their_branch(make_branch, rate, rates):
    branch, border = make_branch("gaussian"), make_branch("border", lr_mult=rate)
    branch.join({"gaussian": branch, "border": border})
    modules = branch.build()
    assert {r: len(parameters) for r, parameters in branch.rates(modules).items()} == rates
    assert {r: len(p) for r, p in border.rates(border.build()).items()} == {rate: 8}


@pytest.mark.parametrize("detached", [False, True])
def test_sigma_reads_what_the_border_branch_has_seen(make_branch, detached):
    branch, border = make_branch("gaussian", detach_features=detached), make_branch("border", hidden=2)
    branch.join({"border": border})
    modules = branch.build()
    nn.init.zeros_(modules[0].weight)
    modules[1].weight.data = torch.arange(32.0).view(4, 8, 1)
    seen = torch.randn(1, 8, 2, requires_grad=True)
    hidden = torch.randn(1, 8, 1, 3)
    borders = Borders(seen, torch.ones(1, 4, 2), torch.tensor([[2, 0]]), 3)
    raw = branch.forward(modules, Features([hidden], [], borders=borders))
    start = 2 * math.log(0.2)
    expected = modules[1].weight[..., 0] @ seen[0]
    assert_close(raw[0, :, [2, 0]], start + expected)
    assert_close(raw[0, :, 1], torch.full((4,), start))
    raw.sum().backward()
    assert (seen.grad is None) == detached
