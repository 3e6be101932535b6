"""KLD branch: the Gaussian distance of the positives' boxes."""

from __future__ import annotations

import math

import pytest
import torch

from yolo_uncert.functional.gaussian_distance import DISTANCES, FUNCTIONS, distance_loss

PRED = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.3], [1.0, 1.0, 3.0, 3.0, 0.1]])
TRUTH = torch.tensor([[0.5, 0.0, 4.0, 2.5, 0.2], [1.0, 1.5, 3.0, 2.0, 0.4]])


def test_loss_by_hand(make_branch, make_context):
    # same size and angle, 1 off along a width of 4: D = 2 u^2 / w^2 = 1/8; loss 1 - 1 / (1 + ln(1 + 1/8)), box gain 7.5
    pred, target = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.0]]), torch.tensor([[1.0, 0.0, 4.0, 2.0, 0.0]])
    loss = make_branch("kld", "obb", gain=2.0).loss(make_context(pred, target))
    assert loss.item() == pytest.approx((1 - 1 / (1 + math.log(1.125))) * 7.5 * 2, rel=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("fun", FUNCTIONS)
@pytest.mark.parametrize("tau", [0.0, 1.0, 2.0])
def test_every_distance_is_that_of_the_functional_layer(make_branch, make_context, distance, fun, tau):
    loss = make_branch("kld", "obb", distance=distance, fun=fun, tau=tau).loss(make_context(PRED, TRUTH))
    torch.testing.assert_close(loss, distance_loss(PRED, TRUTH, distance, fun, tau).mean() * 7.5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_horizontal_boxes_are_the_case_theta_0(make_branch, make_context, distance):
    upright, upright_truth = (torch.cat((b[:, :4], torch.zeros(2, 1)), 1) for b in (PRED, TRUTH))
    corners = [torch.cat((b[:, :2] - b[:, 2:4] / 2, b[:, :2] + b[:, 2:4] / 2), 1) for b in (PRED, TRUTH)]
    oriented = make_branch("kld", "obb", distance=distance).loss(make_context(upright, upright_truth))
    horizontal = make_branch("kld", distance=distance).loss(make_context(*corners))
    torch.testing.assert_close(horizontal, oriented)


@pytest.mark.parametrize(("mode", "replaces"), [("replace", "box_loss"), ("add", "")])
def test_mode(make_branch, mode, replaces):
    branch = make_branch("kld", mode=mode)
    assert (branch.replaces, branch.loss_item, branch.field, branch.build()) == (replaces, "kld_loss", "", None)


@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("distance", DISTANCES)
def test_extremes_give_finite_losses_and_gradients(make_branch, make_context, columns, distance):
    pred = torch.tensor([[1e4, 1e4, 1e4, 1e4, 50.0], [0.0, 0.0, 0.0, 0.0, 0.0], [5.0, 5.0, -5.0, -5.0, 0.0]])
    target = torch.tensor([[0.0, 0.0, 4.0, 3.0, 0.2], [0.0, 0.0, 4.0, 3.0, 0.2], [0.0, 0.0, 1e-6, 3.0, 0.2]])
    pred, target = pred[:, :columns].requires_grad_(), target[:, :columns]
    task = "obb" if columns == 5 else "detect"
    loss = make_branch("kld", task, distance=distance).loss(make_context(pred, target))
    loss.backward()
    assert loss.isfinite()
    assert pred.grad.isfinite().all()
