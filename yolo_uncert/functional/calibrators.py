"""Maps from predicted to calibrated standard deviations, fitted on the residuals of matched boxes.

Every map works on each coordinate by itself and is positive and strictly increasing, so that the order of the boxes by
their sigma stays. Shape shorthand: N matched boxes, C coordinates (4, or 5 for oriented boxes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy
from scipy.special import ndtri

from yolo_uncert.functional.records import Floats
from yolo_uncert.functional.reliability import LEVELS
from yolo_uncert.functional.residuals import SIGMA_MIN
from yolo_uncert.functional.scoring import checked

TARGETS = ("coverage", "nll")
"""What a map aims at: intervals that hold the promised share of the residuals, or the best Gaussian likelihood."""

FACTOR_MIN = 1e-3
"""Smallest factor on sigma: residuals that are all zero must not make boxes certain."""

BIN = 50
"""Boxes per bin of the isotonic regression: bins of single boxes would follow the largest residual at either end."""

LEAST_BOXES = {"temperature": 30, "isotonic": 4 * BIN}
"""Boxes that a map needs: the standard error of a factor from 30 Gaussian residuals is 13 %."""


@dataclass(frozen=True)
class Temperature:
    """One factor on sigma per coordinate; free of any unit.

    Attributes:
        factors: Array[C], positive.
    """

    factors: Floats

    @classmethod
    def fit(cls, residual: Floats, sigma: Floats, target: str = "coverage") -> Temperature:
        """Fit the factors.

        Args:
            residual: Array[N, C] truth minus prediction, N at least 1.
            sigma: Array[N, C] standard deviations in the same unit, not negative.
            target: ``nll``: the factor of least Gaussian negative log-likelihood, the RMS of residual / sigma.
                ``coverage``: of least calibration error, see `coverage_factor`. For Gaussian residuals both are the
                same; heavy tails make the former so large that most intervals hold too much.

        Raises:
            ValueError: There is no box, or see ``scoring.checked``.
        """
        ratio = _ratio(residual, sigma)
        factors = [coverage_factor(column) for column in ratio.T] if target == "coverage" else _rms(ratio)
        return cls(np.maximum(factors, FACTOR_MIN))

    def factor(self, sigma: Floats) -> Floats:
        """Return calibrated over predicted sigma.

        Args:
            sigma: Array[N, C] standard deviations.

        Returns:
            Array[N, C], positive.
        """
        return np.broadcast_to(self.factors, np.shape(sigma))

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists, for JSON."""
        return {"kind": "temperature", "factors": self.factors.tolist()}


@dataclass(frozen=True)
class Isotonic:
    """Monotone, piecewise linear map of sigma per coordinate, with a constant factor beyond either end.

    Sigma stays in its unit, pixels of the original image (rad for an angle), as the residuals are: images of another
    resolution meet another part of the map.

    Attributes:
        knots: For each coordinate predicted sigma, Array[K], and its calibrated value, Array[K]; both increasing.
    """

    knots: tuple[tuple[Floats, Floats], ...]

    @classmethod
    def fit(cls, residual: Floats, sigma: Floats, target: str = "coverage") -> Isotonic:
        """Fit the maps by isotonic regression of the residuals' size on sigma, in bins of 50 boxes.

        Args:
            residual: Array[N, C] truth minus prediction, N at least 1.
            sigma: Array[N, C] standard deviations in the same unit, not negative.
            target: ``nll``: regression of the squared residuals, which among all monotone maps has the least Gaussian
                negative log-likelihood (Barlow and Brunk 1972). ``coverage``: of the absolute residuals, which heavy
                tails disturb less, times the factor of `coverage_factor`.

        Raises:
            ValueError: There is no box, or see ``scoring.checked``.
        """
        ratio = _ratio(residual, sigma)
        power = 1 if target == "coverage" else 2
        columns = zip(np.asarray(residual, float).T, np.asarray(sigma, float).T, strict=True)
        shape = cls(tuple(_monotone(np.abs(e), np.maximum(s, SIGMA_MIN), power) for e, s in columns))
        if target == "nll":
            return shape
        factors = Temperature.fit(ratio / shape.factor(np.maximum(sigma, SIGMA_MIN)), np.ones_like(ratio)).factors
        return cls(tuple((x, y * f) for (x, y), f in zip(shape.knots, factors, strict=True)))

    def factor(self, sigma: Floats) -> Floats:
        """Return calibrated over predicted sigma.

        Args:
            sigma: Array[N, C] standard deviations in the unit of the fit.

        Returns:
            Array[N, C], positive.
        """
        inside = [np.clip(s, x[0], x[-1]) for s, (x, _) in zip(np.asarray(sigma).T, self.knots, strict=True)]
        return np.stack([np.interp(s, x, y) / s for s, (x, y) in zip(inside, self.knots, strict=True)], axis=-1)

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists, for JSON."""
        return {"kind": "isotonic", "knots": [[x.tolist(), y.tolist()] for x, y in self.knots]}


Scale: TypeAlias = Temperature | Isotonic


def scale_from_dict(values: Mapping[str, Any]) -> Scale:
    """Return the map that ``as_dict`` wrote.

    Raises:
        ValueError: It is of an unknown kind.
    """
    if values["kind"] == "temperature":
        return Temperature(np.array(values["factors"], dtype=float))
    if values["kind"] == "isotonic":
        return Isotonic(tuple((np.array(x, dtype=float), np.array(y, dtype=float)) for x, y in values["knots"]))
    raise ValueError(f"unknown calibration map {values['kind']!r}")


def coverage_factor(ratio: Floats) -> float:
    """Return the factor on sigma of least calibration error, the mean gap of coverage over 19 levels.

    Args:
        ratio: Array[N] of residual / sigma, N at least 1.

    Returns:
        The factor; 0 when every residual is.
    """
    size, z = np.sort(np.abs(ratio)), ndtri((1 + LEVELS) / 2)
    exact = np.quantile(size, LEVELS) / z  # each makes one level right: the best lies between them
    if exact.max() == 0:
        return 0.0
    factors = np.geomspace(max(exact.min(), FACTOR_MIN * exact.max()), exact.max(), 300)
    coverage = np.searchsorted(size, np.outer(factors, z), side="right") / len(size)
    return float(factors[np.abs(coverage - LEVELS).mean(axis=1).argmin()])


def _ratio(residual: Floats, sigma: Floats) -> Floats:
    """Return residual / sigma, Array[N, C], after a look at the input."""
    residual, sigma = checked(residual, sigma)
    if not len(residual):
        raise ValueError("a calibration needs at least one box")
    return residual / np.maximum(sigma, SIGMA_MIN)


def _rms(values: Floats) -> Floats:
    return np.sqrt(np.mean(values**2, axis=0))


def _monotone(size: Floats, sigma: Floats, power: int) -> tuple[Floats, Floats]:
    """Return the knots of one coordinate: median sigma of each block of the isotonic regression, and its residual."""
    order = np.argsort(sigma, kind="stable")
    size, sigma = size[order] ** power, sigma[order]
    # A bin begins at the first of equal sigmas: a map cannot take two values there.
    starts = np.unique(np.searchsorted(sigma, sigma[::BIN][: max(len(sigma) // BIN, 1)]))
    count = np.diff(starts, append=len(sigma))
    fit = scipy.optimize.isotonic_regression(np.add.reduceat(size, starts) / count, weights=count)
    blocks = fit.blocks[:-1]
    x = np.array([np.median(part) for part in np.split(sigma, starts[blocks][1:])])
    return x, np.maximum(fit.x[blocks] ** (1 / power), FACTOR_MIN * x)
