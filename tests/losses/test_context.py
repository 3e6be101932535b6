"""What a loss term sees of a training step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from yolo_uncert.losses.context import Assignment, LossContext

POSITIVE = torch.tensor([[False, True, False], [True, False, True]])  # 2 images, 3 anchors; order: (0,1), (1,0), (1,2)


@pytest.fixture
def context() -> LossContext:
    scores = torch.zeros(2, 3, 2)
    scores[0, 1, 1], scores[1, 0, 0], scores[1, 2, 1] = 0.5, 0.25, 1.0
    boxes = torch.arange(24.0).view(2, 3, 4)
    assignment = Assignment(
        pred_boxes=boxes.clone().requires_grad_(),
        anchors=torch.tensor([[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]]),
        target_boxes=boxes + 100,
        target_scores=scores,
        normaliser=torch.tensor(2.0),
        positive=POSITIVE,
        stride=torch.tensor([[8.0], [8.0], [16.0]]),
    )
    preds = {"scores": torch.zeros(2, 2, 3), "x": torch.arange(12.0).view(2, 2, 3).half().requires_grad_()}
    return LossContext(preds, assignment, "detect", SimpleNamespace(cls=0.5, box=7.5))


def test_positives_are_gathered_in_the_order_of_image_and_anchor(context):
    # image 0, anchor 1 holds 4..7; image 1, anchor 0 holds 12..15; image 1, anchor 2 holds 20..23
    expected = [[4, 5, 6, 7], [12, 13, 14, 15], [20, 21, 22, 23]]
    assert context.pred_boxes.tolist() == expected
    assert (context.target_boxes - 100).tolist() == expected
    assert context.anchors.tolist() == [[1.5, 0.5], [0.5, 0.5], [2.5, 0.5]]
    assert context.stride.tolist() == [[8], [8], [16]]
    assert context.labels.tolist() == [1, 0, 1]


def test_raw_predictions_are_float32_in_the_graph(context):
    # channels 0, 1 of image 0 at anchor 1: 1, 4; of image 1 at anchors 0 and 2: 6, 9 and 8, 11
    raw = context.raw("x")
    assert raw.dtype == torch.float32
    assert raw.tolist() == [[1, 4], [6, 9], [8, 11]]
    raw.sum().backward()
    assert torch.equal(context.preds["x"].grad, POSITIVE[:, None].expand(2, 2, 3).half())


def test_mean_weights_by_the_assignment_score(context):
    # (10 * 0.5 + 20 * 0.25 + 30 * 1) / 2
    assert context.mean(torch.tensor([10.0, 20.0, 30.0])).item() == 20.0


def test_plain_mean_weights_by_nothing(context):
    assert context.plain_mean(torch.tensor([10.0, 20.0, 30.0])).item() == 20.0
    assert context.plain_mean(torch.tensor([10.0, 20.0, 90.0])).item() == 40.0
    nothing = torch.zeros(0, requires_grad=True)
    context.plain_mean(nothing * 2).backward()
    assert nothing.grad.shape == (0,)


def test_class_mean_is_the_sum_over_the_normaliser_times_the_gain(context):
    assert context.class_mean(torch.ones(2, 3, 2)).item() == 12 / 2 * 0.5


def test_class_weights_weight_the_classes(context):
    weights = torch.tensor([1.0, 3.0]).view(1, 1, 2)
    weighted = LossContext(context.preds, context.assignment, "detect", context.hyp, class_weights=weights)
    assert weighted.class_mean(torch.ones(2, 3, 2)).item() == (6 * 1 + 6 * 3) / 2 * 0.5


@pytest.mark.parametrize("channels", [4, 64])
def test_the_empty_assignment_has_no_positive_but_keeps_the_predictions_in_the_graph(channels):
    preds = {
        "boxes": torch.rand(2, channels, 6, requires_grad=True),
        "scores": torch.rand(2, 3, 6, requires_grad=True),
        "angle": torch.rand(2, 1, 6, requires_grad=True),
    }
    context = LossContext(preds, Assignment.empty(preds), "obb", SimpleNamespace(cls=1.0))
    assert context.pred_boxes.shape == context.target_boxes.shape == (0, 5)
    assert context.anchors.shape == (0, 2)
    assert context.stride.shape == (0, 1)
    assert context.labels.shape == (0,)
    assert not context.assignment.target_boxes.requires_grad
    term = context.mean(context.pred_boxes.sum(-1) + context.raw("scores").sum(-1))
    term.backward()
    assert term.item() == 0
    assert all(not p.grad.any() for p in preds.values())
