"""What a set of residuals and standard deviations says about the uncertainty, in a dozen numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from yolo_uncert.functional.reliability import calibration_error, coverage
from yolo_uncert.functional.residuals import SIGMA_MIN, fit_temperature, rank_correlation
from yolo_uncert.functional.scoring import checked, energy_score, nll
from yolo_uncert.functional.sparsification import ause

Array = npt.NDArray[np.floating]

COVERAGE_LEVELS = {"coverage50": 0.5, "coverage68": math.erf(math.sqrt(0.5)), "coverage90": 0.9, "coverage95": 0.95}
"""Central intervals whose coverage is reported; 68 stands for one sigma."""

ENERGY_SAMPLES = 100
"""Samples per box of the energy score: its mean over boxes needs no more."""


@dataclass(frozen=True)
class SigmaSummary:
    """What a set of residuals and standard deviations says about the uncertainty.

    Coordinates are pooled. Likelihoods, energy, sharpness and error are in the unit of the residuals.

    Attributes:
        n: Number of matched boxes.
        spearman: Rank correlation of sigma and absolute residual, over all coordinates; 0 for a constant sigma.
        nll: Mean Gaussian negative log-likelihood per coordinate.
        temperature: Factor on sigma that minimises the likelihood.
        nll_calibrated: The likelihood after that factor.
        nll_constant: The likelihood of the best constant sigma, what a model without uncertainty could offer.
        energy: Energy score of the boxes (Gneiting and Raftery 2007).
        coverage50: Share of residuals within the central 50 % interval.
        coverage68: Share of residuals within one sigma; 0.683 when sigma is true.
        coverage90: Share of residuals within the central 90 % interval.
        coverage95: Share of residuals within the central 95 % interval.
        calibration_error: Mean gap of coverage over 19 levels (Kuleshov et al., ICML 2018), mean of the coordinates.
        ause: Area under the sparsification error of the boxes (Ilg et al., ECCV 2018); 0 is the ideal order.
        sharpness: Mean sigma.
        relative: Mean of sigma / size of the box.
        error: Mean absolute residual.
    """

    n: int
    spearman: float
    nll: float
    temperature: float
    nll_calibrated: float
    nll_constant: float
    energy: float
    coverage50: float
    coverage68: float
    coverage90: float
    coverage95: float
    calibration_error: float
    ause: float
    sharpness: float
    relative: float
    error: float


def summarise(residual: Array, sigma: Array, size: Array | None = None) -> SigmaSummary:
    """Summarise how well standard deviations describe residuals.

    Args:
        residual: Array[N, C] truth minus prediction, any one unit.
        sigma: Array[N, C] standard deviations in the same unit.
        size: Array[N], square root of the area of each box in the same unit; without it ``relative`` is NaN.

    Returns:
        The summary; every number but n is NaN when there is no residual.

    Raises:
        ValueError: Shapes differ, a number is not finite, or a sigma is negative.
    """
    residual, sigma = checked(residual, sigma)
    if not residual.size:
        return SigmaSummary(0, *[math.nan] * (len(fields(SigmaSummary)) - 1))
    temperature = fit_temperature(residual, sigma)
    constant = np.broadcast_to(np.sqrt(np.mean(residual**2, axis=0)), residual.shape)
    error = np.abs(residual)
    covered = coverage(residual, sigma, np.array(list(COVERAGE_LEVELS.values()))).mean(1)
    return SigmaSummary(
        n=len(residual),
        spearman=rank_correlation(sigma, error),
        nll=float(nll(residual, sigma).mean()),
        temperature=temperature,
        nll_calibrated=float(nll(residual, np.maximum(sigma, SIGMA_MIN) * temperature).mean()),
        nll_constant=float(nll(residual, constant).mean()),
        energy=float(energy_score(residual, sigma, ENERGY_SAMPLES).mean()),
        **{name: float(share) for name, share in zip(COVERAGE_LEVELS, covered, strict=True)},
        calibration_error=float(calibration_error(residual, sigma).mean()),
        ause=ause(error.mean(1), sigma.mean(1)),
        sharpness=float(sigma.mean()),
        relative=math.nan if size is None else float((sigma / np.asarray(size)[:, None]).mean()),
        error=float(error.mean()),
    )
