"""What a calibration changes, as a table: each coordinate before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.engine.calibration import Calibration
from yolo_uncert.functional.records import Floats, Matches
from yolo_uncert.functional.reliability import LEVELS


@dataclass(frozen=True)
class Quality:
    """How good standard deviations and intervals are; one value per coordinate.

    Attributes:
        within68: Array[C], share of residuals within one standard deviation; 0.683 of Gaussian ones.
        within: Array[C], share inside of the intervals at the level asked for.
        boxwise: Share of boxes all of whose coordinates are inside of the box-wise intervals.
        error: Array[C], calibration error over 19 levels: of the conformal intervals where there are, else of sigma.
        nll: Array[C], mean Gaussian negative log-likelihood.
    """

    within68: Floats
    within: Floats
    boxwise: float
    error: Floats
    nll: Floats


def calibration_table(calibration: Calibration, matches: Matches, before: Quality, after: Quality | None) -> str:
    """Return the quality before and after, a line per coordinate.

    Args:
        calibration: What was fitted.
        matches: The boxes that it was fitted to.
        before: Of sigma as predicted.
        after: Of sigma as calibrated by other images, None where there are too few boxes to measure it.
    """
    names = (UncertOBB if matches.oriented else UncertBoxes).coordinates
    factors = np.median(calibration.scale.factor(matches.sigma), axis=0)
    measured = [quality for quality in (before, after) if quality]
    lines = [
        _title(calibration, len(matches), halves=after is not None),
        f"{'':>8}{'factor':>8}{'within sigma':>18}{f'within {calibration.level:.4g}':>18}{'calibration error':>20}"
        f"{'NLL':>20}",
    ]
    for i, name in enumerate(names):
        lines.append(_line(name, f"{factors[i]:.2f}", [[float(c[i]) for c in _columns(q)] for q in measured]))
    # Likelihoods in pixels and in radians have no mean.
    means = [[float(c.mean()) for c in (*_columns(q)[:3], q.nll[:4])] for q in measured]
    lines.append(_line("all", "", means))
    lines.append(f"{'box':>8}{'':>26}{_arrow([q.boxwise for q in measured]):>18}")
    return "\n".join(lines)


def noise(boxes: int) -> float:
    """Return the calibration error that a true sigma shows on so many boxes: the mean size of binomial noise."""
    return float(np.sqrt(2 / np.pi * LEVELS * (1 - LEVELS) / boxes).mean())


def _title(calibration: Calibration, boxes: int, *, halves: bool) -> str:
    origin = calibration.origin
    how = (
        "measured on halves of the images by fits to the other ones: a true sigma has an error of "
        f"{noise(boxes // 2):.3f}"
        if halves
        else "too few boxes to measure it by halves"
    )
    return f"Calibration ({calibration.method}) from {origin['boxes']} boxes of {origin['images']} images; {how}"


def _columns(quality: Quality) -> tuple[Floats, Floats, Floats, Floats]:
    return quality.within68, quality.within, quality.error, quality.nll


def _line(name: str, factor: str, measured: Sequence[Sequence[float]]) -> str:
    """Return a line of the table; ``measured`` has the values of the columns before and, if known, after."""
    within68, within, error, nll = (_arrow(values) for values in zip(*measured, strict=True))
    return f"{name:>8}{factor:>8}{within68:>18}{within:>18}{error:>20}{nll:>20}"


def _arrow(values: Sequence[float]) -> str:
    return " -> ".join(f"{value:.3f}" for value in values)
