"""Split-conformal intervals around predicted boxes from their normalised residuals |e| / sigma.

For boxes that are exchangeable with those of the calibration set, an interval at level p holds the truth with
probability at least p, whatever the distribution of the residuals (Papadopoulos et al., ECML 2002; Lei et al., JASA
2018).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from yolo_uncert.functional.records import Floats
from yolo_uncert.functional.residuals import SIGMA_MIN

TABLE = 1000
"""Scores kept of a calibration set; of a larger one every so many, rounded to the wider interval."""

DENOMINATOR = 10**9
"""Largest denominator of a level. As a binary number 0.07 * 100 is 7.000000000000001, which rounds up to 8."""


@dataclass(frozen=True)
class Conformal:
    """Sorted normalised residuals of a calibration set.

    Attributes:
        n: Boxes in the calibration set.
        ranks: Array[K] of int, ascending from 1 to n: the ranks of the scores that are kept.
        scores: Array[K, C + 1], the scores |e| / sigma of those ranks; the last column has the largest of each box.
    """

    n: int
    ranks: npt.NDArray[np.integer] = field(repr=False)
    scores: Floats = field(repr=False)

    @classmethod
    def fit(cls, residual: Floats, sigma: Floats) -> Conformal:
        """Sort the normalised residuals.

        Args:
            residual: Array[N, C] truth minus prediction, N at least 1.
            sigma: Array[N, C] standard deviations in the same unit, floored at SIGMA_MIN.
        """
        size = np.abs(residual) / np.maximum(sigma, SIGMA_MIN)
        scores = np.sort(np.concatenate((size, size.max(axis=1, keepdims=True)), axis=1), axis=0)
        ranks = np.unique(np.linspace(1, len(scores), min(len(scores), TABLE)).round().astype(int))
        # Six decimals, upwards: short in JSON, and no interval becomes narrower.
        return cls(len(scores), ranks, np.ceil(scores[ranks - 1] * 1e6) / 1e6)

    @property
    def max_level(self) -> float:
        """The largest level with a finite interval, n / (n + 1)."""
        return self.n / (self.n + 1)

    def quantile(self, level: float, boxwise: bool = False) -> Floats:
        """Return half the width of the intervals in units of sigma.

        Args:
            level: Share of truths inside, in (0, 1).
            boxwise: All coordinates of a box are inside together, rather than each by itself.

        Returns:
            Array[C], the score at rank ceil((n + 1) level).

        Raises:
            ValueError: The level is not in (0, 1), or too high for a calibration set of this size.
        """
        check_level(level)
        rank = math.ceil((self.n + 1) * _exact(level))
        if rank > self.n:
            raise ValueError(
                f"an interval of level {level:g} needs a calibration by {boxes_needed(level)} boxes, it had {self.n}: "
                f"the largest level is {math.floor(self.max_level * 1e4) / 1e4:g}"
            )
        row = self.scores[np.searchsorted(self.ranks, rank)]
        return np.full(len(row) - 1, row[-1]) if boxwise else row[:-1]

    def coverage(self, residual: Floats, sigma: Floats, levels: Iterable[float], boxwise: bool = False) -> Floats:
        """Return which share of truths the intervals hold.

        Args:
            residual: Array[N, C] truth minus prediction.
            sigma: Array[N, C] standard deviations in the same unit, floored at SIGMA_MIN as in the fit.
            levels: L levels in (0, 1).
            boxwise: All coordinates of a box have to be inside of its box-wise intervals.

        Returns:
            Array[L, C], or Array[L] of boxes.

        Raises:
            ValueError: A level is not in (0, 1), or too high for this calibration set.
        """
        size = np.abs(residual) / np.maximum(sigma, SIGMA_MIN)
        held = [size <= self.quantile(level, boxwise) for level in levels]
        shares = [inside.all(axis=1).mean() if boxwise else inside.mean(axis=0) for inside in held]
        return np.array(shares).reshape((-1,) if boxwise else (-1, size.shape[1]))

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists, for JSON."""
        return {"n": self.n, "ranks": self.ranks.tolist(), "scores": self.scores.round(6).tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Conformal:
        """Return what ``as_dict`` wrote."""
        return cls(values["n"], np.array(values["ranks"], dtype=int), np.array(values["scores"], dtype=float))


def boxes_needed(level: float) -> int:
    """Return the size of the smallest calibration set with finite intervals: ceil(1 / (1 - level)) - 1."""
    return math.ceil(1 / (1 - _exact(level))) - 1


def gaussian_quantile(level: float, coordinates: int, boxwise: bool = False) -> Floats:
    """Return half the width of central Gaussian intervals in units of sigma.

    Args:
        level: Share of truths inside, in (0, 1).
        coordinates: Number of coordinates C.
        boxwise: All coordinates, taken as independent, are inside together: each with ``level ** (1 / C)``.

    Returns:
        Array[C].

    Raises:
        ValueError: The level is not in (0, 1).
    """
    check_level(level)
    each = level ** (1 / coordinates) if boxwise else level
    return np.full(coordinates, ndtri((1 + each) / 2))


def check_level(level: float) -> None:
    """Raise ValueError unless the level is a number in (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")


def _exact(level: float) -> Fraction:
    """Return a level as the fraction that was meant, 0.9 as 9/10."""
    return min(Fraction(float(level)).limit_denominator(DENOMINATOR), 1 - Fraction(1, DENOMINATOR))
