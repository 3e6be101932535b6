"""Suppression with and without voting, against the naive implementation and torchvision."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms, nms

from yolo_uncert.ops import Suppression, soft_nms, suppress

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
METHODS = ("hard", "soft", "soft-linear", "iou-guided")
OPTIONS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(METHODS),
        "sigma": st.sampled_from((0.1, 0.5)),
        "iou_threshold": st.sampled_from((0.0, 0.3, 0.5, 0.7)),
        "score_threshold": st.sampled_from((0.0, 0.001, 0.2)),
        "max_det": st.sampled_from((3, 300)),
        "max_nms": st.sampled_from((12, 30000)),
        "agnostic": st.booleans(),
        "vote": st.sampled_from(("off", "var", "var", "bayes")),
        "vote_sigma": st.sampled_from((0.02, 0.3)),
        "vote_iou": st.sampled_from((0.0, 0.4)),
        "vote_pool": st.sampled_from(("alive", "all")),
        "vote_share": st.sampled_from((0.0, 0.5, 0.9, 1.0)),
        "vote_weight": st.sampled_from(("variance", "score", "both")),
        "merge": st.sampled_from(("total", "fused")),
    }
)


def check(kept, expected: list[tuple]) -> None:
    assert kept.index.tolist() == [row[0] for row in expected]
    np.testing.assert_allclose(kept.scores, [row[1] for row in expected], rtol=1e-5)
    if expected:
        np.testing.assert_allclose(kept.boxes, [row[2] for row in expected], rtol=1e-5, atol=1e-5)
        if kept.variances is not None:
            np.testing.assert_allclose(kept.variances, [row[3] for row in expected], rtol=1e-5)


@pytest.mark.parametrize("real", [np.float32, np.float64])
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 40),
    kind=st.sampled_from(("spread", "dense", "grid", "flat", "identical")),
    values=OPTIONS,
    with_variances=st.booleans(),
)
@QUICK
def test_horizontal_boxes_equal_the_naive_implementation(
    naive, scenes, real, seed, count, kind, values, with_variances
) -> None:
    boxes, scores, classes, variances, ious = scenes.horizontal(seed, count, kind)
    boxes = boxes.astype(real)
    if not with_variances and values["vote"] == "bayes":
        values = values | {"vote": "var"}
    options = Suppression(**values)
    variances = variances if with_variances else None
    ious = ious if options.guided else None
    lists = [x.tolist() if x is not None else None for x in (boxes, scores, classes, variances, ious)]
    kept = suppress(boxes, scores, classes, variances, options, ious=ious)
    assert (kept.variances is None) == (variances is None)
    check(kept, naive(*lists, real=real).suppress(options))


@given(seed=st.integers(0, 10**6), count=st.integers(0, 25), values=OPTIONS)
@QUICK
def test_oriented_boxes_equal_the_naive_implementation(naive, scenes, seed, count, values) -> None:
    boxes, scores, classes, variances, ious = scenes.oriented(seed, count)
    options = Suppression(**values)
    ious = ious if options.guided else None
    lists = [x.tolist() if x is not None else None for x in (boxes, scores, classes, variances, ious)]
    kept = suppress(boxes, scores, classes, variances, options, ious=ious)
    check(kept, naive(*lists).suppress(options))


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 300),
    kind=st.sampled_from(("spread", "dense", "grid", "flat", "identical")),
    threshold=st.floats(0, 1),
    tied=st.booleans(),
)
@QUICK
def test_hard_equals_torchvision(scenes, seed, count, kind, threshold, tied) -> None:
    boxes, scores, *_ = map(torch.from_numpy, scenes.horizontal(seed, count, kind))
    if tied:
        scores = (scores * 4).round() / 4
    options = Suppression("hard", iou_threshold=threshold, score_threshold=0.0, max_det=1000)
    kept = suppress(boxes, scores, None, None, options)
    assert torch.equal(kept.index, nms(boxes, scores, threshold))
    assert torch.equal(kept.boxes, boxes[kept.index])
    assert torch.equal(kept.scores, scores[kept.index])


def test_hard_equals_torchvision_by_class_for_thousands(scenes) -> None:
    boxes, scores, classes, *_ = map(torch.from_numpy, scenes.horizontal(3, 8000, "spread"))
    kept = suppress(
        boxes, scores, classes, None, Suppression("hard", iou_threshold=0.6, score_threshold=0, max_det=8000)
    )
    assert torch.equal(kept.index, batched_nms(boxes, scores, classes, 0.6))  # class by class at this size
    assert len(kept) > 500


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("vote_pool", ["alive", "all"])
def test_the_order_of_candidates_does_not_matter(scenes, method, vote_pool) -> None:
    boxes, scores, classes, variances, ious = scenes.horizontal(5, 400, "dense")
    order = np.random.default_rng(1).permutation(400)
    options = Suppression(method, vote="var", vote_pool=vote_pool)
    for sides in (boxes, np.column_stack((boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores))):
        inputs = [sides, scores, classes, variances]
        first = suppress(*inputs, options, ious=ious if options.guided else None)
        second = suppress(*(x[order] for x in inputs), options, ious=ious[order] if options.guided else None)
        np.testing.assert_array_equal(order[second.index], first.index)
        np.testing.assert_allclose(second.scores, first.scores, rtol=1e-12)
        np.testing.assert_allclose(second.boxes, first.boxes, rtol=1e-5)
        np.testing.assert_allclose(second.variances, first.variances, rtol=1e-5)


def test_decay_by_hand() -> None:
    # Half of each box overlaps: IoU 1/3. Gaussian: 0.8 exp(-(1/9) / 0.5); linear: 0.8 (1 - 1/3).
    boxes, scores = np.array([[0.0, 0, 4, 2], [2, 0, 6, 2]]), np.array([0.9, 0.8])
    assert soft_nms(boxes, scores)[1].tolist() == pytest.approx([0.9, 0.8 * math.exp(-2 / 9)], rel=1e-12)
    linear = soft_nms(boxes, scores, method="soft-linear", iou_threshold=0.3)
    assert linear[1].tolist() == pytest.approx([0.9, 0.8 * 2 / 3], rel=1e-12)
    # At the threshold nothing happens: "above" is strict.
    assert soft_nms(boxes, scores, method="soft-linear", iou_threshold=1 / 3)[1].tolist() == [0.9, 0.8]


def test_a_decayed_score_below_the_threshold_is_dropped() -> None:
    boxes, scores = np.array([[0.0, 0, 4, 2], [2, 0, 6, 2], [9, 9, 12, 12]]), np.array([0.9, 0.8, 0.65])
    index, decayed = soft_nms(boxes, scores, score_threshold=0.65)  # 0.8 exp(-2/9) = 0.64
    assert index.tolist() == [0, 2]
    assert decayed.tolist() == [0.9, 0.65]


def test_iou_guided_by_hand() -> None:
    # The better localised box is picked first and inherits the higher score of the one that it removes.
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10]])
    options = Suppression("iou-guided", iou_threshold=0.5)
    kept = suppress(boxes, np.array([0.9, 0.4, 0.6]), None, None, options, ious=np.array([0.5, 0.8, 0.7]))
    assert kept.index.tolist() == [1, 2]
    assert kept.scores.tolist() == [0.9, 0.6]


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0], [2, 0, 1]])
def test_a_predicted_iou_that_is_no_number_is_rejected(order, backend, caplog) -> None:
    boxes, scores = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9.9], [0, 0, 10, 9.8]]), np.array([0.5, 0.6, 0.9])
    ious = np.array([0.5, np.nan, 0.9])
    kept = suppress(boxes[order], scores[order], options=Suppression("iou-guided"), ious=ious[order], backend=backend)
    assert np.array(order)[kept.index].tolist() == [2]
    assert "rejected 1 of 3 candidates" in caplog.text


def test_lists_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="scores must be a numpy array or a torch tensor, not list"):
        soft_nms(np.zeros((1, 4)), [0.5])


def test_of_equal_candidates_the_first_is_kept() -> None:
    boxes, scores = np.tile([[5.0, 5, 9, 9]], (6, 1)), np.full(6, 0.5)
    kept = suppress(boxes, scores, np.array([1, 1, 0, 0, 1, 0]), None, Suppression("hard"))
    assert kept.index.tolist() == [0, 2]
    assert soft_nms(boxes, scores)[0].tolist() == [0, 1, 2, 3]  # the fifth: 0.5 exp(-2)^4 < 0.001


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_of_equal_scores_the_first_take_part(backend) -> None:
    boxes = np.array([[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(5)])
    scores = np.array([0.5, 0.5, 0.9, 0.5, 0.5])
    found = suppress(boxes, scores, None, None, Suppression("hard", max_nms=3), backend=backend)
    assert found.index.tolist() == [2, 0, 1]


def test_thirty_thousand_candidates(scenes) -> None:
    boxes, scores, classes, variances, _ = scenes.horizontal(2, 30000, "dense")
    kept = suppress(boxes, scores, classes, variances, Suppression("hard", vote="var", iou_threshold=0.8))
    whole = suppress(boxes, scores, classes, variances, Suppression("hard", iou_threshold=0.8, max_det=30000))
    np.testing.assert_array_equal(kept.index, whole.index[:300])
    assert len(kept) == 300


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("sides", [4, 5])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("vote", ["off", "var", "bayes"])
def test_no_candidate_and_one(count, sides, method, vote) -> None:
    options = Suppression(method, vote=vote)
    boxes, variances = torch.full((count, sides), 2.0), torch.ones(count, sides)
    ious = torch.ones(count) if options.guided else None
    kept = suppress(boxes, torch.full((count,), 0.5), torch.zeros(count).long(), variances, options, ious=ious)
    assert len(kept) == count
    assert torch.equal(kept.boxes, boxes)
    assert torch.equal(kept.variances, variances)


@pytest.mark.parametrize("real", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_tensors_keep_their_types(real) -> None:
    boxes, scores = torch.tensor([[0, 0, 4, 2], [0, 0, 4, 4]]).to(real), torch.tensor([0.5, 0.25], dtype=torch.float16)
    kept = suppress(boxes, scores, None, torch.ones(2, 4), Suppression(vote="var"))
    assert kept.index.dtype == torch.int64
    assert kept.scores.dtype == torch.float16
    assert kept.boxes.dtype == (torch.float64 if real == torch.int64 else real)
    assert kept.variances.dtype == torch.float32


def test_arrays_keep_their_types_and_inputs_are_not_touched(scenes) -> None:
    inputs = [x[::-1] for x in scenes.horizontal(1, 60, "dense")[:4]]  # not contiguous
    before = [x.copy() for x in inputs]
    for x in inputs:
        x.flags.writeable = False
    for pool in ("alive", "all"):
        kept = suppress(*inputs, Suppression(vote="var", vote_pool=pool))
        assert (kept.index.dtype, kept.scores.dtype, kept.boxes.dtype) == (np.int64, np.float32, np.float32)
        assert type(kept.boxes) is np.ndarray
    for x, copy in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(x, copy)


def test_results_are_no_views_and_carry_no_graph(scenes) -> None:
    boxes, scores, *_ = map(torch.from_numpy, scenes.horizontal(1, 20, "spread"))
    boxes, scores = boxes.double().requires_grad_(), scores.double().requires_grad_()
    kept = suppress(boxes, scores)
    assert not kept.boxes.requires_grad
    kept.boxes.zero_()
    kept.scores.zero_()
    assert boxes.abs().sum() > 0
    assert scores.sum() > 0


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("sides", [4, 5])
def test_broken_candidates_are_rejected_and_counted(scenes, caplog, backend, sides) -> None:
    make = scenes.oriented if sides == 5 else lambda *a: scenes.horizontal(*a, "dense")
    boxes, scores, classes, variances, _ = (x.copy() for x in make(4, 30))
    boxes[3, 1], boxes[4, 2], scores[5], scores[6], variances[7, 0], variances[8, 3] = (
        np.nan,
        np.inf,
        np.nan,
        np.inf,
        np.nan,
        -1,
    )
    whole = np.setdiff1d(np.arange(30), np.arange(3, 9))
    for options in (
        Suppression(),
        Suppression(vote="var", vote_weight="score"),
        Suppression(vote="var", vote_pool="all"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            kept = suppress(boxes, scores, classes, variances, options, backend=backend)
        assert "rejected 6 of 30 candidates" in caplog.text
        rest = suppress(*(x[whole] for x in (boxes, scores, classes, variances)), options, backend=backend)
        np.testing.assert_array_equal(kept.index, whole[rest.index])
        np.testing.assert_array_equal(kept.boxes, rest.boxes)


def test_huge_and_tiny_numbers_stay_finite() -> None:
    boxes = torch.tensor([[0, 0, 3e38, 3e38], [0, 0, 3e38, 3e38], [0, 0, 1e-30, 1e-30], [0, 0, 1e-30, 1e-30]])
    for method in ("soft", "soft-linear", "hard"):
        kept = suppress(
            boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), None, torch.zeros(4, 4), Suppression(method, vote="var")
        )
        assert kept.scores.isfinite().all()
        assert kept.boxes.isfinite().all()
        assert kept.variances.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.ones(3, 6)}, r"boxes must be \[N, 4\] \(xyxy\) or \[N, 5\] \(xywhr\); got \[3, 6\]"),
        ({"boxes": torch.ones(4)}, r"got \[4\]"),
        ({"scores": torch.ones(2)}, r"scores must be \[3\], one per box; got \[2\]"),
        ({"scores": torch.ones(3, 1)}, r"scores must be \[3\]"),
        ({"classes": torch.ones(4)}, r"classes must be \[3\]"),
        ({"variances": torch.ones(3, 5)}, r"variances must be \[3, 4\], one per side"),
        ({"ious": torch.ones(3)}, "ious belong to method='iou-guided'"),
        ({"options": Suppression("iou-guided")}, "that method needs them"),
        ({"options": Suppression(vote="bayes")}, "vote='bayes' multiplies Gaussians and needs variances"),
        ({"backend": "numpy"}, "backend is 'numpy'.*Allowed: auto, numba, torch, triton"),
    ],
)
def test_what_does_not_fit_is_an_error(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        suppress(**({"boxes": torch.ones(3, 4), "scores": torch.ones(3)} | change))


def test_lists_are_an_error() -> None:
    with pytest.raises(TypeError, match="boxes must be a numpy array or a torch tensor, not list"):
        suppress([[0, 0, 1, 1]], [0.5])


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_one_unknown_angle_among_known_ones_does_not_vote(backend):
    boxes = np.array([[50.0, 50.0, 20.0, 10.0, 0.1], [50.0, 50.0, 20.0, 10.0, 0.2]])
    variances = np.array([[1.0, 1.0, 1.0, 1.0, 0.1], [1.0, 1.0, 1.0, 1.0, np.inf]])
    kept = suppress(boxes, np.array([0.9, 0.8]), None, variances, Suppression("hard", vote="var"), backend=backend)
    assert kept.index.tolist() == [0]
    assert kept.boxes[0, 4] == pytest.approx(0.1)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("pool", ["alive", "all"])
def test_decayed_boxes_are_voted_only_if_they_kept_their_share(backend, pool) -> None:
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [2, 0, 12, 10]])
    variances = np.array([[1.0] * 4, [2.0] * 4, [4.0] * 4])
    # IoU 9 / 11 and 8 / 12 with the first: it leaves 0.262 and 0.411 of the others' scores, so that the third is next.
    given = boxes, np.array([0.9, 0.8, 0.7]), None, variances
    papers = suppress(*given, Suppression(vote="var", vote_share=0, vote_pool=pool), backend=backend)
    half = suppress(*given, Suppression(vote="var", vote_pool=pool), backend=backend)
    fourth = suppress(*given, Suppression(vote="var", vote_share=0.4, vote_pool=pool), backend=backend)
    for kept in (papers, half, fourth):
        assert kept.index.tolist() == [0, 2, 1]
        np.testing.assert_allclose(kept.scores, papers.scores)
        np.testing.assert_array_equal(kept.boxes[0], papers.boxes[0])
    np.testing.assert_array_equal(half.boxes[1:], boxes[[2, 1]])
    np.testing.assert_array_equal(half.variances[1:], variances[[2, 1]])
    np.testing.assert_array_equal(fourth.boxes[1:], [papers.boxes[1], boxes[1]])
    if pool == "alive":  # the second votes for the third with exp(-(2 / 11)^2 / 0.02) / 2, the third itself with 1 / 4
        weight = math.exp(-((2 / 11) ** 2) / 0.02) / 2
        assert papers.boxes[1, 0] == pytest.approx((2 / 4 + weight) / (1 / 4 + weight))


@pytest.mark.parametrize("method", ["hard", "iou-guided"])
def test_no_share_is_asked_where_nothing_decays(scenes, method) -> None:
    *given, ious = scenes.horizontal(6, 80, "dense")
    ious = ious if method == "iou-guided" else None
    every, full = (
        suppress(*given, Suppression(method, vote="var", iou_threshold=0.4, vote_share=share), ious=ious)
        for share in (0.0, 1.0)
    )
    np.testing.assert_array_equal(full.boxes, every.boxes)
    np.testing.assert_array_equal(full.variances, every.variances)
