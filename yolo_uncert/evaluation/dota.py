"""Average precision of oriented boxes by the rules of DOTA, with the exact IoU of polygons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolo_uncert.evaluation.average_precision import average_precision, check_method, precision_recall
from yolo_uncert.evaluation.dota_boxes import DotaDetections, DotaTruth
from yolo_uncert.evaluation.polygons import polygon_iou

THRESHOLDS: tuple[float, ...] = tuple(percent / 100 for percent in range(50, 100, 5))
"""IoU 0.50, 0.55, ..., 0.95."""

_PAIRS_PER_CHUNK = 1 << 20
"""Pairs of one image and class whose bounding boxes are compared at once: about 100 bytes of temporaries each."""

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class DotaResult:
    """Average precision of each class at each threshold.

    Attributes:
        classes: C names in alphabetical order, all that have objects or detections.
        thresholds: T IoU thresholds.
        ap: ``Array[C, T]`` in ``[0, 1]``; NaN for a class without objects to be found.
        method: how precision was averaged, see `average_precision`.
    """

    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    ap: NDArray[np.float64]
    method: str

    def per_class(self) -> dict[str, dict[str, float]]:
        """``AP``, the mean over the thresholds, then ``AP50``, ``AP55``, ... of each class."""
        return {name: self._rows(ap) for name, ap in zip(self.classes, self.ap, strict=True)}

    def mean(self) -> dict[str, float]:
        """The same rows, averaged over the classes that have objects to be found; NaN if none has."""
        known = self.ap[~np.isnan(self.ap).any(axis=1)]
        return self._rows(known.mean(axis=0) if len(known) else np.full(len(self.thresholds), math.nan))

    def _rows(self, ap: NDArray[np.float64]) -> dict[str, float]:
        names = (f"AP{threshold * 100:g}" for threshold in self.thresholds)
        return {"AP": float(ap.mean()), **dict(zip(names, ap.tolist(), strict=True))}


def evaluate_dota(
    detections: DotaDetections,
    truth: DotaTruth,
    thresholds: Sequence[float] = THRESHOLDS,
    method: str = "voc07",
) -> DotaResult:
    """Average precision of oriented boxes as DOTA's development kit computes it for Task 1.

    A detection is compared with the object of its image and class that it overlaps most, by the exact IoU of the two
    polygons, taken or not. It is a true positive if the IoU exceeds the threshold and no detection with a higher score
    has taken the object, ignored if the object is difficult, and a false positive otherwise. Equal scores count in the
    order given.

    Args:
        detections: what was detected.
        truth: all objects of the data set; its images are those of the data set.
        thresholds: IoU thresholds in ``[0, 1)``.
        method: ``"voc07"``, DOTA's own, or ``"area"``, see `average_precision`.

    Returns:
        The average precisions; see `DotaResult`.

    Raises:
        ValueError: If there are no objects, a detection lies in an image that the truth does not know, or a threshold
            or the method is not allowed.

    Reference:
        Xia et al., DOTA: A Large-scale Dataset for Object Detection in Aerial Images, CVPR 2018, arXiv 1711.10398, and
        its development kit, dota_evaluation_task1.py. Ours sorts stably, and averages over the classes that have
        objects to be found instead of a fixed list.
    """
    check_method(method)
    if not thresholds or not all(0 <= threshold < 1 for threshold in thresholds):
        raise ValueError(f"thresholds must be in [0, 1); got {tuple(thresholds)}")
    if not len(truth.images):
        raise ValueError("the ground truth has no objects")
    unknown = sorted(set(detections.images.tolist()) - set(truth.images.tolist()) - set(truth.empty))
    if unknown:
        raise ValueError(f"{len(unknown)} images of detections are not in the ground truth: {', '.join(unknown[:3])}")
    overlap, nearest = _best_match(detections, truth)
    classes = np.unique(np.concatenate((truth.classes, detections.classes))).tolist()
    ap = np.full((len(classes), len(thresholds)), math.nan)
    for row, name in enumerate(classes):
        positives = int((~truth.difficult[truth.classes == name]).sum())
        if positives:
            ranked = np.flatnonzero(detections.classes == name)
            ranked = ranked[np.argsort(-detections.scores[ranked], kind="stable")]
            for column, threshold in enumerate(thresholds):
                tp, fp = _judge(overlap[ranked] > threshold, nearest[ranked], truth.difficult)
                ap[row, column] = average_precision(*precision_recall(tp, fp, positives), method)
    return DotaResult(tuple(classes), tuple(thresholds), ap, method)


def _judge(
    hit: NDArray[np.bool_], nearest: Ints, difficult: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """True and false positives among detections by descending score; on a difficult object they are neither."""
    counted = np.flatnonzero(hit)
    counted = counted[~difficult[nearest[counted]]]
    tp = np.zeros_like(hit)
    tp[counted[np.unique(nearest[counted], return_index=True)[1]]] = True
    fp = ~hit
    fp[counted] = ~tp[counted]
    return tp, fp


def _best_match(detections: DotaDetections, truth: DotaTruth) -> tuple[NDArray[np.float64], Ints]:
    """For each detection the largest IoU with an object of its image and class, and that object; 0 without one."""
    overlap = np.zeros(len(detections.images))
    nearest = np.zeros(len(overlap), dtype=np.intp)
    for rows, objects in _candidates(detections, truth):
        iou = polygon_iou(detections.polygons[rows], truth.polygons[objects])
        np.maximum.at(overlap, rows, iou)
        best = np.flatnonzero(iou == overlap[rows])[::-1]
        # Backwards: of equal overlaps the first object is written last.
        nearest[rows[best]] = objects[best]
    return overlap, nearest


def _candidates(detections: DotaDetections, truth: DotaTruth) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of detection and object of one image and class whose bounding boxes meet, all of a detection at once."""
    groups = np.unique(np.concatenate((_group(truth), _group(detections))), return_inverse=True)[1]
    of_object, of_detection = np.split(groups, [len(truth.images)])
    by_group = np.argsort(of_object, kind="stable")
    start, stop = (np.searchsorted(of_object[by_group], of_detection, side=side) for side in ("left", "right"))
    ends = np.cumsum(stop - start)
    box_of_detection, box_of_object = _bounds(detections.polygons), _bounds(truth.polygons)
    begin = 0
    while begin < len(ends):
        before = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + _PAIRS_PER_CHUNK, side="right")))
        count = (stop - start)[begin:end]
        rows = np.repeat(np.arange(begin, end), count)
        step = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        objects = by_group[start[rows] + step]
        meet = _meet(box_of_detection[rows], box_of_object[objects])
        yield rows[meet], objects[meet]
        begin = end


def _group(table: DotaDetections | DotaTruth) -> NDArray[np.str_]:
    # No name of an image or class holds a line break.
    return np.char.add(np.char.add(table.images, "\n"), table.classes)


def _bounds(polygons: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate((polygons.min(axis=1), polygons.max(axis=1)), axis=1)


def _meet(bounds1: NDArray[Any], bounds2: NDArray[Any]) -> NDArray[np.bool_]:
    return np.all((bounds1[:, :2] < bounds2[:, 2:]) & (bounds2[:, :2] < bounds1[:, 2:]), axis=1)
