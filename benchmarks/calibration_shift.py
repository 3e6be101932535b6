"""Does a calibration hold on other images? ``calibration_shift.py MODEL DATA IMGSZ [META.json] [KEY=VALUE ...]``.

Sigma is calibrated on one part of the validation images and measured on another: random halves of the images and, with
META (image name to attributes such as HIT-UAV's ``scenario`` and ``altitude_m``), day to night and low to high flights.
Printed is, before and after each method, the calibration error over 19 levels (mean over the coordinates) and the
share of errors within the 90 % interval; for conformal both by its own intervals, for the others by Gaussian ones.
Further words are options of ``val``, such as ``suppress=soft var_vote=True``.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ultralytics.cfg import parse_key_value_pair
from ultralytics.utils import LOGGER

from yolo_uncert import YOLO
from yolo_uncert.functional.calibrators import Isotonic, Temperature
from yolo_uncert.functional.conformal import Conformal, gaussian_quantile
from yolo_uncert.functional.records import Matches
from yolo_uncert.functional.reliability import LEVELS, calibration_error

LEVEL, HALVES = 0.9, 20

LEAST = 19
"""Boxes that a part must have: fewer set no conformal interval of the highest level, 0.95."""


def parts(matches: Matches, meta: dict[str, dict[str, object]]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name and rows of calibration and of measurement, attribute by attribute and both ways."""
    if not meta:
        return
    about = [meta[Path(file).stem] for file in matches.files]
    night = np.array([a["scenario"] == "night" for a in about])[matches.image]
    high = np.array([float(str(a["altitude_m"])) for a in about])[matches.image]
    high = high > np.median(high)
    for name, second, names in (("light", night, ("day", "night")), ("altitude", high, ("low", "high"))):
        for calibrated, rows in zip(names, (~second, second), strict=True):
            other = names[1 - names.index(calibrated)]
            yield f"{name}: {calibrated} to {other}", rows, ~rows


def measure(fitted: Matches, measured: Matches) -> np.ndarray:
    """Calibration error and coverage of the 90 % interval: as predicted, temperature, isotonic, conformal."""
    columns = measured.sigma.shape[1]
    gauss = gaussian_quantile(LEVEL, columns)
    rows = []
    for scale in (None, Temperature, Isotonic):
        factor = scale.fit(fitted.residual, fitted.sigma).factor(measured.sigma) if scale else 1.0
        sigma = measured.sigma * factor
        inside = (np.abs(measured.residual) <= gauss * sigma).mean()
        rows.append((calibration_error(measured.residual, sigma).mean(), inside))
    conformal = Conformal.fit(fitted.residual, fitted.sigma)
    held = conformal.coverage(measured.residual, measured.sigma, (*LEVELS, LEVEL))
    rows.append((np.abs(held[:-1] - LEVELS[:, None]).mean(), held[-1].mean()))
    return np.array(rows)


def show(name: str, boxes: tuple[int, int], found: np.ndarray) -> None:
    """Print one row."""
    cells = [f"{error:.3f} / {inside:.1%}" for error, inside in found]
    print(f"| {name} | {boxes[0]} / {boxes[1]} | {' | '.join(cells)} |", flush=True)


def main(model: str, data: str, imgsz: str, *words: str) -> None:
    """Validate once and print the table."""
    LOGGER.setLevel(logging.ERROR)
    meta = next((word for word in words if "=" not in word), None)
    given = dict(parse_key_value_pair(word) for word in words if "=" in word)
    with TemporaryDirectory() as folder:
        options = {"data": data, "imgsz": int(imgsz), "plots": False, "calibrated": False, "workers": 0, **given}
        matches = YOLO(model).val(**options, project=folder).matches
    print("| from to | boxes | as predicted | temperature | isotonic | conformal |\n|---|---|---|---|---|---|")
    random = np.random.default_rng(0)
    halves = []
    for _ in range(HALVES):
        chosen = np.isin(matches.image, random.permutation(len(matches.shapes))[: len(matches.shapes) // 2])
        halves.append(measure(matches.take(chosen), matches.take(~chosen)))
    half = len(matches) // 2
    show(f"random half to the other, mean of {HALVES}", (half, len(matches) - half), np.mean(halves, axis=0))
    attributes = json.loads(Path(meta).read_text(encoding="utf-8")) if meta else {}
    for name, first, second in parts(matches, attributes):
        boxes = int(first.sum()), int(second.sum())
        if min(boxes) < LEAST:
            print(f"| {name} | {boxes[0]} / {boxes[1]} | too few boxes | | | |", flush=True)
        else:
            show(name, boxes, measure(matches.take(first), matches.take(second)))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
