"""Collect what a validation remembers, image by image, in the statistics that Ultralytics gathers over processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from yolo_uncert.functional.pdq import PdqSums, image_pdq
from yolo_uncert.functional.records import Matches, Scored
from yolo_uncert.ops import greedy_match

Array = npt.NDArray[Any]

KEYS = ("residual", "sigma", "matched", "hit", "overlap", "image", "file", "pdq", "boxes", "target_boxes")
"""Our statistics of an image: residuals and sigma of its matches; their boxes, IoU, score and class; match and IoU of
every detection; height, width, and the numbers of detections, objects and matches; name; if asked for, sums of the
detection quality; but for validations while training, the boxes of detections and objects."""

MATCH_IOU = 0.5
"""Overlap at which a detection counts as a measurement of an object, the customary threshold of the field."""


def image_record(
    detections: Mapping[str, Array], truth: Mapping[str, Array], iou: Array, shape: tuple[int, int], file: str
) -> tuple[dict[str, Array], Array, Array]:
    """Match the detections of an image with its objects.

    Args:
        detections: ``bboxes`` Array[N, 4 or 5], ``conf`` and ``cls`` Array[N] by descending score, in original pixels.
        truth: ``bboxes`` Array[T, 4 or 5] and ``cls`` Array[T].
        iou: Array[T, N].
        shape: Height and width of the image.
        file: Name of the image.

    Returns:
        The statistics but residual and sigma, and which detections were matched with which objects.
    """
    iou = iou * (truth["cls"][:, None] == detections["cls"])
    found = greedy_match(iou, 0.0)
    overlap = np.where(found >= 0, iou[found, np.arange(iou.shape[1])], 0.0) if iou.size else np.zeros(iou.shape[1])
    found = greedy_match(iou, MATCH_IOU)
    rows = np.flatnonzero(found >= 0)
    targets = found[rows]
    columns = (iou[targets, rows], detections["conf"][rows], detections["cls"][rows])
    counts = (*shape, *iou.shape[::-1], len(rows))
    stats = {
        "matched": np.column_stack((detections["bboxes"][rows], *columns)),
        "hit": found >= 0,
        "overlap": overlap,
        "image": np.array([counts], dtype=float),
        "file": np.array([file], dtype=object),
    }
    return stats, rows, targets


def records_of(stats: Mapping[str, Array]) -> tuple[Matches, Scored]:
    """Return the records of a data set from its concatenated statistics, stock and ours."""
    counts = stats["image"][:, 2:].astype(int)
    detection, target, match = (np.repeat(np.arange(len(counts)), column) for column in counts.T)
    boxes, (iou, conf, cls) = stats["matched"][:, :-3], stats["matched"][:, -3:].T
    matches = Matches(
        residual=stats["residual"],
        sigma=stats["sigma"],
        boxes=boxes,
        iou=iou,
        conf=conf,
        cls=cls.astype(int),
        image=match,
        shapes=stats["image"][:, :2],
        files=tuple(stats["file"]),
    )
    scored = Scored(
        conf=stats["conf"],
        cls=stats["pred_cls"].astype(int),
        correct=stats["tp"],
        matched=stats["hit"].astype(bool),
        iou=stats["overlap"],
        image=detection,
        target_cls=stats["target_cls"].astype(int),
        target_image=target,
        boxes=stats["boxes"],
        target_boxes=stats["target_boxes"],
    )
    return matches, scored


def pdq_record(detections: Mapping[str, Array] | None, truth: Mapping[str, Array], shape: tuple[int, int]) -> Array:
    """Return the sums of an image for its detection quality, a row for each class: Array[K, 7], the class first.

    Classes do not compete for objects, so the quality over all classes is that of the sum.

    Args:
        detections: ``bboxes``, ``std``, ``conf`` and ``cls`` of horizontal boxes in original pixels; None: do not.
        truth: ``bboxes`` and ``cls``.
        shape: Height and width of the image.
    """
    width = 1 + len(fields(PdqSums))
    if detections is None:
        return np.zeros((0, width))
    rows = []
    for cls in np.union1d(detections["cls"], truth["cls"]):
        found = {name: values[detections["cls"] == cls] for name, values in detections.items()}
        objects = {name: values[truth["cls"] == cls] for name, values in truth.items()}
        boxes, std, conf, label = (found[name] for name in ("bboxes", "std", "conf", "cls"))
        rows.append((cls, *astuple(image_pdq(boxes, std, conf, label, objects["bboxes"], objects["cls"], shape=shape))))
    return np.array(rows, dtype=float).reshape(-1, width)


def pdq_of(stats: Mapping[str, Array]) -> dict[int, PdqSums] | None:
    """Return the sums over a data set by class, None if they were not asked for."""
    rows = stats["pdq"]
    if not len(rows):
        return None
    sums = {int(cls): rows[rows[:, 0] == cls, 1:].sum(0) for cls in np.unique(rows[:, 0])}
    return {cls: PdqSums(*s[:3].tolist(), *s[3:].astype(int).tolist()) for cls, s in sums.items()}
