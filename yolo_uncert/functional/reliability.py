"""Whether predicted intervals hold the share of residuals that they promise (Kuleshov et al., ICML 2018).

The interval of level p is central: ``|residual| <= z sigma`` with ``z`` the (1 + p) / 2 quantile of the normal
distribution. It differs from Kuleshov's one-sided quantiles in that a bias is seen as too small a coverage only.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from yolo_uncert.functional.records import Floats
from yolo_uncert.functional.scoring import checked

LEVELS: Floats = np.linspace(0.05, 0.95, 19)
"""Array[19], the central levels 0.05, 0.10 ... 0.95."""
LEVELS.setflags(write=False)


def coverage(residual: Floats, sigma: Floats, levels: Floats = LEVELS) -> Floats:
    """Return the share of residuals within the central interval of each level.

    Args:
        residual: Array[N, C] truth minus prediction, any one unit.
        sigma: Array[N, C] standard deviations in the same unit; 0 covers a residual of 0 only.
        levels: Array[L], in (0, 1).

    Returns:
        Array[L, C] in [0, 1], NaN without rows.

    Raises:
        ValueError: A level outside (0, 1), or see ``scoring.checked``.
    """
    residual, sigma = checked(residual, sigma)
    levels = np.asarray(levels, dtype=float)
    if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(f"levels must be a list of numbers between 0 and 1, got {levels.tolist()}")
    shares = np.full((len(levels), residual.shape[1]), np.nan)
    if len(residual):
        for share, z in zip(shares, ndtri((1 + levels) / 2), strict=True):
            share[:] = (np.abs(residual) <= z * sigma).mean(axis=0)
    return shares


def calibration_error(residual: Floats, sigma: Floats, levels: Floats = LEVELS) -> Floats:
    """Return the mean absolute gap of coverage and level, per coordinate.

    Args:
        residual: Array[N, C] truth minus prediction, any one unit.
        sigma: Array[N, C] standard deviations in the same unit.
        levels: Array[L], in (0, 1).

    Returns:
        Array[C] in [0, 1), 0 for intervals that hold what they promise; NaN without rows.

    Raises:
        ValueError: No level, or see ``coverage``.
    """
    if not len(levels):
        raise ValueError("a calibration error needs at least one level")
    gaps: Floats = np.abs(coverage(residual, sigma, levels) - np.asarray(levels)[:, None]).mean(axis=0)
    return gaps
