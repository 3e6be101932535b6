from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from yolo_uncert.functional.calibrators import (
    BIN,
    FACTOR_MIN,
    TARGETS,
    Isotonic,
    Temperature,
    coverage_factor,
    scale_from_dict,
)
from yolo_uncert.functional.reliability import calibration_error

KINDS = pytest.mark.parametrize("kind", [Temperature, Isotonic])


def column(*values):
    return np.repeat(np.array(values, dtype=float), BIN)[:, None]


# --- temperature ------------------------------------------------------------------------------------------------------


def test_likelihood_wants_the_root_mean_square():
    residual = np.array([[3.0, -2.0], [-8.0, 2.0]])
    sigma = np.array([[1.0, 2.0], [2.0, 2.0]])
    # residual / sigma: 3 and -4, RMS sqrt((9 + 16) / 2); -1 and 1, RMS 1
    assert Temperature.fit(residual, sigma, "nll").factors == pytest.approx([math.sqrt(12.5), 1.0])


@pytest.mark.parametrize("target", TARGETS)
def test_temperature_recovers_a_known_factor(target):
    rng = np.random.default_rng(0)
    sigma = np.exp(rng.normal(size=(20000, 3)))
    truth = np.array([0.25, 1.0, 7.0])
    residual = sigma * truth * rng.normal(size=sigma.shape)
    # The RMS of n Gaussians has a relative standard error of 1 / sqrt(2 n) = 0.5 %; central coverage is less efficient.
    assert Temperature.fit(residual, sigma, target).factors == pytest.approx(truth, rel=0.02)


@KINDS
def test_heavy_tails_are_calibrated_by_coverage_and_not_by_likelihood(kind):
    """Student's t with 3 degrees of freedom: its standard deviation is sqrt(3), but most residuals are far smaller."""
    rng = np.random.default_rng(0)
    sigma = np.exp(rng.normal(size=(4000, 2)))
    residual = sigma * rng.standard_t(3, size=sigma.shape)
    fitted, other = slice(0, None, 2), slice(1, None, 2)
    error = {}
    for target in TARGETS:
        scale = kind.fit(residual[fitted], sigma[fitted], target)
        error[target] = calibration_error(residual[other], sigma[other] * scale.factor(sigma[other]))
    assert (error["coverage"] < 0.03).all()
    assert (error["nll"] > 0.06).all()


def test_coverage_factor_makes_every_level_right_if_one_factor_can():
    # Normal quantiles times 2.5, at the ranks' midpoints
    from scipy.special import ndtri

    ratio = 2.5 * ndtri((np.arange(4000) + 0.5) / 4000)
    assert coverage_factor(ratio) == pytest.approx(2.5, rel=0.01)
    assert coverage_factor(-ratio) == coverage_factor(ratio)


def test_residuals_of_zero_leave_a_positive_sigma():
    zeros, ones = np.zeros((60, 1)), np.ones((60, 1))
    assert coverage_factor(zeros[:, 0]) == 0
    for target in TARGETS:
        assert Temperature.fit(zeros, ones, target).factors == pytest.approx([FACTOR_MIN])
        assert 0 < Isotonic.fit(zeros, ones, target).factor(ones)[0, 0] <= FACTOR_MIN
    assert coverage_factor(np.array([0.0, 0, 0, 1])) > 0


# --- isotonic ---------------------------------------------------------------------------------------------------------


def test_isotonic_passes_through_the_bins_of_increasing_residuals():
    scale = Isotonic.fit(column(2, -6), column(1, 3), "nll")
    at = np.array([[1.0], [3.0], [2.0], [0.25], [6.0]])
    # Both knots double sigma, and so does the line between them and the constant factor beyond.
    assert scale.factor(at)[:, 0] == pytest.approx([2.0] * 5)
    scale = Isotonic.fit(column(1, 9), column(1, 3), "nll")
    # (1, 1) and (3, 9): 5 at the middle; below sigma * 1, above sigma * 3
    assert (at * scale.factor(at))[:, 0] == pytest.approx([1.0, 9.0, 5.0, 0.25, 18.0])


def test_isotonic_pools_residuals_that_decrease():
    scale = Isotonic.fit(column(3, 1), column(1, 3), "nll")
    # Pooled: RMS sqrt((9 + 1) / 2) at the median sigma 2, one knot, hence one factor for all.
    assert scale.factor(np.array([[0.1], [2.0], [50.0]]))[:, 0] == pytest.approx([math.sqrt(5) / 2] * 3)


def test_isotonic_takes_equal_sigmas_for_one():
    residual = np.random.default_rng(0).normal(size=(10 * BIN, 1))
    scale = Isotonic.fit(residual, np.full_like(residual, 0.5), "nll")
    ((x, y),) = scale.knots
    assert x == pytest.approx([0.5])
    assert y == pytest.approx([np.sqrt(np.mean(residual**2))])


@pytest.mark.parametrize("target", TARGETS)
def test_isotonic_finds_the_shape_that_a_factor_cannot(target):
    rng = np.random.default_rng(0)
    sigma = np.exp(rng.uniform(-2, 2, size=(20000, 1)))
    scale = Isotonic.fit(np.sqrt(sigma) * rng.normal(size=sigma.shape), sigma, target)
    at = np.exp(np.linspace(-1.8, 1.8, 9))[:, None]
    # The standard error of one bin of 50 is 10 %; pooling of neighbours lowers it.
    assert at * scale.factor(at) == pytest.approx(np.sqrt(at), rel=0.2)


positive = st.floats(1e-6, 1e4)


@settings(max_examples=60, deadline=None)
@given(
    residual=arrays(float, (4 * BIN, 1), elements=st.floats(-1e4, 1e4)),
    sigma=arrays(float, (4 * BIN, 1), elements=positive, unique=False),
    at=arrays(float, (20, 1), elements=positive),
    target=st.sampled_from(TARGETS),
)
def test_isotonic_is_positive_and_keeps_the_order(residual, sigma, at, target):
    scale = Isotonic.fit(residual, sigma, target)
    at = np.sort(at, axis=0)
    mapped = at * scale.factor(at)
    assert np.isfinite(mapped).all()
    assert (mapped > 0).all()
    assert (np.diff(mapped[:, 0]) >= -1e-9 * mapped[1:, 0]).all()


# --- both -------------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("target", TARGETS)
def test_round_trip_through_json(kind, target):
    rng = np.random.default_rng(1)
    sigma, residual = np.exp(rng.normal(size=(300, 5))), rng.normal(size=(300, 5))
    before = sigma.copy(), residual.copy()
    scale = kind.fit(residual, sigma, target)
    again = scale_from_dict(json.loads(json.dumps(scale.as_dict())))
    assert type(again) is kind
    assert np.array_equal(again.factor(sigma), scale.factor(sigma))
    assert again.factor(sigma[:0]).shape == (0, 5)
    assert np.array_equal(before, (sigma, residual)), "inputs stay"


def test_unknown_kind():
    with pytest.raises(ValueError, match="unknown calibration map 'spline'"):
        scale_from_dict({"kind": "spline"})


@KINDS
def test_bad_input(kind):
    with pytest.raises(ValueError, match="at least one box"):
        kind.fit(np.zeros((0, 4)), np.zeros((0, 4)))
    with pytest.raises(ValueError, match="same shape"):
        kind.fit(np.zeros((3, 4)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="finite"):
        kind.fit(np.full((3, 4), np.nan), np.ones((3, 4)))
