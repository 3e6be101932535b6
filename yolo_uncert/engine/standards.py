"""The evaluations that papers report, of a validation: DOTA's with the exact overlap, and COCO's."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolo_uncert.engine.tables import Table, titles
from yolo_uncert.evaluation import DotaDetections, DotaTruth, evaluate_coco, evaluate_dota
from yolo_uncert.evaluation.dota_boxes import class_name
from yolo_uncert.evaluation.polygons import corners

METHODS = {"area": "", "voc07": " (07)"}
"""Ways of averaging the precision, and what they add to the name of a column."""


def dota_records(metrics: Any, names: Mapping[int, str]) -> tuple[DotaDetections, DotaTruth]:
    """Return the oriented detections and objects of a validation in DOTA's terms.

    Args:
        metrics: UncertOBBMetrics after a validation, with all boxes.
        names: Class names.
    """
    scored = metrics.scored
    images, classes = np.array(image_names(metrics.matches.files)), np.array(list(titles(names).values()))
    detections = DotaDetections(images[scored.image], classes[scored.cls], scored.conf, corners(scored.boxes))
    easy = np.zeros(len(scored.target_cls), dtype=bool)
    empty = sorted({*images.tolist()} - {*images[scored.target_image].tolist()})
    polygons = corners(scored.target_boxes)
    truth = DotaTruth(images[scored.target_image], classes[scored.target_cls], easy, polygons, tuple(empty))
    return detections, truth


def exact_table(detections: DotaDetections, truth: DotaTruth, names: Mapping[int, str]) -> Table:
    """Return the AP of oriented boxes by the exact overlap, over all classes and for each, area and 11-point.

    Args:
        detections: Detections of a data set.
        truth: Its objects.
        names: Class names, in whose order the rows are.
    """
    found = {method: evaluate_dota(detections, truth, method=method) for method in METHODS}
    order = [class_name(title) for title in titles(names).values()]
    columns = ("AP50", "AP75", "AP")
    header = [c + ending for ending in METHODS.values() for c in columns]
    rows = [("all", *(result.mean()[c] for result in found.values() for c in columns))]
    rows += [
        (name, *(result.per_class()[name][c] for result in found.values() for c in columns))
        for name in sorted(found["area"].per_class(), key=order.index)
    ]
    return Table("Exact IoU", ("Class", *header), rows)


def coco_results(
    truth: Mapping[str, Any] | str | Path, detections: Sequence[Mapping[str, Any]] | str | Path, images: Any = None
) -> dict[str, float]:
    """Return COCO's twelve numbers as ``coco/AP`` and so on.

    Args:
        truth: Ground truth in COCO's format, or its file.
        detections: Rows of results in COCO's format, or their file.
        images: Numbers of the images to evaluate, if not all.
    """
    return {f"coco/{name}": value for name, value in evaluate_coco(truth, detections, image_ids=images).items()}


def coco_tables(results: Mapping[str, float]) -> list[Table]:
    """Return COCO's numbers as two tables of one row, precision and recall."""
    names = [name.removeprefix("coco/") for name in results]
    halves = [[(n, v) for n, v in zip(names, results.values(), strict=True) if n.startswith(k)] for k in ("AP", "AR")]
    return [
        Table(caption, ("Class", *(name for name, _ in half)), [("all", *(value for _, value in half))])
        for caption, half in zip(("COCO precision", "COCO recall"), halves, strict=True)
    ]


def image_names(files: Sequence[str]) -> list[str]:
    """Return a name for each image file: that without suffix, with its folders or a number behind where names repeat.

    Blanks become ``_``.
    """
    names = [_word(Path(file).stem) for file in files]
    if len(set(names)) < len(names):
        paths = [os.path.abspath(file) for file in files]
        root = os.path.commonpath(paths)
        names = [_word("_".join(Path(path).relative_to(root).with_suffix("").parts)) for path in paths]
    unique: dict[str, None] = {}
    for name in names:
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        unique[next(free for free in itertools.chain([name], numbered) if free not in unique)] = None
    return list(unique)


def _word(name: str) -> str:
    return "_".join(name.split())
