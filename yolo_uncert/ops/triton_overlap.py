"""Triton functions for the overlap of a pick with the candidates of a chunk.

Shape shorthand: C candidates in a chunk. ``geometry`` is that of `triton_kernels.suppress`.
"""

from __future__ import annotations

import triton
import triton.language as tl

_NOISE = tl.constexpr(64 * 2.0**-52)
"""What rounding leaves as the overlap of oriented boxes that are apart, see `rotated_iou`."""


@triton.jit
def overlap(
    geometry: tl.tensor,
    stride: tl.tensor,
    cols: tl.tensor,
    inside: tl.tensor,
    pick: tl.tensor,
    oriented: tl.constexpr,
    single: tl.constexpr,
) -> tl.tensor:
    """IoU ``[C]`` of the pick with the candidates in the columns ``cols``, zero where it is no positive number."""
    if oriented:
        iou = _oriented(geometry, stride, cols, inside, pick)
    elif single:
        iou = _horizontal(geometry, stride, cols, inside, pick, tl.float32)
    else:
        iou = _horizontal(geometry, stride, cols, inside, pick, tl.float64)
    return iou


@triton.jit
def _horizontal(
    geometry: tl.tensor, stride: tl.tensor, cols: tl.tensor, inside: tl.tensor, pick: tl.tensor, real: tl.constexpr
) -> tl.tensor:
    # The order of operations of torchvision.ops.nms, in the precision of the boxes, for equality to the last bit.
    x1, left = _pair(geometry, cols, inside, pick, real)
    y1, top = _pair(geometry + stride, cols, inside, pick, real)
    x2, right = _pair(geometry + 2 * stride, cols, inside, pick, real)
    y2, bottom = _pair(geometry + 3 * stride, cols, inside, pick, real)
    area, areas = _pair(geometry + 4 * stride, cols, inside, pick, real)
    w = tl.maximum(tl.minimum(x2, right) - tl.maximum(x1, left), 0.0)
    h = tl.maximum(tl.minimum(y2, bottom) - tl.maximum(y1, top), 0.0)
    both = w * h
    union = tl.where(both > 0, area + areas - both, 1.0)
    # Triton's `/` of float32 is an approximation.
    iou = tl.div_rn(both, union) if real == tl.float32 else both / union
    return tl.where(iou > 0, iou, 0.0).to(tl.float64)


@triton.jit
def _pair(row: tl.tensor, cols: tl.tensor, inside: tl.tensor, pick: tl.tensor, real: tl.constexpr) -> tl.tensor:
    """A quantity of the pick and of the candidates ``[C]``."""
    return tl.load(row + pick).to(real), tl.load(row + cols, mask=inside, other=0.0).to(real)


@triton.jit
def _oriented(geometry: tl.tensor, stride: tl.tensor, cols: tl.tensor, inside: tl.tensor, pick: tl.tensor) -> tl.tensor:
    """Exact IoU ``[C]`` where the circumscribed circles meet, by the boundary integral that `rotated_iou` explains."""
    frame_x, x = _pair(geometry, cols, inside, pick, tl.float64)
    frame_y, y = _pair(geometry + stride, cols, inside, pick, tl.float64)
    frame_w, half_w = _pair(geometry + 2 * stride, cols, inside, pick, tl.float64)
    frame_h, half_h = _pair(geometry + 3 * stride, cols, inside, pick, tl.float64)
    cos, other_cos = _pair(geometry + 4 * stride, cols, inside, pick, tl.float64)
    sin, other_sin = _pair(geometry + 5 * stride, cols, inside, pick, tl.float64)
    radius, radii = _pair(geometry + 6 * stride, cols, inside, pick, tl.float64)
    area, areas = _pair(geometry + 7 * stride, cols, inside, pick, tl.float64)
    x, y, reach = x - frame_x, y - frame_y, radii + radius
    meet = inside & (reach >= 0) & (x * x + y * y <= reach * reach)
    centre_x, centre_y = x * cos + y * sin, y * cos - x * sin
    turn_cos, turn_sin = other_cos * cos + other_sin * sin, other_sin * cos - other_cos * sin
    wx, wy, hx, hy = half_w * turn_cos, half_w * turn_sin, -half_h * turn_sin, half_h * turn_cos
    start_x, start_y = centre_x + wx - hx, centre_y + wy - hy
    both = tl.zeros_like(x)
    for edge in tl.static_range(4):
        # Corners with increasing polar angle: (+w, +h), (-w, +h), (-w, -h), (+w, -h).
        sign_w, sign_h = 1.0 if edge % 3 == 0 else -1.0, 1.0 if edge < 2 else -1.0
        end_x, end_y = centre_x + sign_w * wx + sign_h * hx, centre_y + sign_w * wy + sign_h * hy
        both += _edge(start_x, start_y, end_x, end_y, frame_w, frame_h)
        start_x, start_y = end_x, end_y
    iou = both / tl.where(meet, areas + area - both, 1.0)
    return tl.where(meet & (iou > _NOISE), tl.minimum(iou, 1.0), 0.0)


@triton.jit
def _edge(
    start_x: tl.tensor, start_y: tl.tensor, end_x: tl.tensor, end_y: tl.tensor, half_w: tl.tensor, half_h: tl.tensor
) -> tl.tensor:
    """Integral ``[C]`` of clamp(x) d clamp(y) along one edge."""
    enter, leave = _crossings(start_y, end_y, half_h)
    low, high = _crossings(start_x, end_x, half_w)
    low, high = tl.minimum(tl.maximum(low, enter), leave), tl.minimum(tl.maximum(high, enter), leave)
    x0, y0 = _clamp(_lerp(start_x, end_x, enter), half_w), _clamp(_lerp(start_y, end_y, enter), half_h)
    x1, y1 = _clamp(_lerp(start_x, end_x, low), half_w), _clamp(_lerp(start_y, end_y, low), half_h)
    x2, y2 = _clamp(_lerp(start_x, end_x, high), half_w), _clamp(_lerp(start_y, end_y, high), half_h)
    x3, y3 = _clamp(_lerp(start_x, end_x, leave), half_w), _clamp(_lerp(start_y, end_y, leave), half_h)
    return ((x1 + x0) * (y1 - y0) + (x2 + x1) * (y2 - y1) + (x3 + x2) * (y3 - y2)) / 2


@triton.jit
def _crossings(start: tl.tensor, end: tl.tensor, half: tl.tensor) -> tl.tensor:
    """Parameters in [0, 1], in order, at which a coordinate that runs from start to end passes -half and +half."""
    step = end - start
    step = tl.where(step == 0, 1.0, step)
    first = tl.minimum(tl.maximum((-half - start) / step, 0.0), 1.0)
    second = tl.minimum(tl.maximum((half - start) / step, 0.0), 1.0)
    return tl.minimum(first, second), tl.maximum(first, second)


@triton.jit
def _lerp(start: tl.tensor, end: tl.tensor, t: tl.tensor) -> tl.tensor:
    # Exact at both ends, so that the path closes without a gap.
    return tl.where(t < 0.5, start + t * (end - start), end - (1.0 - t) * (end - start))


@triton.jit
def _clamp(value: tl.tensor, half: tl.tensor) -> tl.tensor:
    return tl.minimum(tl.maximum(value, -half), half)
