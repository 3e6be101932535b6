from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from uncertainty_toolbox import mean_absolute_calibration_error

from yolo_uncert.functional.reliability import LEVELS, calibration_error, coverage


def gap_bound(n: int) -> float:
    """Return what no gap of n true residuals exceeds, but once in a million (Dvoretzky-Kiefer-Wolfowitz inequality)."""
    return math.sqrt(math.log(2e6) / (2 * n))


@pytest.fixture
def true():
    """20 000 boxes whose residuals are drawn with their sigma."""
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.5, 4.0, (20_000, 4))
    return sigma * rng.standard_normal(sigma.shape), sigma


def test_levels():
    np.testing.assert_allclose(LEVELS, np.arange(1, 20) / 20)
    with pytest.raises(ValueError, match="read-only"):
        LEVELS[0] = 0.5


def test_coverage_by_hand():
    residual = np.array([[0.5, -3.0], [-1.5, 0.0], [2.5, 0.0], [0.0, 9.0]])
    sigma = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 0.0], [1.0, 2.0]])
    one, two = norm.cdf(1) - norm.cdf(-1), norm.cdf(2) - norm.cdf(-2)
    # first coordinate: 0.5 and 0 lie within one sigma, 1.5 as well within two; second: 0 and 0 within one, and 3/2
    np.testing.assert_array_equal(coverage(residual, sigma, np.array([one, two])), [[0.5, 0.5], [0.75, 0.75]])


def test_a_sigma_of_0_covers_an_exact_box_only():
    shares = coverage(np.array([[0.0, 1e-12]]), np.zeros((1, 2)))
    np.testing.assert_array_equal(shares, np.tile([1.0, 0.0], (19, 1)))


def test_true_sigmas_are_calibrated(true):
    shares = coverage(*true)
    assert np.abs(shares - LEVELS[:, None]).max() < gap_bound(20_000)
    assert (calibration_error(*true) < gap_bound(20_000)).all()


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scaled_sigmas_cover_what_theory_says(true, factor):
    residual, sigma = true
    expected = 2 * norm.cdf(factor * norm.ppf((1 + LEVELS) / 2)) - 1
    np.testing.assert_allclose(
        coverage(residual, factor * sigma), np.tile(expected[:, None], 4), atol=gap_bound(20_000), rtol=0
    )
    np.testing.assert_allclose(
        calibration_error(residual, factor * sigma), np.abs(expected - LEVELS).mean(), atol=gap_bound(20_000)
    )


@pytest.mark.parametrize("factor", [0.4, 1.0, 1.7])
def test_the_error_is_that_of_uncertainty_toolbox(true, factor):
    residual, sigma = true[0][:500], factor * true[1][:500]
    # its 21 levels are our 19 and 0 and 1, both without a gap
    theirs = [
        mean_absolute_calibration_error(np.zeros(500), s, e, num_bins=21, vectorized=True, prop_type="interval")
        for e, s in zip(residual.T, sigma.T, strict=True)
    ]
    np.testing.assert_allclose(calibration_error(residual, sigma), np.array(theirs) * 21 / 19)


def test_coverage_grows_with_the_level_and_with_sigma(true):
    residual, sigma = true
    shares = coverage(residual, sigma)
    assert (np.diff(shares, axis=0) >= 0).all()
    assert (coverage(residual, 1.1 * sigma) >= shares).all()


def test_extremes():
    residual = np.array([[1.0]])
    # nothing is ever covered: the mean level; everything is: its complement, the same
    assert calibration_error(residual, np.array([[1e-9]])) == pytest.approx(0.5)
    assert calibration_error(residual, np.array([[1e9]])) == pytest.approx(0.5)


def test_without_rows_nothing_is_known():
    nothing = np.zeros((0, 4))
    assert coverage(nothing, nothing).shape == (19, 4)
    assert np.isnan(coverage(nothing, nothing)).all()
    assert calibration_error(nothing, nothing).shape == (4,)
    assert np.isnan(calibration_error(nothing, nothing)).all()


def test_inputs_are_not_mutated(true):
    before = true[0].copy(), true[1].copy()
    calibration_error(*true)
    np.testing.assert_array_equal(true[0], before[0])
    np.testing.assert_array_equal(true[1], before[1])


@pytest.mark.parametrize("metric", [coverage, calibration_error])
def test_what_cannot_be_measured(metric):
    with pytest.raises(ValueError, match=r"residuals \(2, 4\) and standard deviations \(2, 5\)"):
        metric(np.zeros((2, 4)), np.ones((2, 5)))
    with pytest.raises(ValueError, match="residuals must be finite"):
        metric(np.array([[math.nan]]), np.ones((1, 1)))
    with pytest.raises(ValueError, match="not negative"):
        metric(np.zeros((1, 1)), -np.ones((1, 1)))
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="levels must be a list of numbers between 0 and 1"):
            metric(np.zeros((1, 1)), np.ones((1, 1)), np.array([0.5, level]))
    with pytest.raises(ValueError, match="levels must be a list"):
        metric(np.zeros((1, 1)), np.ones((1, 1)), np.array([[0.5]]))


def test_an_error_needs_a_level():
    with pytest.raises(ValueError, match="at least one level"):
        calibration_error(np.zeros((1, 1)), np.ones((1, 1)), np.zeros(0))
