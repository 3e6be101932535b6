"""The tables of a validation: AP by overlap, sigma, coverage and scores, over all objects and class by class."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolo_uncert.engine.metrics import AP_COLUMNS
from yolo_uncert.files import plain, replacing
from yolo_uncert.functional.conformal import Conformal
from yolo_uncert.functional.pdq import PdqSums
from yolo_uncert.functional.records import Matches
from yolo_uncert.functional.reliability import LEVELS
from yolo_uncert.functional.score_calibration import d_ece, la_ece
from yolo_uncert.functional.summary import COVERAGE_LEVELS, SigmaSummary

SIGMA_COLUMNS = {
    "n": "Boxes",
    "error": "Error",
    "sharpness": "Sigma",
    "relative": "Sigma/size",
    "nll": "NLL",
    "nll_constant": "const. NLL",
    "temperature": "Temp.",
    "energy": "Energy",
}
COVERAGE_COLUMNS = {
    "coverage50": "in 50 %",
    "coverage68": "in 68 %",
    "coverage90": "in 90 %",
    "coverage95": "in 95 %",
    "calibration_error": "Cal. error",
    "spearman": "Spearman",
    "ause": "AUSE",
}
ANGLE = " angle (rad)"


class Table(NamedTuple):
    """A table for the terminal, the report and files: one row per class, ``all`` first."""

    caption: str
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def summaries(metrics: Any, *, classes: bool = True) -> dict[str, SigmaSummary]:
    """Return the summary of sigma over all matches and by class; that of a known angle under a name of its own.

    Args:
        metrics: UncertDetMetrics or UncertOBBMetrics after a validation.
        classes: Every class by itself as well.
    """
    names = titles(metrics.names)
    found = {}
    for prefix in metrics.prefixes:
        ending, angle = (ANGLE, True) if prefix else ("", False)
        found["all" + ending] = metrics.angle_sigma if angle else metrics.sigma
        if classes and len(names) > 1:
            found |= {names[cls] + ending: summary for cls, summary in metrics.class_summaries(angle=angle).items()}
    return found


def tables(metrics: Any, *, classes: bool = True) -> list[Table]:
    """Return the tables of a validation.

    Args:
        metrics: UncertDetMetrics or UncertOBBMetrics after a validation.
        classes: Every class by itself as well.
    """
    found = summaries(metrics, classes=classes)
    result = [_ap_table(metrics, classes)]
    if found:
        result.append(_sigma_table("Sigma (px)", SIGMA_COLUMNS, found))
        result.append(_sigma_table("Coverage", COVERAGE_COLUMNS, found))
    result.append(_score_table(metrics, classes))
    return result


def titles(names: Mapping[int, str]) -> dict[int, str]:
    """Return class names that no other row has: those that repeat, or are ``all``, with their index behind."""
    used = [*names.values(), "all"]
    return {index: f"{name} ({index})" if used.count(name) > 1 else name for index, name in names.items()}


def without_classes(table: Table) -> Table:
    """Return the row over all classes of a table that has one row per class, any other table as it is."""
    return table._replace(rows=table.rows[:1]) if table.header[0] == "Class" else table


def interval_table(matches: Matches, conformal: Conformal, coordinates: Sequence[str]) -> Table:
    """Return which share of the errors the intervals of a conformal calibration hold.

    Args:
        matches: Matched boxes with calibrated sigma.
        conformal: The scores of the calibration set.
        coordinates: Names of the coordinates.
    """
    levels = np.array([*COVERAGE_LEVELS.values(), *LEVELS])
    levels = levels[levels <= conformal.max_level]
    known = len(levels) == len(COVERAGE_LEVELS) + len(LEVELS)
    single = conformal.coverage(matches.residual, matches.sigma, levels)
    together = conformal.coverage(matches.residual, matches.sigma, levels, boxwise=True)
    rows = []
    for name, held in [*zip(coordinates, single.T, strict=True), ("all", single.mean(1)), ("box-wise", together)]:
        shares = [float(held[i]) if i < len(levels) else math.nan for i in range(len(COVERAGE_LEVELS))]
        gaps = single if name == "all" else held[:, None]
        error = np.abs(gaps - levels[:, None])[len(COVERAGE_LEVELS) :].mean() if known else math.nan
        rows.append((name, len(matches), *shares, float(error)))
    header = ("Coordinate", "Boxes", *(COVERAGE_COLUMNS[key] for key in COVERAGE_LEVELS), "Cal. error")
    return Table("Conformal intervals", header, rows)


def as_text(table: Table) -> str:
    """Return a table in the manner of Ultralytics' own, names right-aligned in 22 characters and columns in 11."""
    head = f"{table.caption:>22}" + "".join(f"{name:>11}" for name in table.header[1:])
    return "\n".join([head, *(f"{row[0]:>22}" + "".join(f"{cell(v):>11}" for v in row[1:]) for row in table.rows)])


