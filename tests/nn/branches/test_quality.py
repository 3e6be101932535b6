"""Quality branch: its input, its joint score and its loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from yolo_uncert.nn.branches.base import Features
from yolo_uncert.nn.branches.quality import joint_probability


def test_statistics_are_the_top_probabilities_and_their_mean_side_by_side(make_branch):
    branch = make_branch("quality", reg_max=4, topk=2)
    sides = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25] * 4, [0.5, 0.0, 0.5, 0.0]])
    boxes = sides.clamp_min(1e-20).log().view(1, 16, 1, 1)
    # per side: the two largest, then their mean
    expected = [0.4, 0.3, 0.35, 0.7, 0.1, 0.4, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5]
    torch.testing.assert_close(branch._statistics(boxes).flatten(), torch.tensor(expected))


def test_statistics_of_a_map_keep_the_pixels_apart(make_branch):
    branch = make_branch("quality")
    boxes = torch.randn(2, 64, 3, 5)
    statistics = branch._statistics(boxes)
    assert statistics.shape == (2, 20, 3, 5)
    alone = branch._statistics(boxes[1:, :, 2:, 4:])
    torch.testing.assert_close(statistics[1:, :, 2:, 4:], alone)


def test_quality_is_a_function_of_the_distributions_and_trains_them(make_branch):
    branch = make_branch("quality")
    boxes = torch.randn(1, 64, 2, 2, requires_grad=True)
    raw = branch.forward(branch.build(), Features([torch.zeros(1, 8, 2, 2)], [boxes], []))
    assert raw.shape == (1, 1, 4)
    quality = branch.decode({"quality": raw}, None)
    assert torch.equal(quality, raw.sigmoid())
    quality.sum().backward()
    assert boxes.grad.any()


def test_joint_probability_is_the_product():
    scores, quality = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1), torch.tensor([math.log(4.0)]).view(1, 1, 1)
    joint = joint_probability({"scores": scores.half(), "quality": quality.half()})
    assert joint.dtype == torch.float32
    # sigmoids: 1/2 and 3/4 times 4/5
    torch.testing.assert_close(joint, torch.tensor([[[0.4, 0.6]]]), atol=2e-4, rtol=0)
    assert torch.equal(joint_probability({"scores": scores}), scores.sigmoid().transpose(1, 2))


def test_loss_is_the_cross_entropy_of_the_joint_score(make_branch, make_context):
    quality, scores = torch.randn(4, 1), torch.randn(4, 3)
    context = make_context(torch.rand(4, 4), torch.rand(4, 4), labels=[0, 1, 2, 0], scores=scores, quality=quality)
    joint = scores.sigmoid() * quality.sigmoid()
    expected = F.binary_cross_entropy(joint, context.assignment.target_scores[0], reduction="sum") / 4 * 0.5
    torch.testing.assert_close(make_branch("quality").loss(context), expected)


def test_a_certain_quality_gives_the_stock_class_loss(make_branch, make_context):
    scores = torch.randn(4, 3)
    context = make_context(torch.rand(4, 4), torch.rand(4, 4), scores=scores, quality=torch.full((4, 1), 40.0))
    expected = F.binary_cross_entropy_with_logits(scores, context.assignment.target_scores[0], reduction="sum")
    torch.testing.assert_close(make_branch("quality").loss(context), expected / 4 * 0.5)


@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_extreme_logits_give_finite_losses_and_gradients(make_branch, make_context, logit):
    scores, quality = torch.full((2, 3), logit, requires_grad=True), torch.full((2, 1), logit, requires_grad=True)
    context = make_context(torch.rand(2, 4), torch.rand(2, 4), scores=scores, quality=quality)
    loss = make_branch("quality").loss(context)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()
    assert quality.grad.isfinite().all()


def test_it_leaves_the_loss_to_qfl(make_branch):
    quality, qfl = make_branch("quality"), make_branch("qfl")
    quality.join({"quality": quality})
    assert quality.replaces == quality.loss_item == "cls_loss"
    quality.join({"quality": quality, "qfl": qfl})
    assert quality.replaces == quality.loss_item == ""
