"""How well predicted standard deviations describe observed residuals: likelihood, rank correlation, one temperature."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import spearmanr

SIGMA_MIN = 1e-3
"""Smallest standard deviation (pixels or rad) that enters a likelihood: below it one box would outweigh all others."""


@dataclass(frozen=True)
class SigmaSummary:
    """What a set of residuals and standard deviations says about the uncertainty.

    Attributes:
        n: Number of matched boxes.
        spearman: Rank correlation of sigma and absolute residual, over all coordinates; 0 for a constant sigma.
        nll: Mean Gaussian negative log-likelihood per coordinate.
        temperature: Factor on sigma that minimises the likelihood.
        nll_calibrated: The likelihood after that factor.
        nll_constant: The likelihood of the best constant sigma, what a model without uncertainty could offer.
        coverage68: Share of residuals within one sigma; 0.683 when sigma is true.
        sharpness: Mean sigma.
        error: Mean absolute residual.
    """

    n: int
    spearman: float
    nll: float
    temperature: float
    nll_calibrated: float
    nll_constant: float
    coverage68: float
    sharpness: float
    error: float

    def as_dict(self) -> dict[str, float]:
        """Return the fields as a flat dict."""
        return asdict(self)


def gaussian_nll(residual: np.ndarray, sigma: np.ndarray) -> float:
    """Return the mean Gaussian negative log-likelihood, the constant ln(2 pi) / 2 included.

    Args:
        residual: Array[N, C] truth minus prediction.
        sigma: Array[N, C] standard deviations in the same unit, floored at SIGMA_MIN.
    """
    sigma = np.maximum(sigma, SIGMA_MIN)
    return float(np.mean(0.5 * (residual / sigma) ** 2 + np.log(sigma))) + 0.5 * math.log(2 * math.pi)


def fit_temperature(residual: np.ndarray, sigma: np.ndarray) -> float:
    """Return the factor on sigma of least Gaussian negative log-likelihood: the RMS of residual / sigma."""
    return float(np.sqrt(np.mean((residual / np.maximum(sigma, SIGMA_MIN)) ** 2)))


def summarise(residual: np.ndarray, sigma: np.ndarray) -> SigmaSummary:
    """Summarise how well standard deviations describe residuals.

    Args:
        residual: Array[N, C] truth minus prediction, any one unit.
        sigma: Array[N, C] standard deviations in the same unit.

    Returns:
        The summary; every number but n is NaN when there is no residual.

    Raises:
        ValueError: Shapes differ, a number is not finite, or a sigma is negative.
    """
    residual, sigma = np.asarray(residual, dtype=float), np.asarray(sigma, dtype=float)
    if residual.shape != sigma.shape:
        raise ValueError(f"residuals {residual.shape} and standard deviations {sigma.shape} must have the same shape")
    if not residual.size:
        return SigmaSummary(0, *[math.nan] * 8)
    if not np.isfinite(residual).all():
        raise ValueError("residuals must be finite")
    if not (np.isfinite(sigma).all() and (sigma >= 0).all()):
        raise ValueError("standard deviations must be finite and not negative")
    temperature = fit_temperature(residual, sigma)
    constant = np.broadcast_to(np.sqrt(np.mean(residual**2, axis=0)), residual.shape)
    return SigmaSummary(
        n=len(residual),
        spearman=rank_correlation(sigma, np.abs(residual)),
        nll=gaussian_nll(residual, sigma),
        temperature=temperature,
        nll_calibrated=gaussian_nll(residual, sigma * temperature),
        nll_constant=gaussian_nll(residual, constant),
        coverage68=float(np.mean(np.abs(residual) <= sigma)),
        sharpness=float(sigma.mean()),
        error=float(np.abs(residual).mean()),
    )


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of two arrays of one shape, flattened; 0 where one of them is constant."""
    a, b = np.ravel(a), np.ravel(b)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)
