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

KEYS = ("residual", "sigma", "matched", "overlap", "image", "file", "pdq", "boxes", "target_boxes")
"""Our statistics of an image: residuals and sigma of its matches; their boxes, IoU, score and class; IoU of every
detection; height, width, and the numbers of detections, objects and matches; name; if asked for, sums of the detection
quality, and the boxes of detections and objects."""

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
        iou=stats["overlap"],
        image=detection,
        target_cls=stats["target_cls"].astype(int),
        target_image=target,
        boxes=stats["boxes"],
        target_boxes=stats["target_boxes"],
    )
    return matches, scored


def pdq_record(detections: Mapping[str, Array] | None, truth: Mapping[str, Array], shape: tuple[int, int]) -> Array:
    """Return the sums of an image for its detection quality, Array[1, 6]; no row without detections to measure.

    Args:
        detections: ``bboxes``, ``std``, ``conf`` and ``cls`` of horizontal boxes in original pixels; None: do not.
        truth: ``bboxes`` and ``cls``.
        shape: Height and width of the image.
    """
    if detections is None:
        return np.zeros((0, len(fields(PdqSums))))
    boxes, std, conf, cls = (detections[name] for name in ("bboxes", "std", "conf", "cls"))
    sums = image_pdq(boxes, std, conf, cls, truth["bboxes"], truth["cls"], shape=shape)
    return np.array([astuple(sums)], dtype=float)


def pdq_of(stats: Mapping[str, Array]) -> PdqSums | None:
    """Return the sums over a data set, None if they were not asked for."""
    rows = stats["pdq"]
    if not len(rows):
        return None
    quality, spatial, label, tp, fp, fn = rows.sum(0)
    return PdqSums(quality, spatial, label, int(tp), int(fp), int(fn))
