"""CPU kernel that finds the scores above a threshold (numba)."""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from yolo_uncert.ops.backend import Ints
from yolo_uncert.ops.compiling import FLAGS, array, entry


@njit(**FLAGS)
def _best_above(scores: NDArray[np.float32], threshold: float) -> tuple[Ints, Ints]:
    classes, anchors = scores.shape
    best = np.full(anchors, -np.inf, np.float32)
    for c in range(classes):
        row = scores[c]
        for a in range(anchors):
            best[a] = max(best[a], row[a])
    anchor = np.flatnonzero(best > threshold)
    label = np.zeros(len(anchor), np.int64)
    for k in range(len(anchor)):
        while scores[label[k], anchor[k]] != best[anchor[k]]:
            label[k] += 1
    return label, anchor


@njit(**FLAGS)
def _all_above(scores: NDArray[np.float32], threshold: float) -> tuple[Ints, Ints]:
    classes, anchors = scores.shape
    hits = np.zeros(anchors, np.int32)
    for c in range(classes):
        row = scores[c]
        for a in range(anchors):
            hits[a] += row[a] > threshold
    ends = np.cumsum(hits)
    place = ends - hits
    count = ends[-1] if anchors else 0
    label, anchor = np.empty(count, np.int64), np.empty(count, np.int64)
    for c in range(classes):
        row = scores[c]
        for a in range(anchors):
            if row[a] > threshold:
                label[place[a]], anchor[place[a]] = c, a
                place[a] += 1
    return label, anchor


@entry(array(types.float32, 2), types.float32, types.boolean)
def above(scores: NDArray[np.float32], threshold: float, every: bool) -> tuple[Ints, Ints]:
    """Class and anchor of the scores ``[C, A]`` above a threshold; see `yolo_uncert.ops.threshold.above_threshold`."""
    return _all_above(scores, threshold) if every else _best_above(scores, threshold)
