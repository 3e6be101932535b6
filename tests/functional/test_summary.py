"""Summary of residuals and sigma against independent references and by its invariances."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from yolo_uncert.functional.summary import SigmaSummary, summarise


@pytest.fixture
def sample():
    """200 boxes whose residuals are drawn with twice the sigma that is claimed for them."""
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.5, 4.0, (200, 4))
    return 2 * sigma * rng.standard_normal((200, 4)), sigma


def test_summary_agrees_with_independent_references(sample):
    residual, sigma = sample
    summary = summarise(residual, sigma)
    t = math.sqrt(np.mean((residual / sigma) ** 2))
    constant = np.sqrt(np.mean(residual**2, axis=0))
    assert summary.n == 200
    assert summary.spearman == pytest.approx(spearmanr(sigma.ravel(), np.abs(residual).ravel())[0])
    assert summary.temperature == pytest.approx(t)
    assert summary.nll == pytest.approx(-norm.logpdf(residual, scale=sigma).mean())
    assert summary.nll_calibrated == pytest.approx(-norm.logpdf(residual, scale=t * sigma).mean())
    assert summary.nll_constant == pytest.approx(-norm.logpdf(residual, scale=constant).mean())
    assert summary.coverage68 == pytest.approx(np.mean(np.abs(residual) <= sigma))
    assert summary.sharpness == pytest.approx(sigma.mean())
    assert summary.error == pytest.approx(np.abs(residual).mean())
    assert summary.nll_calibrated < summary.nll_constant < summary.nll, "informative once the factor 2 is known"
    for name, level in (("coverage50", 0.5), ("coverage90", 0.9), ("coverage95", 0.95)):
        assert getattr(summary, name) == pytest.approx(np.mean(np.abs(residual) <= norm.ppf((1 + level) / 2) * sigma))
    assert math.isnan(summary.relative)


def test_true_sigma_covers_68_percent_at_temperature_1():
    rng = np.random.default_rng(1)
    sigma = rng.uniform(0.5, 4.0, (20_000, 1))
    summary = summarise(sigma * rng.standard_normal(sigma.shape), sigma)
    assert summary.coverage68 == pytest.approx(norm.cdf(1) - norm.cdf(-1), abs=0.01)
    assert summary.temperature == pytest.approx(1, abs=0.01)


def test_one_unit_for_another_shifts_the_likelihoods_only(sample):
    residual, sigma = sample
    pixels, halves = summarise(residual, sigma), summarise(2 * residual, 2 * sigma)
    for name in ("spearman", "temperature", "coverage68", "calibration_error", "ause"):
        assert getattr(halves, name) == pytest.approx(getattr(pixels, name))
    for name in ("energy", "sharpness", "error"):
        assert getattr(halves, name) == pytest.approx(2 * getattr(pixels, name))
    for name in ("nll", "nll_calibrated", "nll_constant"):
        assert getattr(halves, name) - getattr(pixels, name) == pytest.approx(math.log(2))


def test_without_residuals_every_number_is_unknown():
    summary = summarise(np.zeros((0, 4)), np.zeros((0, 4)))
    assert summary.n == 0
    assert all(math.isnan(value) for name, value in asdict(summary).items() if name != "n")
    assert isinstance(summary, SigmaSummary)


@pytest.mark.parametrize(
    ("residual", "sigma"),
    [
        (np.zeros((3, 4)), np.ones((3, 4))),  # perfect boxes: temperature 0
        (np.ones((1, 4)), np.zeros((1, 4))),  # one box, no spread at all
        (np.full((2, 1), 1e6), np.full((2, 1), 1e-9)),
    ],
)
def test_extremes_stay_finite(residual, sigma):
    assert all(math.isfinite(value) for value in asdict(summarise(residual, sigma, np.ones(len(sigma)))).values())


def test_a_sigma_below_the_floor_is_as_good_as_a_constant_after_its_factor():
    residual = np.random.default_rng(0).normal(size=(400, 4))
    summary = summarise(residual, np.full((400, 4), 1e-4))
    assert summary.nll_calibrated == pytest.approx(summary.nll_constant, abs=0.01)


def test_inputs_are_not_mutated(sample):
    residual, sigma = sample
    before = residual.copy(), sigma.copy()
    summarise(residual, sigma)
    assert np.array_equal(residual, before[0])
    assert np.array_equal(sigma, before[1])


def test_integers_are_accepted():
    assert summarise(np.array([[2]]), np.array([[1]])).temperature == 2


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"residuals \(2, 4\) and standard deviations \(2, 5\)"):
        summarise(np.zeros((2, 4)), np.ones((2, 5)))


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_sigma_must_be_finite_and_not_negative(bad):
    with pytest.raises(ValueError, match="finite and not negative"):
        summarise(np.zeros((1, 1)), np.array([[bad]]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_residuals_must_be_finite(bad):
    with pytest.raises(ValueError, match="residuals must be finite"):
        summarise(np.array([[bad]]), np.ones((1, 1)))


def test_sigma_relative_to_the_box():
    assert summarise(np.zeros((2, 4)), np.full((2, 4), 3.0), np.array([10.0, 30.0])).relative == pytest.approx(0.2)
