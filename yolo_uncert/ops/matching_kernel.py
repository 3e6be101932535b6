"""CPU kernel that matches detections with objects (numba)."""

from __future__ import annotations

import numpy as np
from numba import types

from yolo_uncert.ops.backend import Floats, Ints
from yolo_uncert.ops.compiling import array, entry


@entry(array(types.float64, 2), types.float64)
def match(iou: Floats, threshold: float) -> Ints:
    """Object of each detection, or -1, from overlaps ``[T, N]``; see `yolo_uncert.ops.matching.greedy_match`."""
    objects, detections = iou.shape
    matched = np.full(detections, -1, np.int64)
    free = np.ones(objects, np.bool_)
    for j in range(detections):
        best = 0.0
        for i in range(objects):
            if free[i] and iou[i, j] > best and iou[i, j] >= threshold:
                best = iou[i, j]
                matched[j] = i
        if matched[j] >= 0:
            free[matched[j]] = False
    return matched
