"""Voting for kept boxes: values by hand, limits, and the oriented form against the horizontal one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from yolo_uncert.functional.boxes import xyxy_to_xywhr
from yolo_uncert.ops import Suppression, suppress, var_vote

QUARTER = math.pi / 2
PAIR = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10]])  # IoU 9 / 11
CLOSENESS = math.exp(-((2 / 11) ** 2) / 0.02)


def test_weights_by_hand() -> None:
    scores, variances = np.array([0.8, 0.4]), np.array([[1.0] * 4, [4.0] * 4])
    for weight, other in (("variance", CLOSENESS / 4), ("score", CLOSENESS / 2), ("both", CLOSENESS / 8)):
        voted, merged = var_vote(PAIR, scores, np.array([0]), None, variances, vote_weight=weight)
        share = other / (1 + other)
        np.testing.assert_allclose(voted, [[share, 0, 10 + share, 10]], rtol=1e-12)
        # Mixture of N(0, 1) and N(1, 4): mean of the variances plus variance of the means.
        spread = share * (1 - share)
        still = 1 + 3 * share
        np.testing.assert_allclose(merged, [[still + spread, still, still + spread, still]], rtol=1e-12)
        fused = var_vote(PAIR, scores, np.array([0]), None, variances, vote_weight=weight, merge="fused")[1]
        np.testing.assert_allclose(fused, np.full((1, 4), 1 / (1 + CLOSENESS / 4)), rtol=1e-12)


def test_bayes_is_the_product_of_gaussians() -> None:
    variances = np.array([[1.0] * 4, [4.0] * 4])
    inputs = (PAIR, np.array([0.8, 0.4]), np.array([0]), None, variances)
    voted, merged = var_vote(*inputs, vote="bayes", iou_threshold=0.8, vote_weight="score")
    np.testing.assert_allclose(voted, [[0.2, 0, 10.2, 10]], rtol=1e-12)  # (0 / 1 + 1 / 4) / (1 + 1 / 4)
    np.testing.assert_allclose(merged, np.full((1, 4), 0.8), rtol=1e-12)
    alone = var_vote(*inputs, vote="bayes", iou_threshold=0.9)
    np.testing.assert_array_equal(alone[0], PAIR[:1])
    np.testing.assert_array_equal(alone[1], variances[:1])


def test_without_variances_the_score_weighs() -> None:
    scores = np.array([0.8, 0.4])
    voted, merged = var_vote(PAIR, scores, np.array([0]))
    assert merged is None
    np.testing.assert_array_equal(voted, var_vote(PAIR, scores, np.array([0]), vote_weight="score")[0])
    assert voted[0, 0] == pytest.approx(CLOSENESS / 2 / (1 + CLOSENESS / 2), rel=1e-12)


@pytest.mark.parametrize("oriented", [False, True])
def test_limits_that_leave_boxes_where_they_are(scenes, oriented) -> None:
    boxes, scores, classes, variances, _ = scenes.oriented(3, 60) if oriented else scenes.horizontal(3, 60, "dense")
    boxes = boxes.astype(np.float64)
    kept = np.array([4, 17, 33])
    huge = np.where(np.isin(np.arange(60), kept)[:, None], 1e-9, 1e9) * variances
    for alone in (
        var_vote(boxes, scores, kept, classes, variances, vote_sigma=1e-9),
        var_vote(boxes, scores, kept, classes, variances, vote_iou=1.0),
        var_vote(boxes, scores, kept, np.arange(60), variances),
        var_vote(boxes, scores, kept, classes, huge, vote_sigma=0.002),
    ):
        np.testing.assert_allclose(alone[0], boxes[kept], rtol=1e-6)
    assert np.abs(var_vote(boxes, scores, kept, classes, variances, vote_sigma=1.0)[0] - boxes[kept]).max() > 0.1


def test_identical_candidates_stay_exactly_and_a_zero_variance_wins() -> None:
    boxes = np.tile([[3.1, 4.7, 9.3, 8.9]], (7, 1))
    variances = np.full((7, 4), 0.3)
    voted, merged = var_vote(boxes, np.full(7, 0.5), np.arange(7), None, variances)
    np.testing.assert_array_equal(voted, boxes)
    np.testing.assert_allclose(merged, variances, rtol=1e-12)
    certain = np.array([[1.0] * 4, [0.0] * 4])
    voted, merged = var_vote(PAIR, np.array([0.9, 0.5]), np.array([0]), None, certain)
    np.testing.assert_allclose(voted, PAIR[1:], atol=1e-9)
    assert merged.max() < 1e-9


def test_zero_scores_vote_equally() -> None:
    voted, _ = var_vote(PAIR, np.zeros(2), np.array([0]))
    assert voted[0, 0] == pytest.approx(CLOSENESS / (1 + CLOSENESS), rel=1e-12)


@pytest.mark.parametrize("method", ["hard", "soft", "soft-linear", "iou-guided"])
@pytest.mark.parametrize(
    "vote", [{"vote": "var"}, {"vote": "bayes"}, {"vote": "var", "vote_pool": "all", "merge": "fused"}]
)
def test_zero_angle_equals_horizontal(scenes, method, vote) -> None:
    boxes, scores, classes, variances, ious = scenes.horizontal(11, 300, "dense")
    boxes = torch.from_numpy(boxes).double()
    rotated = xyxy_to_xywhr(boxes).numpy()
    angle_variance = np.full((300, 1), 0.01)
    options = Suppression(method, iou_threshold=0.501, **vote)
    ious = ious if options.guided else None
    flat = suppress(boxes.numpy(), scores, classes, variances, options, ious=ious)
    turned = suppress(rotated, scores, classes, np.hstack((variances, angle_variance)), options, ious=ious)
    np.testing.assert_array_equal(turned.index, flat.index)
    np.testing.assert_allclose(turned.scores, flat.scores, rtol=1e-6)
    np.testing.assert_allclose(turned.boxes, xyxy_to_xywhr(torch.from_numpy(flat.boxes)).numpy(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(turned.variances[:, :4], flat.variances, rtol=1e-9)


@pytest.mark.parametrize("turn", [0.3, 1.0, QUARTER, 2.0, -2.5])
def test_turning_the_image_turns_the_result(scenes, turn) -> None:
    boxes, scores, classes, variances, _ = scenes.oriented(8, 80)
    cos, sin = math.cos(turn), math.sin(turn)
    turned = np.column_stack((boxes[:, :2] @ [[cos, sin], [-sin, cos]], boxes[:, 2:4], boxes[:, 4] + turn))
    kept = suppress(boxes, scores, classes, variances, Suppression(vote="var", vote_sigma=0.2))
    other = suppress(turned, scores, classes, variances, Suppression(vote="var", vote_sigma=0.2))
    np.testing.assert_array_equal(other.index, kept.index)
    np.testing.assert_allclose(other.boxes[:, 2:], kept.boxes[:, 2:] + [0, 0, turn], rtol=1e-9)
    np.testing.assert_allclose(other.boxes[:, :2], kept.boxes[:, :2] @ [[cos, sin], [-sin, cos]], rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(other.variances, kept.variances, rtol=1e-7)


@pytest.mark.parametrize("turns", [-6, -3, -2, -1, 1, 2, 3, 5])
def test_the_representation_of_other_candidates_does_not_matter(scenes, turns) -> None:
    boxes, scores, classes, variances, _ = scenes.oriented(9, 80)
    best = scores.argmax()
    other = boxes.copy()
    other[:, 4] += turns * QUARTER
    if turns % 2:
        other[:, 2:4] = boxes[:, 3:1:-1]
    # A representation turned by a quarter calls the right side of the box its top.
    moved = variances.copy()
    for side in range(4):
        moved[:, (side - turns) % 4] = variances[:, side]
    other[best], moved[best] = boxes[best], variances[best]
    first = var_vote(boxes, scores, np.array([best]), classes, variances, vote_sigma=0.5)
    second = var_vote(other, scores, np.array([best]), classes, moved, vote_sigma=0.5)
    np.testing.assert_allclose(second[0], first[0], rtol=1e-9)
    np.testing.assert_allclose(second[1], first[1], rtol=1e-9)


def test_the_angle_is_voted_through_its_wrapped_difference() -> None:
    boxes = np.array([[0, 0, 8, 4, 0.1], [0, 0, 4, 8, QUARTER - 0.1]])  # the second is (8, 4, -0.1)
    voted, merged = var_vote(boxes, np.array([0.9, 0.8]), np.array([0]), None, np.ones((2, 5)), vote_sigma=1e6)
    np.testing.assert_allclose(voted, [[0, 0, 8, 4, 0]], atol=1e-6)
    np.testing.assert_allclose(merged, [[1, 1, 1, 1, 1.01]], atol=1e-6)


def test_an_unknown_angle_does_not_vote() -> None:
    boxes = np.array([[0, 0, 8, 4, 0.1], [0.5, 0, 8, 4, -0.1]])
    scores, variances = np.array([0.9, 0.8]), np.ones((2, 4))
    for weight in ("variance", "score", "both"):
        for merge in ("total", "fused"):
            options = {"vote_weight": weight, "merge": merge}
            voted, merged = var_vote(boxes, scores, np.array([0]), None, variances, **options)
            assert merged.shape == (1, 4)
            assert voted[0, 4] == 0.1
            assert voted[0, 0] > 0.01
            kept = suppress(boxes, scores, None, variances, Suppression("hard", vote="var", **options))
            np.testing.assert_array_equal(kept.boxes, voted)
            np.testing.assert_array_equal(kept.variances, merged)


def test_votes_after_a_foreign_suppression_equal_those_of_our_own(scenes) -> None:
    boxes, scores, classes, variances, _ = map(torch.from_numpy, scenes.horizontal(6, 3000, "dense"))
    index = batched_nms(boxes, scores, classes, 0.6)
    voted, merged = var_vote(boxes, scores, index, classes, variances)
    options = Suppression("hard", iou_threshold=0.6, score_threshold=0, max_det=3000, vote="var", vote_pool="all")
    kept = suppress(boxes, scores, classes, variances, options)
    assert torch.equal(kept.index, index)
    assert torch.equal(kept.boxes, voted)
    assert torch.equal(kept.variances, merged)
    assert (voted.dtype, merged.dtype) == (torch.float32, torch.float64)


def test_no_candidates_and_no_kept_ones() -> None:
    for boxes in (np.empty((0, 4)), PAIR):
        voted, merged = var_vote(boxes, np.ones(len(boxes)), np.empty(0, np.int64), None, np.ones((len(boxes), 4)))
        assert voted.shape == merged.shape == (0, 4)


@pytest.mark.parametrize(
    ("kept", "options", "message"),
    [
        ([2], {}, "kept must hold indices from 0 to 1; got 2 to 2"),
        ([-1], {}, "got -1 to -1"),
        ([1], {"vote_pool": "alive"}, "votes among all candidates"),
        ([1], {"vote": "off"}, "votes among all candidates"),
        ([1], {"vote_share": 0.5}, "knows no decayed scores"),
        ([1], {"vote_weight": "scores"}, "did you mean 'score'"),
        ([1], {"vote": "bayes"}, "needs variances"),
    ],
)
def test_what_does_not_fit_is_an_error(kept, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        var_vote(PAIR, np.ones(2), np.array(kept), **options)


def test_a_kept_box_must_be_usable() -> None:
    with pytest.raises(ValueError, match="kept holds candidates whose box, score or variance is unusable"):
        var_vote(PAIR, np.array([0.5, np.nan]), np.array([1]))
