from __future__ import annotations

import math

import numpy as np
import pytest

from yolo_uncert.functional.sparsification import ause, sparsification


@pytest.fixture
def sample():
    """1000 absolute errors of a normal distribution whose sigma differs by box and is known."""
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.5, 4.0, 1000)
    return np.abs(sigma * rng.standard_normal(1000)), sigma


def test_curves_by_hand():
    # mean of all 2.5; without the last row (1, 2, 3) 2, without the last two 1.5, then 1
    curves = sparsification(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.2, 0.3, 0.4]), steps=4)
    np.testing.assert_allclose(curves.fraction, [0.0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(curves.by_sigma, [1.0, 0.8, 0.6, 0.4])
    np.testing.assert_allclose(curves.oracle, [1.0, 0.8, 0.6, 0.4])
    # the other way round: without the first 3, without two 3.5, then 4
    inverse = sparsification(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.4, 0.3, 0.2, 0.1]), steps=4)
    np.testing.assert_allclose(inverse.by_sigma, [1.0, 1.2, 1.4, 1.6])
    np.testing.assert_allclose(inverse.oracle, curves.oracle)


def test_area_by_hand():
    # gaps 0, 0.4, 0.8, 1.2 at steps of 0.25: trapezoids of 0.05 + 0.15 + 0.25
    assert ause(np.array([1.0, 2.0, 3.0, 4.0]), np.array([4.0, 3.0, 2.0, 1.0]), steps=4) == pytest.approx(0.45)


def test_curves_are_those_of_the_definition(sample):
    error, sigma = sample
    curves = sparsification(error, sigma, steps=7)
    for key, curve in ((sigma, curves.by_sigma), (error, curves.oracle)):
        most_uncertain_first = sorted(range(1000), key=lambda row: -key[row])
        for step, value in enumerate(curve):
            rest = most_uncertain_first[step * 1000 // 7 :]
            assert value == pytest.approx(error[rest].mean() / error.mean())


def test_perfect_inverse_and_no_ranking(sample):
    error, sigma = sample
    assert ause(error, error) == 0
    assert ause(error, error**3) == 0, "only the ranking counts"
    random = np.random.default_rng(1).permutation(error)
    curves = sparsification(error, random)
    # half of 1000 boxes at random: the standard error of their mean, as a share of the mean of all, times five
    tolerance = 5 * error.std() / error.mean() * math.sqrt((1 / 500) * (1 - 500 / 999))
    assert curves.by_sigma[10] == pytest.approx(1, abs=tolerance)
    assert 0 < ause(error, sigma) < ause(error, random) < ause(error, 1 / (1 + error))


def test_the_scale_of_error_and_sigma_does_not_count(sample):
    error, sigma = sample
    assert ause(100 * error, sigma) == pytest.approx(ause(error, sigma))
    assert ause(error, 100 * sigma) == ause(error, sigma)


def test_no_ranking_beats_the_oracle(sample):
    curves = sparsification(*sample)
    assert (curves.oracle <= curves.by_sigma + 1e-12).all()
    assert curves.by_sigma[0] == curves.oracle[0] == 1
    assert (np.diff(curves.oracle) <= 0).all()


def test_among_equals_the_earlier_row_goes_first():
    curves = sparsification(np.array([8.0, 0.0, 4.0, 0.0]), np.ones(4), steps=4)
    # mean 3; what remains: (0, 4, 0), (4, 0), (0)
    np.testing.assert_allclose(curves.by_sigma, [1.0, 4 / 9, 2 / 3, 0.0])


def test_many_equals_keep_their_order():
    error, sigma = np.arange(100.0), np.repeat([1.0, 2.0, 1.0, 2.0], 25)
    order = np.r_[25:50, 75:100, 0:25, 50:75]
    expected = [error[order[5 * step :]].mean() / error.mean() for step in range(20)]
    np.testing.assert_allclose(sparsification(error, sigma).by_sigma, expected)


def test_few_rows_and_no_error():
    assert np.isfinite(sparsification(np.array([2.0]), np.array([1.0])).by_sigma).all()
    assert ause(np.array([2.0]), np.array([1.0])) == 0
    curves = sparsification(np.zeros(3), np.arange(3.0))
    np.testing.assert_array_equal(curves.by_sigma, np.zeros(20))
    assert ause(np.zeros(3), np.arange(3.0)) == 0


def test_without_rows_nothing_is_known():
    curves = sparsification(np.zeros(0), np.zeros(0))
    assert len(curves.fraction) == 20
    assert np.isnan(curves.by_sigma).all()
    assert np.isnan(curves.oracle).all()
    assert math.isnan(ause(np.zeros(0), np.zeros(0)))


def test_inputs_are_not_mutated(sample):
    before = sample[0].copy(), sample[1].copy()
    ause(*sample)
    np.testing.assert_array_equal(sample[0], before[0])
    np.testing.assert_array_equal(sample[1], before[1])


def test_what_cannot_be_ranked():
    with pytest.raises(ValueError, match=r"errors \(2,\) and standard deviations \(3,\)"):
        sparsification(np.zeros(2), np.ones(3))
    with pytest.raises(ValueError, match="lists of one length"):
        sparsification(np.zeros((2, 4)), np.ones((2, 4)))
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="errors must be finite and not negative"):
            sparsification(np.array([bad]), np.ones(1))
        with pytest.raises(ValueError, match="standard deviations must be finite and not negative"):
            sparsification(np.ones(1), np.array([bad]))
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        sparsification(np.ones(1), np.ones(1), steps=0)
