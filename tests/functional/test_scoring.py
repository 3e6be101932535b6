from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import gamma, ndtri
from scipy.stats import norm, qmc
from uncertainty_toolbox import crps_gaussian, nll_gaussian

from yolo_uncert.functional import scoring
from yolo_uncert.functional.residuals import SIGMA_MIN
from yolo_uncert.functional.scoring import energy_score, nll
from yolo_uncert.functional.summary import summarise

SCORES = [nll, energy_score]


@pytest.fixture
def sample():
    """300 boxes whose residuals are drawn with half the sigma that is claimed for them."""
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.5, 4.0, (300, 4))
    return 0.5 * sigma * rng.standard_normal((300, 4)), sigma


def test_nll_is_that_of_scipy_and_of_the_summary(sample):
    residual, sigma = sample
    np.testing.assert_allclose(nll(residual, sigma), -norm.logpdf(residual, scale=sigma))
    assert nll(residual, sigma).mean() == pytest.approx(summarise(residual, sigma).nll)


def test_nll_floors_sigma():
    residual = np.array([[0.5, 0.0]])
    np.testing.assert_array_equal(nll(residual, np.zeros((1, 2))), nll(residual, np.full((1, 2), SIGMA_MIN)))


def test_mean_is_that_of_uncertainty_toolbox(sample):
    residual, sigma = sample
    flat = np.zeros(residual.size), sigma.ravel(), residual.ravel()  # prediction, its deviation, truth
    assert nll(residual, sigma).mean() == pytest.approx(nll_gaussian(*flat))


@pytest.mark.parametrize("score", SCORES)
def test_the_true_sigma_scores_best(score):
    rng = np.random.default_rng(2)
    sigma = rng.uniform(0.5, 4.0, (4000, 3))
    residual = sigma * rng.standard_normal(sigma.shape)
    true, small, large = (score(residual, factor * sigma).mean() for factor in (1.0, 0.7, 1.4))
    assert true < small
    assert true < large


def test_without_uncertainty_energy_is_the_length_of_the_error():
    residual = np.array([[3.0, -4.0], [0.0, 0.0], [1e6, 0.0]])
    nothing = np.zeros_like(residual)
    np.testing.assert_allclose(energy_score(residual, nothing), [5.0, 0.0, 1e6])
    np.testing.assert_allclose(energy_score(residual, nothing + 1e-9), [5.0, 0.0, 1e6], atol=1e-8)


def test_energy_score_of_one_coordinate_is_the_crps():
    rng = np.random.default_rng(3)
    sigma = rng.uniform(0.5, 4.0, (50, 1))
    residual = 2 * sigma * rng.standard_normal((50, 1))
    # |e - sigma u| - sigma |u| / sqrt(2) is Lipschitz in the normal u with sigma (1 + 1 / sqrt(2)), which bounds its
    # standard deviation (Poincare); the error of the mean of 4000 random points, and these are better spread than that
    bound = sigma[:, 0] * (1 + 1 / math.sqrt(2)) / math.sqrt(4000)
    found = energy_score(residual, sigma, samples=4000)
    crps = [crps_gaussian(np.zeros(1), s, e) for e, s in zip(residual, sigma, strict=True)]
    assert (np.abs(found - crps) < bound).all()


@pytest.mark.parametrize("dimensions", [1, 2, 4, 5])
def test_energy_score_of_a_perfect_box(dimensions):
    # the length of a standard normal vector is sqrt(2) G((C + 1) / 2) / G(C / 2) on average, of the difference of two
    # of them sqrt(2) times that
    length = math.sqrt(2) * gamma((dimensions + 1) / 2) / gamma(dimensions / 2)
    score = energy_score(np.zeros((1, dimensions)), np.full((1, dimensions), 3.0), samples=4000)
    assert score[0] == pytest.approx(3 * length * (1 - 1 / math.sqrt(2)), rel=0.01)


def test_energy_score_is_that_of_plain_sampling(sample):
    residual, sigma = sample[0][:5], sample[1][:5]
    rng = np.random.default_rng(4)
    for e, s, score in zip(residual, sigma, energy_score(residual, sigma, samples=4000), strict=True):
        x, y = s * rng.standard_normal((2, 40_000, 4))
        draws = np.linalg.norm(x - e, axis=1) - np.linalg.norm(x - y, axis=1) / 2
        assert score == pytest.approx(draws.mean(), abs=5 * draws.std() / math.sqrt(len(draws)) + 0.005 * s.max())


def test_energy_score_of_a_box_is_its_own(sample, monkeypatch):
    residual, sigma = sample
    together = energy_score(residual, sigma)
    np.testing.assert_allclose(energy_score(residual[7:9], sigma[7:9]), together[7:9])
    monkeypatch.setattr(scoring, "CHUNK", 1)
    np.testing.assert_allclose(energy_score(residual, sigma), together)


def test_a_residual_that_is_one_of_the_points():
    # the expanded square of a distance of 0 may round to less than 0
    residual = 3 * ndtri(qmc.Halton(2, seed=0).random(1000))
    assert np.isfinite(energy_score(residual, np.full((1000, 2), 3.0))).all()


def test_the_seed_fixes_the_energy_score(sample):
    np.testing.assert_array_equal(energy_score(*sample, seed=3), energy_score(*sample, seed=3))
    assert not np.array_equal(energy_score(*sample, seed=3), energy_score(*sample, seed=4))


def test_one_unit_for_another(sample):
    residual, sigma = sample
    np.testing.assert_allclose(energy_score(2 * residual, 2 * sigma), 2 * energy_score(residual, sigma))
    np.testing.assert_allclose(nll(2 * residual, 2 * sigma), nll(residual, sigma) + math.log(2))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("residual", "sigma"), [(1e6, 1e-9), (0.0, 0.0), (1e6, 1e6), (1e-9, 1e6)])
def test_extremes_stay_finite(score, residual, sigma):
    assert np.isfinite(score(np.full((2, 4), residual), np.full((2, 4), sigma))).all()


def test_no_boxes():
    nothing = np.zeros((0, 4))
    assert nll(nothing, nothing).shape == (0, 4)
    assert energy_score(nothing, nothing).shape == (0,)


@pytest.mark.parametrize("score", SCORES)
def test_inputs_are_not_mutated(score, sample):
    residual, sigma = sample
    before = residual.copy(), sigma.copy()
    score(residual, sigma)
    np.testing.assert_array_equal(residual, before[0])
    np.testing.assert_array_equal(sigma, before[1])


@pytest.mark.parametrize("score", SCORES)
def test_what_no_score_can_be_computed_of(score):
    with pytest.raises(ValueError, match=r"residuals \(2, 4\) and standard deviations \(2, 5\)"):
        score(np.zeros((2, 4)), np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"row per box .* got shape \(3,\)"):
        score(np.zeros(3), np.ones(3))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="residuals must be finite"):
            score(np.array([[bad]]), np.ones((1, 1)))
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="standard deviations must be finite and not negative"):
            score(np.zeros((1, 1)), np.array([[bad]]))
