"""Exact overlap of oriented boxes.

The boundary of the first box is followed in the frame of the second, where that is the axis-parallel rectangle
``|x| <= a, |y| <= b``. Clamping every point of the path to the rectangle gives a closed curve, and the area it encloses
is the intersection (Green's theorem on the field ``(clamp(x, -a, a), 0)`` inside the strip ``|y| <= b``):

    area = integral of clamp(x) d clamp(y) along the four edges.

Both clamps are piecewise linear along an edge, so four points per edge give the exact integral. No vertex is classified
as inside or outside and none is sorted; therefore shared edges, identical boxes and touching corners are no special
cases, and rounding of the inputs moves the area only by rounding.

Shape shorthand: K pairs, 4 edges per box.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolo_uncert.functional.dtypes import at_least_float32
from yolo_uncert.ops.candidates import Array

_PAIRS_PER_CHUNK = 1 << 12
"""Pairs clipped at once: about 1 KiB of temporaries each, which keeps a chunk in the cache of a CPU."""
_TESTS_PER_CHUNK = 1 << 20
"""Pairs of the pairwise form that are tested for distance at once: about 32 bytes of temporaries each."""


def rotated_iou(boxes1: Array, boxes2: Array) -> Array:
    """Intersection over union of oriented boxes, element by element.

    No gradient flows through it; a loss takes a Gaussian distance or probIoU instead.

    Args:
        boxes1: ``Tensor[N, 5]`` or array in ``(x, y, w, h, theta)`` format, finite, one unit (pixels), angle in
            radians. A box with a side of zero or less overlaps nothing.
        boxes2: ``Tensor[N, 5]``, same format and unit.

    Returns:
        ``Tensor[N]`` in ``[0, 1]``, computed in float64, of the inputs' common float type and at least float32.

    Raises:
        ValueError: If the shapes differ or are not ``[N, 5]``.
    """
    if boxes1.ndim != 2 or boxes1.shape[1] != 5 or boxes1.shape != boxes2.shape:
        raise ValueError(f"boxes must both be [N, 5]; got {list(boxes1.shape)} and {list(boxes2.shape)}")
    if isinstance(boxes1, np.ndarray):
        return _elementwise(_tensor(boxes1), _tensor(boxes2)).numpy()
    return _elementwise(boxes1, boxes2)


def pairwise_rotated_iou(boxes1: Array, boxes2: Array) -> Array:
    """Intersection over union of every oriented box of one set with every one of another.

    Only pairs whose circumscribed circles meet are clipped, in chunks of bounded memory. No gradient flows through it.

    Args:
        boxes1: ``Tensor[N, 5]`` or array in ``(x, y, w, h, theta)`` format, finite, one unit (pixels), angle in
            radians. A box with a side of zero or less overlaps nothing.
        boxes2: ``Tensor[M, 5]``, same format and unit.

    Returns:
        ``Tensor[N, M]`` in ``[0, 1]``, computed in float64, of the inputs' common float type and at least float32.

    Raises:
        ValueError: If a shape is not ``[N, 5]``.
    """
    for boxes in (boxes1, boxes2):
        if boxes.ndim != 2 or boxes.shape[1] != 5:
            raise ValueError(f"boxes must be [N, 5]; got {list(boxes.shape)}")
    if isinstance(boxes1, np.ndarray):
        return _pairwise(_tensor(boxes1), _tensor(boxes2)).numpy()
    return _pairwise(boxes1, boxes2)


def _tensor(boxes: Any) -> Tensor:
    # A copy: torch takes neither read-only arrays nor negative strides.
    return torch.from_numpy(np.array(boxes))


@torch.no_grad()
def _elementwise(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    iou = boxes1.new_empty(len(boxes1), dtype=at_least_float32(boxes1, boxes2))
    for start in range(0, len(boxes1), _PAIRS_PER_CHUNK):
        chunk = slice(start, start + _PAIRS_PER_CHUNK)
        iou[chunk] = _iou(_widen(boxes1[chunk]), _widen(boxes2[chunk]))
    return iou


@torch.no_grad()
def _pairwise(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    iou = boxes1.new_zeros((len(boxes1), len(boxes2)), dtype=at_least_float32(boxes1, boxes2))
    rows_per_chunk = max(1, _TESTS_PER_CHUNK // max(1, len(boxes2)))
    for start in range(0, len(boxes1), rows_per_chunk):
        rows, columns = _circles_meet(boxes1[start : start + rows_per_chunk], boxes2).nonzero(as_tuple=True)
        rows = rows + start
        iou[rows, columns] = _elementwise(boxes1[rows], boxes2[columns]).to(iou.dtype)
    return iou


def _widen(boxes: Tensor) -> Tensor:
    # Apple's MPS device has no float64; float32 costs about five digits there.
    return boxes.to(torch.float32 if boxes.device.type == "mps" else torch.float64)


def _circles_meet(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """``Tensor[N, M]``: whether the circumscribed circles of two boxes meet."""
    boxes1, boxes2 = _widen(boxes1), _widen(boxes2)
    radius1, radius2 = (torch.hypot(boxes[:, 2], boxes[:, 3]) / 2 for boxes in (boxes1, boxes2))
    apart = torch.hypot(boxes1[:, None, 0] - boxes2[:, 0], boxes1[:, None, 1] - boxes2[:, 1])
    return apart <= radius1[:, None] + radius2


def _iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of ``Tensor[K, 5]`` pairs in the precision of the inputs."""
    intersection = _intersection(boxes1, boxes2)
    size1, size2 = boxes1[:, 2:4], boxes2[:, 2:4]
    union = size1.prod(dim=1) + size2.prod(dim=1) - intersection
    iou = (intersection / union).clamp(0, 1)
    # Boxes that do not overlap leave the rounding of a sum of at most 16 terms, each no larger than the second box.
    noise = 64 * torch.finfo(iou.dtype).eps
    valid = (size1 > 0).all(dim=1) & (size2 > 0).all(dim=1)
    return torch.where(valid & (iou > noise), iou, 0.0)


