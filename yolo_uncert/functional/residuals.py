"""Residuals against predicted standard deviations: the floor of sigma, one temperature, rank correlation."""

from __future__ import annotations

import numpy as np
import scipy

SIGMA_MIN = 1e-3
"""Smallest standard deviation (pixels or rad) that enters a likelihood: below it one box would outweigh all others."""


def fit_temperature(residual: np.ndarray, sigma: np.ndarray) -> float:
    """Return the factor on sigma of least Gaussian negative log-likelihood: the RMS of residual / sigma."""
    return float(np.sqrt(np.mean((residual / np.maximum(sigma, SIGMA_MIN)) ** 2)))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of two arrays of one shape, flattened; 0 where one of them is constant."""
    a, b = np.ravel(a), np.ravel(b)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(a, b).statistic)
