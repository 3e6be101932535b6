"""Operators on boxes: overlap, suppression and voting; a library of its own that imports no Ultralytics.

Arrays of numpy go in and come out, or tensors of torch, on their device. Horizontal boxes are ``[N, 4]`` in
``(x1, y1, x2, y2)`` format, oriented ones ``[N, 5]`` in ``(x, y, w, h, theta)`` format with the angle in radians;
variances are those of the sides l, t, r, b in squared pixels, and of the angle in squared radians. They may come from
any detector:

    >>> import numpy as np
    >>> from yolo_uncert.ops import Suppression, suppress
    >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [40.0, 0.0, 50.0, 10.0]])
    >>> variances = np.array([[1.0] * 4, [4.0] * 4, [1.0] * 4])
    >>> kept = suppress(boxes, np.array([0.9, 0.8, 0.7]), None, variances, Suppression("hard", vote="var"))
    >>> kept.index
    array([0, 2])
"""

from yolo_uncert.ops.backend import warm_up
from yolo_uncert.ops.batched import batched_soft_nms, batched_suppress, batched_var_vote
from yolo_uncert.ops.candidates import Kept
from yolo_uncert.ops.matching import greedy_match
from yolo_uncert.ops.options import Suppression
from yolo_uncert.ops.rotated_iou import pairwise_rotated_iou, rotated_iou
from yolo_uncert.ops.suppression import soft_nms, suppress
from yolo_uncert.ops.threshold import above_threshold
from yolo_uncert.ops.voting import var_vote

__all__ = [
    "Kept",
    "Suppression",
    "above_threshold",
    "batched_soft_nms",
    "batched_suppress",
    "batched_var_vote",
    "greedy_match",
    "pairwise_rotated_iou",
    "rotated_iou",
    "soft_nms",
    "suppress",
    "var_vote",
    "warm_up",
]
