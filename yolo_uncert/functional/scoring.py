"""Proper scores of Gaussian predictions: how much probability lay where the truth turned out to be (lower is better).

The prediction is N(mu, sigma^2) per coordinate with independent coordinates; only the residual, truth minus mu, enters.
Residuals and standard deviations share one unit, in which the energy score is expressed too: pixels, radians.
"""

from __future__ import annotations

import math

import numpy as np
import scipy
from scipy.special import ndtri

from yolo_uncert.functional.records import Floats
from yolo_uncert.functional.residuals import SIGMA_MIN

CHUNK = 1 << 17
"""Sampled distances that the energy score holds in memory at a time, few enough for the cache."""

TINY = 1e-100
"""Divisor in place of a zero sigma: far below any real one, and the quotient still does not overflow when squared."""


def checked(residual: Floats, sigma: Floats) -> tuple[Floats, Floats]:
    """Return residuals and standard deviations as float64, refusing what no metric can be computed of.

    Args:
        residual: Array[N, C] truth minus prediction.
        sigma: Array[N, C] standard deviations in the same unit.

    Raises:
        ValueError: Shapes differ or are not [N, C], a number is not finite, or a sigma is negative.
    """
    residual, sigma = np.asarray(residual, dtype=float), np.asarray(sigma, dtype=float)
    if residual.shape != sigma.shape:
        raise ValueError(f"residuals {residual.shape} and standard deviations {sigma.shape} must have the same shape")
    if residual.ndim != 2:
        raise ValueError(f"residuals must have a row per box and a column per coordinate, got shape {residual.shape}")
    if not np.isfinite(residual).all():
        raise ValueError("residuals must be finite")
    if not (np.isfinite(sigma).all() and (sigma >= 0).all()):
        raise ValueError("standard deviations must be finite and not negative")
    return residual, sigma


def nll(residual: Floats, sigma: Floats) -> Floats:
    """Return the Gaussian negative log-likelihood of every coordinate, the constant ln(2 pi) / 2 included.

    Args:
        residual: Array[N, C] truth minus prediction.
        sigma: Array[N, C] standard deviations in the same unit, floored at SIGMA_MIN.

    Returns:
        Array[N, C], may be negative.

    Raises:
        ValueError: See ``checked``.
    """
    residual, sigma = checked(residual, sigma)
    sigma = np.maximum(sigma, SIGMA_MIN)
    return 0.5 * (residual / sigma) ** 2 + np.log(sigma) + 0.5 * math.log(2 * math.pi)


def energy_score(residual: Floats, sigma: Floats, samples: int = 1000, seed: int = 0) -> Floats:
    """Return the energy score of every box, the CRPS of all its coordinates together (Gneiting & Raftery 2007, 4.3).

    ``E|X - y| - E|X - X'| / 2`` with Euclidean norms. As X - X' is distributed like sqrt(2) (X - mu), both expectations
    are taken over the same points: unbiased, and most of the sampling error cancels. All boxes share the points, so
    the score of a box does not depend on the others; they are a scrambled Halton sequence, whose error of the mean is
    a fifth of that of random points.

    Args:
        residual: Array[N, C] truth minus prediction, all coordinates in one unit (pixels).
        sigma: Array[N, C] standard deviations in the same unit, 0 allowed.
        samples: Number of points, at least 1.
        seed: Seed of the points.

    Returns:
        Array[N] in the unit of the residual; the norm of the residual where every sigma is 0.

    Raises:
        ValueError: See ``checked``.
    """
    residual, sigma = checked(residual, sigma)
    draws = ndtri(scipy.stats.qmc.Halton(residual.shape[1], seed=seed).random(samples)).T
    score = np.empty(len(residual))
    rows = max(1, CHUNK // samples)
    for start in range(0, len(residual), rows):
        e, s = residual[start : start + rows], sigma[start : start + rows]
        spread = s**2 @ draws**2  # |X - mu|^2
        distance = (e**2).sum(axis=1, keepdims=True) - 2 * (e * s) @ draws + spread  # |X - y|^2, expanded
        # rounding leaves a squared distance of 0 slightly negative
        score[start : start + rows] = (np.sqrt(np.maximum(distance, 0)) - np.sqrt(spread / 2)).mean(axis=1)
    return score