def cell(value: Any) -> str:
    """Return a number with three significant digits, and an unknown one as a dash."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def as_dict(metrics: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that was measured as plain values for JSON, NaN as None.

    Args:
        metrics: UncertDetMetrics or UncertOBBMetrics after a validation.
        settings: What it was measured with.
    """
    sigma = {name: asdict(summary) for name, summary in summaries(metrics).items()}
    by_table = {
        t.caption: {row[0]: dict(zip(t.header[1:], row[1:], strict=True)) for row in t.rows}
        for t in (_ap_table(metrics, True), _score_table(metrics, True), *metrics.further)
    }
    return {**plain({"results": metrics.results_dict, "sigma": sigma, **by_table}), "settings": dict(settings)}


def write_results(metrics: Any, settings: Mapping[str, Any], folder: Path) -> None:
    """Write ``uncertainty.json`` and, a row per class, ``uncertainty.csv``; each complete or not at all.

    Args:
        metrics: UncertDetMetrics or UncertOBBMetrics after a validation.
        settings: What it was measured with.
        folder: Folder of the run.
    """
    rows = [{"class": name, **asdict(s)} for name, s in summaries(metrics).items()]
    for file in (folder / "uncertainty.json", folder / "uncertainty.csv"):
        with replacing(file) as part, part.open("w", encoding="utf-8", newline="") as stream:
            if file.suffix == ".json":
                json.dump(as_dict(metrics, settings), stream, indent=1, default=str)
            else:
                writer = csv.DictWriter(stream, ["class", *SigmaSummary.__dataclass_fields__])
                writer.writeheader()
                writer.writerows(rows)


def _ap_table(metrics: Any, classes: bool) -> Table:
    all_ap = np.asarray(metrics.box.all_ap).reshape(-1, 10)
    header = ("Class", *(f"AP{level}" for level in AP_COLUMNS), "AP50-95")
    columns = list(AP_COLUMNS.values())
    rows = {"all": all_ap.mean(0) if len(all_ap) else np.zeros(10)}
    if classes and len(metrics.names) > 1:
        names = titles(metrics.names)
        rows |= {names[c]: ap for c, ap in zip(metrics.ap_class_index, all_ap, strict=True)}
    return Table("AP at IoU", header, [(n, *map(float, ap[columns]), float(ap.mean())) for n, ap in rows.items()])


def _sigma_table(caption: str, columns: Mapping[str, str], found: Mapping[str, SigmaSummary]) -> Table:
    rows = [(name, *(getattr(s, key) for key in columns)) for name, s in found.items()]
    return Table(caption, ("Class", *columns.values()), rows)


def _score_table(metrics: Any, classes: bool) -> Table:
    scored = metrics.scored
    results = metrics.scores
    further = ("PDQ", "spatial", "label") if metrics.pdq is not None else ()
    names, qualities = titles(metrics.names), metrics.pdq_classes or {}
    rows: list[tuple[Any, ...]] = [("all", len(scored.conf), *results.values())]
    for cls in np.unique(scored.cls) if classes and len(metrics.names) > 1 else ():
        mine = scored.cls == cls
        conf = scored.conf[mine]
        gaps = d_ece(conf, scored.matched[mine]), la_ece(conf, scored.iou[mine], scored.cls[mine])
        sums = qualities.get(int(cls), PdqSums())
        quality = (sums.pdq, sums.spatial_quality, sums.label_quality) if further else ()
        rows.append((names[cls], len(conf), *gaps, *quality))
    return Table("Scores", ("Class", "Detections", "D-ECE", "LaECE0", *further), rows)
