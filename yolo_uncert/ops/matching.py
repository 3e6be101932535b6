"""Which detection found which object."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from yolo_uncert.ops.backend import get_backend
from yolo_uncert.ops.candidates import Array, restore_index


def greedy_match(iou: Array, threshold: float = 0.5, *, backend: str = "auto") -> Array:
    """Give each detection, in their order, the free object that it overlaps most.

    This is the matching of COCO and of most work on uncertainty: sort the detections by descending score before, and
    set the overlaps of different classes to 0.

    Args:
        iou: ``Tensor[T, N]`` overlaps of T objects with N detections.
        threshold: Least overlap; with 0 any overlap that is not 0.
        backend: ``auto``, ``numba`` or ``torch``; with ``triton`` this runs on the CPU as with ``auto``.

    Returns:
        ``Tensor[N]``, int64: the object of each detection, -1 without. Of equal overlaps the first object counts.

    Raises:
        ValueError: If the shape is not ``[T, N]``.
    """
    if iou.ndim != 2:
        raise ValueError(f"iou must be [T, N], objects by detections; got {list(iou.shape)}")
    values: Any = iou
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    values = np.require(values, np.float64, ["C", "A"])
    return restore_index(get_backend(backend).match(values, float(threshold)), iou)
