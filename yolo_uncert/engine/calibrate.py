"""Fit a calibration to the matched boxes of a validation, and measure what it is worth on images not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from yolo_uncert import __version__
from yolo_uncert.config import OptionError
from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.engine.calibration import Calibration
from yolo_uncert.functional.calibrators import LEAST_BOXES, Isotonic, Scale, Temperature
from yolo_uncert.functional.conformal import Conformal, boxes_needed, gaussian_quantile
from yolo_uncert.functional.records import Floats, Matches
from yolo_uncert.functional.reliability import LEVELS, calibration_error
from yolo_uncert.functional.scoring import nll
from yolo_uncert.run_options import CalibrationOptions


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


def fit_calibration(
    matches: Matches, options: CalibrationOptions, settings: dict[str, Any], data: str, split: str
) -> tuple[Calibration, str]:
    """Fit a calibration.

    Args:
        matches: Matched boxes with standard deviations as predicted.
        options: Method, level and target.
        settings: What the standard deviations depend on.
        data: Name of the data set, for the record.
        split: Its split, for the record.

    Returns:
        The calibration, and a table of what it changes.

    Raises:
        OptionError: There are too few boxes.
    """
    check_size(len(matches), options)
    scale, conformal = _fit(matches, options)
    before, after = measure(matches, options)
    origin = {
        "data": data,
        "split": split,
        "boxes": len(matches),
        "images": len(np.unique(matches.image)),
        "target": options.target,
        "calibration_error": [q and round(float(q.error.mean()), 4) for q in (before, after)],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": __version__,
    }
    calibration = Calibration(options.method, options.level, scale, conformal, settings, origin)
    return calibration, _table(calibration, matches, before, after)


def check_size(boxes: int, options: CalibrationOptions) -> None:
    """Refuse a calibration set that is too small.

    Args:
        boxes: Matched boxes.
        options: Method and level.

    Raises:
        OptionError: It is; the message says how many boxes are needed.
    """
    if options.method == "conformal":
        least, why = boxes_needed(options.level), f" at level={options.level:g}"
    else:
        least, why = LEAST_BOXES[options.method], ""
    if boxes < least:
        raise OptionError(
            f"calibrate: method={options.method}{why} needs at least {least} boxes matched with an object, and there "
            f"are {boxes}: give more images" + (" or a lower level" if why else "")
        )


def measure(matches: Matches, options: CalibrationOptions) -> tuple[Quality, Quality | None]:
    """Measure standard deviations as predicted and as calibrated by the other half of the images.

    The images are split into random halves; each is calibrated by a fit to the other, and all are measured together.

    Args:
        matches: Matched boxes.
        options: Method, level and target.

    Returns:
        Quality before and after; the latter is None where half of the boxes are too few to fit or measure anything.
    """
    count = matches.sigma.shape[1]
    gauss = np.stack([gaussian_quantile(options.level, count, boxwise) for boxwise in (False, True)])
    error = calibration_error(matches.residual, matches.sigma)
    reach = np.broadcast_to(gauss[:, None], (2, *matches.sigma.shape))
    before = _quality(matches.residual, matches.sigma, reach, error)
    images = np.random.default_rng(0).permutation(np.unique(matches.image))
    first = np.isin(matches.image, images[: len(images) // 2])
    sigma = np.empty_like(matches.sigma, dtype=float)
    reach, inside = np.empty((2, *sigma.shape)), np.empty((len(LEVELS), *sigma.shape), bool)
    for rows in (first, ~first):
        try:
            check_size(int((~rows).sum()), options)
        except OptionError:
            return before, None
        scale, conformal = _fit(matches.take(~rows), options)
        sigma[rows] = matches.sigma[rows] * scale.factor(matches.sigma[rows])
        for boxwise in (False, True):
            reach[int(boxwise), rows] = conformal.quantile(options.level, boxwise) if conformal else gauss[int(boxwise)]
        if conformal and conformal.max_level < LEVELS[-1]:
            conformal = None
        for level, held in zip(LEVELS, inside, strict=True):
            width = conformal.quantile(level) if conformal else gaussian_quantile(level, count)
            held[rows] = np.abs(matches.residual[rows]) <= sigma[rows] * width
    error = np.abs(inside.mean(axis=1) - LEVELS[:, None]).mean(axis=0)
    return before, _quality(matches.residual, sigma, reach, error)


def _fit(matches: Matches, options: CalibrationOptions) -> tuple[Scale, Conformal | None]:
    """Fit the map of sigma and, for the conformal method, the scores on top of it.

    Factors cancel out of conformal intervals of single coordinates, which stay exact. In box-wise ones they balance the
    coordinates; that they come from the same boxes changes the coverage by the order of 1 / N.
    """
    kind = Isotonic if options.method == "isotonic" else Temperature
    scale = kind.fit(matches.residual, matches.sigma, options.target)
    if options.method != "conformal":
        return scale, None
    return scale, Conformal.fit(matches.residual, matches.sigma * scale.factor(matches.sigma))


def _quality(residual: Floats, sigma: Floats, reach: Floats, error: Floats) -> Quality:
    """Measure sigma, Array[N, C], and intervals of half width sigma * reach, Array[2, N, C]: single and box-wise."""
    single, together = np.abs(residual) <= sigma * reach
    return Quality(
        within68=np.mean(np.abs(residual) <= sigma, axis=0),
        within=single.mean(axis=0),
        boxwise=float(together.all(axis=1).mean()),
        error=error,
        nll=nll(residual, sigma).mean(axis=0),
    )


def _table(calibration: Calibration, matches: Matches, before: Quality, after: Quality | None) -> str:
    """Return the quality before and after, a line per coordinate."""
    names = (UncertOBB if matches.oriented else UncertBoxes).coordinates
    factors = np.median(calibration.scale.factor(matches.sigma), axis=0)
    origin, level = calibration.origin, f"{calibration.level:.4g}"
    how = "after: each half of the images by a fit to the other" if after else "too few boxes to measure it by halves"
    lines = [
        f"Calibration ({calibration.method}) from {origin['boxes']} boxes of {origin['images']} images; {how}",
        f"{'':>8}{'factor':>8}{'within sigma':>18}{'within ' + level:>18}{'calibration error':>20}{'NLL':>20}",
    ]
    for i, name in enumerate((*names, "all")):
        rows = slice(i, i + 1) if i < len(names) else slice(None)
        cells = [
            _cells([float(getattr(q, key)[rows].mean()) for q in (before, after) if q], digits)
            for key, digits in (("within68", 3), ("within", 3), ("error", 3), ("nll", 3))
        ]
        factor = f"{factors[i]:.2f}" if i < len(names) else ""
        lines.append(f"{name:>8}{factor:>8}{cells[0]:>18}{cells[1]:>18}{cells[2]:>20}{cells[3]:>20}")
    lines.append(f"{'box':>8}{'':>26}{_cells([q.boxwise for q in (before, after) if q], 3):>18}")
    return "\n".join(lines)


def _cells(values: Sequence[float], digits: int) -> str:
    return " -> ".join(f"{value:.{digits}f}" for value in values)
