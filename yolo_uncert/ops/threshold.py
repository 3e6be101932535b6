"""From the class scores of a detector's head to candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from yolo_uncert.ops.backend import get_backend
from yolo_uncert.ops.candidates import Array, restore_index


def above_threshold(
    scores: Array, threshold: float, *, multi_label: bool = False, backend: str = "auto"
) -> tuple[Array, Array]:
    """Find the scores of one image that lie above a threshold.

    The scores are compared in float32. NaN is never above. On a CPU this takes one or two passes over the scores, which
    is most of what post-processing costs where detections are few.

    Args:
        scores: ``Tensor[C, A]`` of C classes at A anchors, as a head of Ultralytics lays them out; copied unless it is
            contiguous and in float32.
        threshold: Scores must be larger.
        multi_label: Every class of an anchor counts, else the best one (of equal ones the first).
        backend: ``auto``, ``numba`` or ``torch``; with ``triton`` this runs on the CPU as with ``auto``.

    Returns:
        Classes ``Tensor[N]`` and anchors ``Tensor[N]``, int64, by rising anchor and then class: ``scores[classes,
        anchors]`` are the scores of the candidates.

    Raises:
        ValueError: If the shape is not ``[C, A]`` with at least one class.
    """
    if scores.ndim != 2 or not len(scores):
        raise ValueError(f"scores must be [C, A] with at least one class; got {list(scores.shape)}")
    values: Any = scores
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    values = np.require(values, np.float32, ["C", "A"])
    label, anchor = get_backend(backend).above(values, float(threshold), multi_label)
    return restore_index(label, scores), restore_index(anchor, scores)
