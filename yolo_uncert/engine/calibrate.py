"""Fit a calibration to the matched boxes of a validation, and measure what it is worth on images not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timezone
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ultralytics.utils import LOGGER

from yolo_uncert import __version__
from yolo_uncert.data import data_name
from yolo_uncert.engine.calibration import Calibration, as_indices, settings_of
from yolo_uncert.engine.calibration_table import Quality, calibration_table
from yolo_uncert.engine.rules import pick_source
from yolo_uncert.engine.schemas import schema_of
from yolo_uncert.engine.states import is_stock
from yolo_uncert.functional.calibrators import LEAST_BOXES, Isotonic, Scale, Temperature
from yolo_uncert.functional.conformal import Conformal, boxes_needed, gaussian_quantile
from yolo_uncert.functional.records import Floats, Matches
from yolo_uncert.functional.reliability import LEVELS, calibration_error
from yolo_uncert.functional.scoring import nll
from yolo_uncert.options import OptionError
from yolo_uncert.run_options import CalibrationOptions

SPLITS = 10
"""Random halvings of the images on which a calibration is measured."""


def fit_model(yolo: Any, own: CalibrationOptions, data: Any, options: dict[str, Any]) -> Calibration:
    """Validate with standard deviations as predicted, fit a calibration to them and print what it changes.

    Args:
        yolo: The YOLO object.
        own: Options of the calibration.
        data: Data yaml, or None for that of the model's training.
        options: Those of ``val``.

    Raises:
        OptionError: The model predicts no standard deviations, or there are too few boxes.
    """
    kept: list[Any] = []
    _check_sigma(yolo, options.get("sigma_source"))

    def validator(**given: Any) -> Any:
        kept.append(yolo._smart_load("validator")(**given))
        return kept[0]

    with TemporaryDirectory() as folder:
        quiet = {"plots": False, "calibrated": False, "save_json": False, "save_txt": False, "save_dir": folder}
        matches = yolo.val(validator, **{**options, **quiet, "data": data}).matches
    args, schema, end2end = kept[0].args, kept[0].schema, kept[0].end2end
    settings = settings_of(schema, args, end2end=end2end)
    settings |= {"classes": classes} if (classes := as_indices(args.classes)) else {}
    calibration, table = fit_calibration(matches, own, settings, data_name(str(data or args.data)), args.split)
    LOGGER.info(table)
    return calibration


def _check_sigma(yolo: Any, wanted: str | None) -> None:
    """Refuse a model without standard deviations before the validation, which may take an hour.

    Raises:
        OptionError: It has none.
    """
    if is_stock(yolo.model):
        if wanted != "dfl":
            raise OptionError(
                "calibrate: a stock model predicts no standard deviations; sigma_source=dfl reads them off its DFL "
                "distributions"
            )
    elif pick_source(schema_of(yolo.model, yolo.task).names, wanted) == "none":
        raise OptionError("calibrate: this model predicts no standard deviations, or sigma_source=none")


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
    return calibration, calibration_table(calibration, matches, before, after)


def check_size(boxes: int, options: CalibrationOptions) -> None:
    """Refuse a calibration set that is too small.

    Args:
        boxes: Matched boxes.
        options: Method and level.

    Raises:
        OptionError: It is; the message says how many boxes are needed.
    """
    if options.method == "conformal":
        # Its factors are those of the method temperature.
        least = max(boxes_needed(options.level), LEAST_BOXES["temperature"])
        why = f" at level={options.level:g}" if least > LEAST_BOXES["temperature"] else ""
    else:
        least, why = LEAST_BOXES[options.method], ""
    if boxes < least:
        raise OptionError(
            f"calibrate: method={options.method}{why} needs at least {least} boxes matched with an object, and there "
            f"are {boxes}: give more images" + (" or a lower level" if why else "")
        )


def measure(matches: Matches, options: CalibrationOptions) -> tuple[Quality, Quality | None]:
    """Measure standard deviations as predicted, and as calibrated by other images.

    The images are split into random halves, each of which is calibrated by a fit to the other one and measured by
    itself: pooled, one half's factor that is too large would hide the other's that is too small. Mean of SPLITS splits.

    Args:
        matches: Matched boxes.
        options: Method, level and target.

    Returns:
        Quality before and after on the same halves; the latter is None where half of the boxes are too few to fit.
    """
    random, images = np.random.default_rng(0), np.unique(matches.image)
    before, after = [], []
    for _ in range(SPLITS):
        first = np.isin(matches.image, random.permutation(images)[: len(images) // 2])
        for rows in (first, ~first):
            fitted, held = matches.take(~rows), matches.take(rows)
            try:
                check_size(min(len(fitted), max(len(held), 1)), options)
            except OptionError:
                return _quality(matches, matches.sigma, None, options.level), None
            scale, conformal = _fit(fitted, options)
            before.append(_quality(held, held.sigma, None, options.level))
            after.append(_quality(held, held.sigma * scale.factor(held.sigma), conformal, options.level))
    return _mean(before), _mean(after)


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


def _quality(matches: Matches, sigma: Floats, conformal: Conformal | None, level: float) -> Quality:
    """Measure sigma, Array[N, C], and the intervals around it: conformal ones, or Gaussian."""
    residual, size = matches.residual, np.abs(matches.residual)
    if conformal:
        within = conformal.coverage(residual, sigma, [level])[0]
        boxwise = conformal.coverage(residual, sigma, [level], boxwise=True)[0]
    else:
        single, together = (gaussian_quantile(level, sigma.shape[1], each) for each in (False, True))
        within, boxwise = (size <= sigma * single).mean(axis=0), (size <= sigma * together).all(axis=1).mean()
    if conformal and conformal.max_level >= LEVELS[-1]:
        error = np.abs(conformal.coverage(residual, sigma, LEVELS) - LEVELS[:, None]).mean(axis=0)
    else:
        error = calibration_error(residual, sigma)
    return Quality(
        within68=np.mean(size <= sigma, axis=0),
        within=within,
        boxwise=float(boxwise),
        error=error,
        nll=nll(residual, sigma).mean(axis=0),
    )


def _mean(qualities: Sequence[Quality]) -> Quality:
    return Quality(**{f.name: np.mean([getattr(q, f.name) for q in qualities], axis=0) for f in fields(Quality)})
