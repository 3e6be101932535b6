"""Whether the uncertain predictions are the wrong ones: the error left when the most uncertain are taken away.

Sparsification curves and the area between them, AUSE (Ilg et al., ECCV 2018, arXiv 1802.07095). Only the ranking by
sigma counts, not its scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from yolo_uncert.functional.records import Floats


@dataclass(frozen=True)
class Sparsification:
    """Mean error of the remaining predictions, as a share of the mean error of all.

    Attributes:
        fraction: Array[K], share of the predictions that is removed: 0, 1/K ... (K-1)/K.
        by_sigma: Array[K], remaining error when those of the largest sigma are removed; 1 at first.
        oracle: Array[K], remaining error when those of the largest error are removed, the best there is.
    """

    fraction: Floats
    by_sigma: Floats
    oracle: Floats


def sparsification(error: Floats, sigma: Floats, steps: int = 20) -> Sparsification:
    """Remove the most uncertain predictions step by step and follow the mean error of the rest.

    Among equals the earlier row is removed first. A fraction of the rows is rounded down, so that one always remains.

    Args:
        error: Array[N] absolute errors, any unit.
        sigma: Array[N] uncertainties, any unit.
        steps: Number of fractions, at least 1.

    Returns:
        The curves: NaN without rows, 0 where every error is 0.

    Raises:
        ValueError: Shapes differ or are not [N], a number is not finite or negative, or steps is below 1.
    """
    error, sigma = np.asarray(error, dtype=float), np.asarray(sigma, dtype=float)
    if error.shape != sigma.shape or error.ndim != 1:
        raise ValueError(f"errors {error.shape} and standard deviations {sigma.shape} must be lists of one length")
    for name, values in (("errors", error), ("standard deviations", sigma)):
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError(f"{name} must be finite and not negative")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return Sparsification(np.arange(steps) / steps, _remaining(error, sigma, steps), _remaining(error, error, steps))


def ause(error: Floats, sigma: Floats, steps: int = 20) -> float:
    """Return the area between the two sparsification curves, over the removed fractions 0 to 1 - 1 / steps.

    Args:
        error: Array[N] absolute errors, any unit.
        sigma: Array[N] uncertainties, any unit.
        steps: Number of fractions, at least 2 for an area.

    Returns:
        The area: 0 when sigma ranks like the error, NaN without rows.

    Raises:
        ValueError: See ``sparsification``.
    """
    curves = sparsification(error, sigma, steps)
    return float(scipy.integrate.trapezoid(curves.by_sigma - curves.oracle, curves.fraction))


def _remaining(error: Floats, key: Floats, steps: int) -> Floats:
    if not len(error):
        return np.full(steps, np.nan)
    removed = np.arange(steps) * len(error) // steps
    ranked = error[np.argsort(-key, kind="stable")]
    total = np.cumsum(ranked[::-1])[::-1]  # of the rows from here on
    if not total[0]:
        return np.zeros(steps)
    return total[removed] / (len(error) - removed) / (total[0] / len(error))
