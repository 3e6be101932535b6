from __future__ import annotations

import math

import numpy as np
import pytest

from yolo_uncert.functional.score_calibration import d_ece, la_ece, reliability_bins


@pytest.fixture
def sample():
    """2000 detections of 5 classes, overconfident."""
    rng = np.random.default_rng(0)
    conf = rng.uniform(0, 1, 2000)
    correct = rng.uniform(0, 1, 2000) < conf**2
    return conf, correct, correct * rng.uniform(0.5, 1, 2000), rng.integers(0, 5, 2000)


def naive_error(conf, target, bins):
    """Return the expected calibration error of the definition, one detection after the other."""
    groups = [[] for _ in range(bins)]
    for p, t in zip(conf, target, strict=True):
        groups[max(math.ceil(p * bins) - 1, 0)].append((p, t))
    return sum(abs(sum(p - t for p, t in group)) for group in groups) / len(conf)


def test_bins_by_hand():
    bins = reliability_bins(np.array([0.0, 0.1, 0.5, 0.9, 1.0]), np.array([0, 0, 1, 1, 0.5]), 2)
    np.testing.assert_array_equal(bins.edges, [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(bins.count, [3, 2])  # the edge 0.5 belongs to the lower bin
    np.testing.assert_allclose(bins.mean_conf, [0.2, 0.95])
    np.testing.assert_allclose(bins.mean_target, [1 / 3, 0.75])
    # 3/5 of a gap of 2/15 and 2/5 of one of 1/5
    assert bins.expected_error == pytest.approx(0.08 + 0.08)


def test_an_empty_bin_has_no_mean():
    bins = reliability_bins(np.array([0.1, 0.9]), np.array([0.0, 1.0]), 3)
    np.testing.assert_array_equal(bins.count, [1, 0, 1])
    assert math.isnan(bins.mean_conf[1])
    assert math.isnan(bins.mean_target[1])
    assert bins.expected_error == pytest.approx(0.1)


@pytest.mark.parametrize("bins", [1, 10, 20])
def test_d_ece_is_that_of_the_definition(sample, bins):
    conf, correct, _, _ = sample
    assert d_ece(conf, correct, bins) == pytest.approx(naive_error(conf, correct, bins))


@pytest.mark.parametrize("bins", [1, 10, 20])
def test_d_ece_is_that_of_netcal(sample, bins):
    ece = pytest.importorskip("netcal.metrics").ECE
    conf, correct, _, _ = sample
    assert d_ece(conf, correct, bins) == pytest.approx(ece(bins, detection=True).measure(conf, correct.astype(int)))


def test_d_ece_limits():
    assert d_ece(np.ones(3), np.ones(3, dtype=bool)) == 0
    assert d_ece(np.zeros(3), np.zeros(3, dtype=bool)) == 0
    assert d_ece(np.ones(3), np.zeros(3, dtype=bool)) == 1
    # a score of 0.7 is right 7 times out of 10
    assert d_ece(np.full(10, 0.7), np.arange(10) < 7) == pytest.approx(0)


def test_true_scores_are_calibrated():
    rng = np.random.default_rng(1)
    conf = rng.uniform(0, 1, 20_000)
    # the gap of a bin of n detections has a standard error below 0.5 / sqrt(n), n about 1000; the mean of 20 such gaps
    # exceeds three of them never
    assert d_ece(conf, rng.uniform(0, 1, 20_000) < conf) < 3 * 0.5 / math.sqrt(1000)


def test_la_ece_by_hand():
    conf = np.array([0.9, 0.7, 0.2, 0.6])
    iou = np.array([0.8, 0.0, 0.2, 0.5])
    # one bin: class 3 has mean score 0.6 and mean overlap 1/3, class 7 0.6 and 0.5; the mean of 4/15 and 1/10
    assert la_ece(conf, iou, np.array([3, 3, 3, 7]), bins=1) == pytest.approx((4 / 15 + 1 / 10) / 2)


def test_la_ece_is_that_of_the_definition(sample):
    conf, _, iou, cls = sample
    per_class = [naive_error(conf[cls == c], iou[cls == c], 25) for c in range(5)]
    assert la_ece(conf, iou, cls) == pytest.approx(np.mean(per_class))


def test_classes_count_equally():
    # class 0, a thousand times right, class 1 once as wrong as can be
    conf, iou = np.ones(1001), np.append(np.ones(1000), 0.0)
    assert la_ece(conf, iou, np.append(np.zeros(1000, dtype=int), 1)) == 0.5


def test_one_class_of_true_and_false_detections_is_d_ece(sample):
    conf, correct, _, _ = sample
    assert la_ece(conf, correct.astype(float), np.zeros(2000, dtype=int), bins=20) == d_ece(conf, correct)


def test_single_precision_is_accepted(sample):
    conf, _, iou, cls = sample
    single = la_ece(conf.astype(np.float32), iou.astype(np.float32), cls)
    assert single == pytest.approx(la_ece(conf, iou, cls), abs=1e-6)


def test_without_detections_nothing_is_known():
    nothing = np.zeros(0)
    assert math.isnan(d_ece(nothing, nothing.astype(bool)))
    assert math.isnan(la_ece(nothing, nothing, nothing.astype(int)))
    np.testing.assert_array_equal(reliability_bins(nothing, nothing, 4).count, np.zeros(4))


def test_inputs_are_not_mutated(sample):
    before = [array.copy() for array in sample]
    d_ece(sample[0], sample[1])
    la_ece(sample[0], sample[2], sample[3])
    for array, copy in zip(sample, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_what_cannot_be_binned():
    with pytest.raises(ValueError, match=r"scores \(2,\) and targets \(3,\)"):
        d_ece(np.zeros(2), np.zeros(3, dtype=bool))
    with pytest.raises(ValueError, match="lists of one length"):
        reliability_bins(np.zeros((2, 1)), np.zeros((2, 1)), 5)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"scores must lie in \[0, 1\]"):
            reliability_bins(np.array([bad]), np.zeros(1), 5)
        with pytest.raises(ValueError, match=r"targets must lie in \[0, 1\]"):
            la_ece(np.zeros(1), np.array([bad]), np.zeros(1, dtype=int))
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        d_ece(np.zeros(1), np.zeros(1, dtype=bool), bins=0)
    with pytest.raises(ValueError, match=r"scores \(2,\), overlaps \(2,\) and classes \(1,\)"):
        la_ece(np.zeros(2), np.zeros(2), np.zeros(1, dtype=int))