def _intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Area of the intersection of ``Tensor[K, 5]`` pairs, by the integral of the module's docstring."""
    start_x, start_y = _corners_in_frame(boxes1, boxes2)
    end_x, end_y = start_x.roll(-1, dims=1), start_y.roll(-1, dims=1)
    half_w, half_h = (boxes2[:, 2:4] / 2).split(1, dim=1)
    enter_y, leave_y = _crossings(start_y, end_y, half_h)
    bends_x = (bend.clamp(enter_y, leave_y) for bend in _crossings(start_x, end_x, half_w))
    # Along an edge: into the strip |y| <= b, the two bends of clamp(x), out of the strip.
    t = torch.stack((enter_y, *bends_x, leave_y))
    # lerp is exact at both ends, so that the path closes without a gap.
    x = torch.lerp(start_x, end_x, t).clamp(-half_w, half_w)
    y = torch.lerp(start_y, end_y, t).clamp(-half_h, half_h)
    return ((x[1:] + x[:-1]) * (y[1:] - y[:-1])).sum(dim=(0, 2)) / 2


def _corners_in_frame(boxes: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Corners of boxes as ``Tensor[K, 4]`` x and y in the frames of other boxes, with increasing polar angle."""
    shift_x, shift_y = (boxes[:, :2] - frames[:, :2]).split(1, dim=1)
    cos, sin = frames[:, 4:].cos(), frames[:, 4:].sin()
    turn = boxes[:, 4:] - frames[:, 4:]
    x = boxes[:, 2:3] * boxes.new_tensor((0.5, -0.5, -0.5, 0.5))
    y = boxes[:, 3:4] * boxes.new_tensor((0.5, 0.5, -0.5, -0.5))
    corner_x = shift_x * cos + shift_y * sin + x * turn.cos() - y * turn.sin()
    corner_y = shift_y * cos - shift_x * sin + x * turn.sin() + y * turn.cos()
    return corner_x, corner_y


def _crossings(start: Tensor, end: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Parameters in [0, 1], in order, at which a coordinate that runs from start to end passes -half and +half."""
    step = end - start
    # A coordinate that stays constant has no bends: any finite parameter serves.
    step = torch.where(step == 0, 1.0, step)
    low, high = ((-half - start) / step).clamp(0, 1), ((half - start) / step).clamp(0, 1)
    return torch.minimum(low, high), torch.maximum(low, high)
