"""Exact overlap of quadrilaterals.

The area under the edges of a polygon, counted with the sign of their direction in x, is the polygon's area: its
indicator is a signed sum of "below edge e, between its ends". The product of two such sums is the indicator of the
intersection, so that

    area = sum over edges e of the first, f of the second: sign(e) sign(f) * integral of min(y_e(x), y_f(x)) dx,

the integral taken over the x that both edges span. The minimum of two straight lines is integrated in closed form and
depends continuously on the corners; therefore shared edges, identical polygons and touching corners are no special
cases. Nothing needs the polygons to be convex or to turn in one direction.

Shape shorthand: K pairs, 4 corners or edges per polygon.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_PAIRS_PER_CHUNK = 1 << 12
"""Pairs intersected at once: about 2 KiB of temporaries each, which keeps a chunk in the cache of a CPU."""
_NOISE = 1e-12
"""Smaller overlaps are the rounding of polygons that do not meet."""


def corners(xywhr: NDArray[Any]) -> Floats:
    """Corners of oriented boxes.

    Args:
        xywhr: ``Array[N, 5]`` in ``(x, y, w, h, theta)`` format, any unit, angle in radians.

    Returns:
        ``Array[N, 4, 2]`` of ``(x, y)`` in the same unit, float64, in order along the boundary.
    """
    x, y, width, height, angle = np.asarray(xywhr, dtype=np.float64).reshape(-1, 5).T[:, :, None]
    across, along = width * np.array((0.5, -0.5, -0.5, 0.5)), height * np.array((0.5, 0.5, -0.5, -0.5))
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack((x + across * cos - along * sin, y + across * sin + along * cos), axis=-1)


def polygon_iou(polygons1: NDArray[Any], polygons2: NDArray[Any]) -> Floats:
    """Intersection over union of simple quadrilaterals, element by element.

    Args:
        polygons1: ``Array[K, 4, 2]`` of ``(x, y)``, finite, one unit (pixels), corners in order along the boundary, in
            either direction. A polygon of area zero overlaps nothing.
        polygons2: ``Array[K, 4, 2]``, same unit.

    Returns:
        ``Array[K]`` in ``[0, 1]``, float64.

    Raises:
        ValueError: If the shapes differ or are not ``[K, 4, 2]``.
    """
    if polygons1.ndim != 3 or polygons1.shape[1:] != (4, 2) or polygons1.shape != polygons2.shape:
        raise ValueError(f"polygons must both be [K, 4, 2]; got {list(polygons1.shape)} and {list(polygons2.shape)}")
    iou = np.empty(len(polygons1))
    for start in range(0, len(iou), _PAIRS_PER_CHUNK):
        chunk = slice(start, start + _PAIRS_PER_CHUNK)
        # The middle of the first polygon is the origin: far from it the products would lose digits.
        origin = polygons1[chunk].mean(axis=1, keepdims=True, dtype=np.float64)
        iou[chunk] = _iou(polygons1[chunk] - origin, polygons2[chunk] - origin)
    return iou


def _iou(polygons1: Floats, polygons2: Floats) -> Floats:
    area1, area2 = _signed_area(polygons1), _signed_area(polygons2)
    intersection = _signed_intersection(polygons1, polygons2) * np.sign(area1) * np.sign(area2)
    union = np.abs(area1) + np.abs(area2) - intersection
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=(area1 != 0) & (area2 != 0))
    return np.where(iou > _NOISE, np.minimum(iou, 1.0), 0.0)


def _signed_area(polygons: Floats) -> Floats:
    x, y = polygons[..., 0], polygons[..., 1]
    return np.asarray((np.roll(x, -1, axis=1) - x) * (np.roll(y, -1, axis=1) + y)).sum(axis=1) / 2


def _signed_intersection(polygons1: Floats, polygons2: Floats) -> Floats:
    """``Array[K]``: the sum of the module's docstring, with the sign of both directions of travel."""
    first, second = _edges(polygons1)[..., :, None], _edges(polygons2)[..., None, :]
    start, stop = np.maximum(first[0], second[0]), np.minimum(first[1], second[1])
    span = np.maximum(stop - start, 0.0)
    begin, end = _height(second, start), _height(second, stop)
    gap_begin, gap_end = _height(first, start) - begin, _height(first, stop) - end
    # min(u, v) = v + min(u - v, 0), and the part of a straight line below zero is a triangle or a trapezoid.
    below = np.minimum(gap_begin, 0.0) + np.minimum(gap_end, 0.0)
    spread = np.abs(gap_begin) + np.abs(gap_end)
    lowered = below * np.divide(below, spread, out=np.zeros_like(below), where=spread > 0)
    signed = first[4] * second[4] * span * (begin + end - lowered)
    return np.asarray(signed.sum(axis=(1, 2)) / 2)


def _edges(polygons: Floats) -> Floats:
    """``Array[5, K, 4]``: left and right x, y there, and the sign of the edge's direction."""
    ends = np.roll(polygons, -1, axis=1)
    forward = ends[..., :1] >= polygons[..., :1]
    left, right = np.where(forward, polygons, ends), np.where(forward, ends, polygons)
    sign = np.where(forward[..., 0], 1.0, -1.0)
    return np.stack((left[..., 0], right[..., 0], left[..., 1], right[..., 1], sign))


def _height(edges: Floats, x: Floats) -> Floats:
    left, right, low, high, _ = edges
    # A vertical edge spans no x, so that any height serves; beyond its ends an edge counts for nothing either.
    width = np.where(right > left, right - left, 1.0)
    return np.asarray(low + (high - low) * np.clip((x - left) / width, 0.0, 1.0))
