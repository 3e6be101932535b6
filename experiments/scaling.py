"""Scale standard deviations on one split, and say what they are worth on another, raw and scaled."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from passes import Array
from scipy.optimize import minimize

from yolo_uncert.functional.residuals import fit_temperature
from yolo_uncert.functional.scoring import nll
from yolo_uncert.functional.summary import summarise


@dataclass(frozen=True)
class Sample:
    """What a method says of the matched boxes of a split.

    Attributes:
        residual: Array[N, 4], object minus box, pixels of the original images.
        sigma: Array[N, 4], standard deviations; NaN where the method knows none.
    """

    residual: Array
    sigma: Array


def temperatures(sample: Sample) -> tuple[Array, Array]:
    """Return the factor on sigma of best likelihood for each coordinate, and no floor: Array[4] each."""
    known = np.isfinite(sample.sigma).all(1)
    columns = zip(sample.residual[known].T, sample.sigma[known].T, strict=True)
    return np.array([fit_temperature(residual, sigma) for residual, sigma in columns]), np.zeros(4)


def factor_and_floor(sample: Sample) -> tuple[Array, Array]:
    """Return a and b of ``sqrt((a sigma)^2 + b^2)`` of best likelihood for each coordinate: Array[4] each."""
    known = np.isfinite(sample.sigma).all(1)
    found = []
    for residual, sigma in zip(sample.residual[known].T[..., None], sample.sigma[known].T[..., None], strict=True):

        def loss(logs: Array, residual: Array = residual, sigma: Array = sigma) -> float:
            a, b = np.exp(np.clip(logs, -20, 20))
            return float(nll(residual, np.hypot(a * sigma, b)).mean())

        rms = float(np.sqrt(np.mean(residual**2)))
        starts = [(np.log(fit_temperature(residual, sigma)), np.log(share * rms)) for share in (0.02, 0.7)]
        fits = [minimize(loss, start, method="Nelder-Mead", options={"maxiter": 400}) for start in starts]
        found.append(np.exp(np.clip(min(fits, key=lambda fit: fit.fun).x, -20, 20)))
    a, b = np.array(found).T
    return a, b


def scaled(sigma: Array, factor: Array, floor: Array, unknown: Array) -> Array:
    """Return sigma after a factor and a floor; where it is not known, the constant of the tuning split."""
    return np.where(np.isfinite(sigma), np.hypot(factor * sigma, floor), unknown)


def measure(tuning: Sample, test: Sample, *, raw: bool = True) -> dict[str, dict[str, float]]:
    """Return the numbers on the test sample by scaling: as it is, with factors, with factors and floors.

    Args:
        tuning: What the scalings are fitted on.
        test: What the numbers are read on.
        raw: Sigma means something as it is.
    """
    fits = {"raw": (np.ones(4), np.zeros(4))} if raw else {}
    fits |= {"T": temperatures(tuning), "T, floor": factor_and_floor(tuning)}
    unknown = np.sqrt(np.mean(tuning.residual**2, axis=0))
    rows = {}
    for name, (factor, floor) in fits.items():
        summary = asdict(summarise(test.residual, scaled(test.sigma, factor, floor, unknown)))
        rows[name] = {**summary, "unknown": float(np.isnan(test.sigma).any(1).mean())}
    return rows
