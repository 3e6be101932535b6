from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from yolo_uncert.functional.residuals import (
    SIGMA_MIN,
    fit_temperature,
    rank_correlation,
)
from yolo_uncert.functional.scoring import nll


def mean_nll(residual, sigma):
    return nll(residual, sigma).mean()


@pytest.fixture
def sample():
    """200 boxes whose residuals are drawn with twice the sigma that is claimed for them."""
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.5, 4.0, (200, 4))
    return 2 * sigma * rng.standard_normal((200, 4)), sigma


def test_nll_is_that_of_scipy(sample):
    residual, sigma = sample
    assert mean_nll(residual, sigma) == pytest.approx(-norm.logpdf(residual, scale=sigma).mean())


def test_nll_by_hand():
    # residual 1, sigma 1: 1/2 + ln(2 pi) / 2; residual 0, sigma e: 1 + ln(2 pi) / 2
    assert mean_nll(np.array([[1.0]]), np.array([[1.0]])) == pytest.approx(0.5 + 0.5 * math.log(2 * math.pi))
    assert mean_nll(np.array([[0.0]]), np.array([[math.e]])) == pytest.approx(1 + 0.5 * math.log(2 * math.pi))


def test_sigma_below_the_floor_counts_as_the_floor():
    residual = np.array([[0.5]])
    assert mean_nll(residual, np.array([[0.0]])) == mean_nll(residual, np.array([[SIGMA_MIN]]))
    assert fit_temperature(residual, np.array([[0.0]])) == pytest.approx(0.5 / SIGMA_MIN)


def test_temperature_minimises_the_likelihood(sample):
    residual, sigma = sample
    best = minimize_scalar(lambda t: mean_nll(residual, sigma * t), bounds=(0.1, 10), method="bounded")
    temperature = fit_temperature(residual, sigma)
    assert temperature == pytest.approx(best.x, rel=1e-3)
    assert temperature == pytest.approx(2.0, rel=0.1), "the factor that the residuals were drawn with"


def test_rank_correlation():
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    # ranks (1, 2, 3, 4) and (2, 1, 4, 3): 1 - 6 * (1 + 1 + 1 + 1) / (4 * 15)
    assert rank_correlation(a, np.array([2.0, 1.0, 4.0, 3.0])) == pytest.approx(0.6)
    assert rank_correlation(a.reshape(2, 2), a.reshape(2, 2)) == pytest.approx(1)


def test_rank_correlation_is_0_where_it_is_undefined():
    a = np.array([1.0, 2.0])
    assert rank_correlation(a, np.ones(2)) == 0
    assert rank_correlation(np.ones(2), a) == 0
    assert rank_correlation(a[:1], a[:1]) == 0
    assert rank_correlation(a[:0], a[:0]) == 0
