"""The operators for several images at once: images neither suppress each other's boxes nor vote for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from yolo_uncert.ops.backend import Ints, get_device_backend
from yolo_uncert.ops.candidates import Array, Kept, label, restore_index
from yolo_uncert.ops.options import Suppression
from yolo_uncert.ops.suppression import DEFAULT, check_guided, suppress
from yolo_uncert.ops.voting import var_vote


def batched_suppress(
    boxes: Sequence[Array],
    scores: Sequence[Array],
    classes: Sequence[Array] | None = None,
    variances: Sequence[Array] | None = None,
    options: Suppression = DEFAULT,
    *,
    ious: Sequence[Array] | None = None,
    backend: str = "auto",
) -> list[Kept[Array]]:
    """Apply `suppress` to each image of a batch; every argument is a sequence with one entry per image.

    Args:
        boxes: Per image ``Tensor[N, 4]`` in ``(x1, y1, x2, y2)`` or ``Tensor[N, 5]`` in ``(x, y, w, h, theta)`` format,
            pixels and radians; N may differ and be zero.
        scores: Per image ``Tensor[N]``, at least 0.
        classes: Per image ``Tensor[N]`` of integers.
        variances: Per image ``Tensor[N, 4]`` or ``Tensor[N, 5]``, squared pixels and radians.
        options: Method, thresholds and vote; ``max_det`` and ``max_nms`` count per image.
        ious: Per image ``Tensor[N]`` of predicted IoUs, for ``method="iou-guided"`` only.
        backend: ``auto``, ``numba``, ``torch`` or ``triton`` (all images at once on a GPU).

    Returns:
        The kept boxes of each image; ``index`` counts within the image.

    Raises:
        TypeError: If boxes are neither arrays nor tensors.
        ValueError: If the sequences differ in length, or as `suppress` does.
    """
    count = len(boxes)
    for name, values in {"scores": scores, "classes": classes, "variances": variances, "ious": ious}.items():
        if values is not None and len(values) != count:
            raise ValueError(f"{name} must have one entry for each of the {count} images; got {len(values)}")
    given = ([None] * count if values is None else values for values in (classes, variances, ious))
    rows = list(zip(boxes, scores, *given, strict=True))
    if count and (device := get_device_backend(backend)):
        check_guided(options, ious)
        return device.suppress_images(rows, options)
    return [suppress(b, s, c, v, options, ious=u, backend=backend) for b, s, c, v, u in rows]


def batched_soft_nms(
    boxes: Array, scores: Array, images: Array, classes: Array | None = None, **options: Any
) -> tuple[Array, Array]:
    """Apply `soft_nms` to each image of a batch whose candidates lie in one array.

    Args:
        boxes: ``Tensor[N, 4]`` in ``(x1, y1, x2, y2)`` or ``Tensor[N, 5]`` in ``(x, y, w, h, theta)`` format, pixels
            and radians, of all images.
        scores: ``Tensor[N]``, at least 0.
        images: ``Tensor[N]`` of integers, which image a candidate belongs to, in any order.
        classes: ``Tensor[N]`` of integers; None stands for one class.
        options: As of `soft_nms`; ``max_det`` and ``max_nms`` count per image.

    Returns:
        Index ``Tensor[K]`` (int64) into the inputs and decayed scores ``Tensor[K]``: image by image in the order of
        their numbers, by falling score within each.

    Raises:
        TypeError: If the boxes are neither an array nor a tensor, or an option is unknown.
        ValueError: If shapes do not fit or an option is out of range.
    """
    backend = options.pop("backend", "auto")
    settings = Suppression(**options)
    members = [restore_index(index, boxes) for index in _members(images, len(boxes))]
    labels = None if classes is None else [classes[where] for where in members]
    found = batched_suppress(
        [boxes[where] for where in members],
        [scores[where] for where in members],
        labels,
        None,
        settings,
        backend=backend,
    )
    indices = [where[kept.index] for where, kept in zip(members, found, strict=True)]
    decayed = [kept.scores for kept in found]
    return _join(indices, restore_index(np.empty(0, np.int64), boxes)), _join(decayed, scores[:0])


def batched_var_vote(
    boxes: Array,
    scores: Array,
    kept: Array,
    images: Array,
    classes: Array | None = None,
    variances: Array | None = None,
    **options: Any,
) -> tuple[Array, Array | None]:
    """Apply `var_vote` to each image of a batch whose candidates lie in one array.

    Args:
        boxes: ``Tensor[N, 4]`` in ``(x1, y1, x2, y2)`` or ``Tensor[N, 5]`` in ``(x, y, w, h, theta)`` format, pixels
            and radians, of all images.
        scores: ``Tensor[N]``, at least 0.
        kept: ``Tensor[K]``, indices of the kept boxes of all images.
        images: ``Tensor[N]`` of integers, which image a candidate belongs to, in any order.
        classes: ``Tensor[N]`` of integers; None stands for one class.
        variances: ``Tensor[N, 4]`` or ``Tensor[N, 5]`` as of `var_vote`.
        options: As of `var_vote`.

    Returns:
        Voted boxes and their merged variances as of `var_vote`, in the order of ``kept``.

    Raises:
        TypeError: If the boxes are neither an array nor a tensor, or an option is unknown.
        ValueError: As `var_vote`.
    """
    agnostic = options.pop("agnostic", False)
    image = label("images", images, len(boxes))
    groups = image
    if classes is not None and not agnostic:
        own = label("classes", classes, len(boxes))
        groups = image * (own.max(initial=0) + 1) + own
    return var_vote(boxes, scores, kept, restore_index(groups, boxes), variances, **options)


def _members(images: Any, count: int) -> list[Ints]:
    """Indices of the candidates of each image, in the order of the images' numbers."""
    numbers = label("images", images, count)
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if count else []


def _join(parts: list[Any], empty: Array) -> Array:
    """Concatenate results of images, of which there may be none."""
    if isinstance(empty, torch.Tensor):
        return torch.cat([empty, *parts])
    return np.concatenate([empty, *parts])
