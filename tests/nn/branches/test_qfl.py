"""Quality focal loss: what it trains the class scores towards."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torchvision.ops import box_iou

from yolo_uncert.functional.scores import quality_focal_loss, quality_focal_loss_with_logits
from yolo_uncert.losses.overlap import positives_iou

PRED = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 1.0, 1.0]])
TRUTH = torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 4.0, 4.0], [5.0, 5.0, 6.0, 6.0]])


def targets(labels):
    """IoU 1/3, 1 and 0 at the class of the object."""
    target = torch.zeros(3, 3)
    target[range(3), labels] = box_iou(PRED, TRUTH).diagonal()
    return target


def test_the_target_is_the_iou_at_the_assigned_class(make_branch, make_context):
    scores = torch.randn(3, 3)
    context = make_context(PRED, TRUTH, labels=[2, 0, 1], scores=scores)
    expected = quality_focal_loss_with_logits(scores, targets([2, 0, 1]), 2.0).sum() / 3 * 0.5
    torch.testing.assert_close(make_branch("qfl").loss(context), expected)


def test_with_beta_0_and_the_iou_as_assignment_score_it_is_the_stock_class_loss(make_branch, make_context):
    scores = torch.randn(3, 3)
    context = make_context(PRED, TRUTH, labels=[2, 0, 1], scores=scores)
    stock = F.binary_cross_entropy_with_logits(scores, targets([2, 0, 1]), reduction="sum") / 3 * 0.5
    torch.testing.assert_close(make_branch("qfl", beta=0).loss(context), stock)


def test_with_a_quality_it_trains_the_joint_score(make_branch, make_context):
    scores, quality = torch.randn(3, 3), torch.randn(3, 1)
    context = make_context(PRED, TRUTH, labels=[2, 0, 1], scores=scores, quality=quality)
    joint = scores.sigmoid() * quality.sigmoid()
    expected = quality_focal_loss(joint, targets([2, 0, 1]), 2.0).sum() / 3 * 0.5
    torch.testing.assert_close(make_branch("qfl").loss(context), expected)


def test_a_positive_without_alignment_counts_as_a_negative(make_branch, make_context):
    scores = torch.randn(3, 3)
    context = make_context(PRED, TRUTH, labels=[2, 0, 1], scores=scores)
    context.assignment.target_scores[0, 0] = 0  # nothing says any more that this one is of class 2
    target = targets([2, 0, 1])
    target[0] = 0
    expected = quality_focal_loss_with_logits(scores, target, 2.0).sum() / 3 * 0.5
    torch.testing.assert_close(make_branch("qfl").loss(context), expected)


def test_negatives_are_trained_towards_0(make_branch, make_context):
    scores = torch.randn(3, 3)
    context = make_context(PRED, TRUTH, labels=[2, 0, 1], scores=scores)
    context.assignment.positive[0, :] = False
    context.assignment.target_scores.zero_()
    expected = quality_focal_loss_with_logits(scores, torch.zeros(3, 3), 2.0).sum() / 3 * 0.5
    torch.testing.assert_close(make_branch("qfl").loss(context), expected)


def test_oriented_boxes_use_their_exact_overlap(make_branch, make_context):
    pred, truth = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.5]]), torch.tensor([[0.5, 0.0, 4.0, 2.5, 0.2]])
    context = make_context(pred, truth, labels=[1], scores=torch.zeros(1, 3))
    iou = positives_iou(context)
    # at score 1/2: |y - 1/2|^2 * ln 2 at the class, (1/2)^2 * ln 2 at the two others
    expected = 0.5 * torch.log(torch.tensor(2.0)) * ((iou - 0.5) ** 2 + 0.5)
    torch.testing.assert_close(make_branch("qfl", "obb").loss(context), expected.squeeze())


def test_the_target_has_no_gradient_to_the_box(make_branch, make_context):
    pred, scores = PRED.clone().requires_grad_(), torch.randn(3, 3, requires_grad=True)
    make_branch("qfl").loss(make_context(pred, TRUTH, scores=scores)).backward()
    assert pred.grad is None
    assert scores.grad.any()


def test_it_replaces_the_class_loss_and_adds_nothing_else(make_branch):
    branch = make_branch("qfl")
    assert (branch.replaces, branch.loss_item, branch.field, branch.build()) == ("cls_loss", "qfl_loss", "", None)


@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_extreme_logits_give_finite_losses_and_gradients(make_branch, make_context, logit):
    scores = torch.full((3, 3), logit, requires_grad=True)
    loss = make_branch("qfl").loss(make_context(PRED, TRUTH, scores=scores))
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()
