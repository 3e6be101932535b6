"""Several looks at the same images: passes of a detector that differ, matched with its plain one, and their spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from ultralytics.utils.metrics import box_iou

from yolo_uncert import YOLO
from yolo_uncert.functional.boxes import align_representation
from yolo_uncert.ops import greedy_match
from yolo_uncert.ops.rotated_iou import pairwise_rotated_iou

Array = npt.NDArray[Any]

SCALES, STRIDE = (1.0, 0.83, 1.17), 32
"""Sizes of the images of test-time augmentation, each as it is and mirrored; rounded to strides."""

PASSES, RATES = 10, (0.1, 0.2, 0.4, 0.6)
"""Passes of MC-dropout, and the rates that are tried."""

MATCH_IOU = 0.5
"""Least overlap of the box of another pass with that of the plain one."""


def validate(facade: YOLO, **options: Any) -> Any:
    """Return the metrics of a validation, with all detections and those that found an object; nothing is kept."""
    with TemporaryDirectory() as folder:
        return facade.val(**{"plots": False, "verbose": False, "save_dir": folder, **options})


@contextmanager
def flipped(model: nn.Module, *, oriented: bool = False) -> Iterator[None]:
    """Show a detector the mirrored images, and mirror its boxes back, within the context.

    Args:
        model: Detector whose first output is Tensor[B, C, A]: first the boxes as xywh, last the angle of oriented ones.
        oriented: Whether the boxes are.
    """

    def mirror(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].flip(-1), *args[1:])

    def back(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        y = (output[0] if isinstance(output, (tuple, list)) else output).clone()
        y[:, 0] = args[0].shape[-1] - y[:, 0]
        if oriented:
            y[:, -1] = -y[:, -1]
        return (y, *output[1:]) if isinstance(output, (tuple, list)) else y

    handles = model.register_forward_pre_hook(mirror), model.register_forward_hook(back)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def dropout(model: nn.Module, p: float) -> Iterator[None]:
    """Drop inputs of the last convolution of a detector's box branch, in evaluation too, within the context.

    Of oriented boxes also of the angle branch. The scores do not change. The model was trained without dropout, as that
    of a user who adds it afterwards.

    Args:
        model: Detector whose last module has the box branches in ``cv2``, one for each level, and those of the angle in
            ``cv4``.
        p: Share of the inputs that is dropped, in [0, 1).
    """

    def drop(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (functional.dropout(args[0], p), *args[1:])

    head = model.model[-1]
    handles = [branch[-1].register_forward_pre_hook(drop) for branch in (*head.cv2, *getattr(head, "cv4", ()))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def joined(model: nn.Module, others: Sequence[nn.Module]) -> Iterator[None]:
    """Let a detector offer the candidates of others besides its own, within the context.

    Args:
        model: Detector in evaluation, whose first output is Tensor[B, C, A].
        others: Detectors of the same kind.
    """

    def join(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        found = [y[0] if isinstance(y, (tuple, list)) else y for y in (output, *(m.eval()(*args) for m in others))]
        together = torch.cat(found, -1)
        return (together, *output[1:]) if isinstance(output, (tuple, list)) else together

    handle = model.register_forward_hook(join)
    try:
        yield
    finally:
        handle.remove()


def pair(boxes: Array, cls: Array, others: Array, others_cls: Array) -> Array:
    """Return the box that another pass has of each detection, NaN where it has none.

    The detections of the other pass, by descending score, each take the free detection of their class that they
    overlap most, at MATCH_IOU at least.

    Args:
        boxes: Array[N, 4] xyxy, or Array[N, 5] xywhr.
        cls: Array[N].
        others: Array[M, 4 or 5] in the same pixels, by descending score.
        others_cls: Array[M].

    Returns:
        Array[N, 4 or 5]; an oriented box in the form whose angle is nearest to that of the detection.
    """
    overlap = pairwise_rotated_iou if boxes.shape[1] == 5 else box_iou
    iou = overlap(torch.from_numpy(boxes), torch.from_numpy(others)).numpy() * (cls[:, None] == others_cls)
    found = greedy_match(iou, MATCH_IOU)
    paired = np.full(boxes.shape, np.nan)
    rows, theirs = found[found >= 0], torch.from_numpy(others[found >= 0])
    paired[rows] = align_representation(theirs, torch.from_numpy(boxes[rows, 4])) if boxes.shape[1] == 5 else theirs
    return paired


def paired_boxes(base: Any, other: Any) -> Array:
    """Return what another pass found of every detection of the plain one, over all images, see ``pair``.

    Args:
        base: Metrics of the plain pass.
        other: Metrics of another pass over the same images.

    Returns:
        Array[N, 4 or 5] in pixels of the original images.
    """
    rows_of = {file: other.scored.image == image for image, file in enumerate(other.matches.files)}
    paired = np.full(base.scored.boxes.shape, np.nan)
    for image, file in enumerate(base.matches.files):
        rows, others = base.scored.image == image, rows_of[file]
        paired[rows] = pair(
            base.scored.boxes[rows], base.scored.cls[rows], other.scored.boxes[others], other.scored.cls[others]
        )
    return paired


def spread(passes: Sequence[Array] | Array) -> Array:
    """Return the sample standard deviation over the passes; NaN where fewer than two of them have the box.

    Args:
        passes: Array[K, N, C], NaN where a pass did not find the box.

    Returns:
        Array[N, C].
    """
    passes = np.asarray(passes)
    sigma = np.full(passes.shape[1:], np.nan)
    rows = np.isfinite(passes).all(2).sum(0) >= 2
    sigma[rows] = np.nanstd(passes[:, rows], axis=0, ddof=1)
    return sigma


def mean_box(passes: Sequence[Array] | Array, boxes: Array) -> Array:
    """Return the mean box over the passes that found it; the given one where none did.

    Args:
        passes: Array[K, N, C], NaN where a pass did not find the box.
        boxes: Array[N, C].
    """
    passes = np.asarray(passes)
    rows = np.isfinite(passes).all(2).any(0)
    mean = boxes.copy()
    mean[rows] = np.nanmean(passes[:, rows], axis=0)
    return mean
