"""Scale standard deviations on some images, and say what they are worth on others, raw and scaled."""

from __future__ import annotations

from collections.abc import Sequence
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
        residual: Array[N, 4 or 5], object minus box, pixels of the original images; last the angle of oriented boxes.
        sigma: Array[N, 4 or 5], standard deviations; NaN where the method knows none.
        half: Array[N] of bool, in which half of the images it is; None where they are not halved.
    """

    residual: Array
    sigma: Array
    half: Array | None = None

    def of(self, half: bool) -> Sample:
        """Return what is in a half of the images."""
        rows = self.half == half
        return Sample(self.residual[rows], self.sigma[rows])


def halves(files: Sequence[str], image: Array) -> Array:
    """Return in which half of the images each row is, by lot of their names: Array[N] of bool.

    Args:
        files: Names of all images, in any order.
        image: Array[N], indices into them.
    """
    lot = np.random.default_rng(0).permutation(len(files)) < len(files) // 2
    drawn = dict(zip(sorted(files), lot, strict=True))
    return np.array([drawn[file] for file in files], dtype=bool)[image]


def temperatures(sample: Sample) -> tuple[Array, Array]:
    """Return the factor on sigma of best likelihood for each coordinate, and no floor: Array[C] each."""
    known = np.isfinite(sample.sigma).all(1)
    columns = zip(sample.residual[known].T, sample.sigma[known].T, strict=True)
    factors = np.array([fit_temperature(residual, sigma) for residual, sigma in columns])
    return factors, np.zeros_like(factors)


def factor_and_floor(sample: Sample) -> tuple[Array, Array]:
    """Return a and b of ``sqrt((a sigma)^2 + b^2)`` of best likelihood for each coordinate: Array[C] each."""
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

    Returns:
        Of the coordinates in pixels, and the likelihood of the angle of oriented boxes.
    """
    columns = tuning.residual.shape[1]
    fits = {"raw": (np.ones(columns), np.zeros(columns))} if raw else {}
    fits |= {"T": temperatures(tuning), "T, floor": factor_and_floor(tuning)}
    unknown = np.sqrt(np.mean(tuning.residual**2, axis=0))
    rows = {}
    for name, (factor, floor) in fits.items():
        sigma = scaled(test.sigma, factor, floor, unknown)
        summary = asdict(summarise(test.residual[:, :4], sigma[:, :4]))
        angle = float(nll(test.residual[:, 4:], sigma[:, 4:]).mean()) if columns > 4 else np.nan
        rows[name] = {**summary, "unknown": float(np.isnan(test.sigma).any(1).mean()), "nll_angle": angle}
    return rows


def crossed(sample: Sample, *, raw: bool = True) -> dict[str, dict[str, float]]:
    """Return the numbers of ``measure`` on either half of the images, fitted on the other: their mean over the boxes.

    Args:
        sample: All boxes of a split.
        raw: Sigma means something as it is.
    """
    both = [measure(sample.of(half), sample.of(not half), raw=raw) for half in (True, False)]
    counts = [next(iter(rows.values()))["n"] for rows in both]
    found = {}
    for name in both[0]:
        mean = {key: float(np.average([rows[name][key] for rows in both], weights=counts)) for key in both[0][name]}
        found[name] = {**mean, "n": sum(counts)}
    return found
