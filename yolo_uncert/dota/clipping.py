"""What of an oriented object a window shows.

An object is the convex hull of its four corners: the quadrilateral itself unless it is concave or crosses itself, and
in all cases what Ultralytics' loader sees, which takes the smallest rectangle around the corners.

Shape shorthand: N objects, M of them in the window, P corners.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_uncert.evaluation import corners

Floats = NDArray[np.float64]
Window = tuple[float, float, float, float]


class Parts(NamedTuple):
    """The objects of which a window shows something.

    Attributes:
        rows: ``Array[M]``, which objects.
        share: ``Array[M]``, the part of the object's area that lies inside, in ``(0, 1]``.
        polygons: ``Array[M, 4, 2]`` in pixels of the window: the object's own corners where it lies inside as a whole,
            else the smallest rectangle around the part inside.
    """

    rows: NDArray[np.int64]
    share: Floats
    polygons: Floats


def visible_parts(polygons: NDArray[Any], window: Window) -> Parts:
    """Cut objects to a window.

    Args:
        polygons: ``Array[N, 4, 2]`` of ``(x, y)`` in pixels of the scene, corners in order along the boundary. Objects
            without area are left out.
        window: ``(x1, y1, x2, y2)`` in pixels of the scene, ``x2`` and ``y2`` its far border.
    """
    polygons = np.asarray(polygons, np.float64).reshape(-1, 4, 2)
    low, high = np.array(window[:2], np.float64), np.array(window[2:], np.float64)
    near = ((polygons.max(1) > low) & (polygons.min(1) < high)).all(1)
    whole = ((polygons.min(1) >= low) & (polygons.max(1) <= high)).all(1)
    found = [
        (row, *part)
        for row in np.flatnonzero(near).tolist()
        if (part := _part(polygons[row] - low, high - low, bool(whole[row]))) is not None
    ]
    rows, share, kept = zip(*found, strict=True) if found else ((), (), ())
    return Parts(np.array(rows, np.int64), np.array(share, np.float64), np.array(kept, np.float64).reshape(-1, 4, 2))


def clip(polygon: Floats, size: Floats) -> Floats:
    """Cut a convex polygon to the window from ``(0, 0)`` to ``size``, edge by edge (Sutherland and Hodgman, 1974).

    Args:
        polygon: ``Array[P, 2]`` of ``(x, y)``, corners in order along the boundary.
        size: ``Array[2]``, width and height of the window, same unit.

    Returns:
        ``Array[P, 2]``, corners of the part inside in the same order; empty if there is none.
    """
    for axis, limit, sign in ((0, 0.0, 1), (0, size[0], -1), (1, 0.0, 1), (1, size[1], -1)):
        depth = sign * (polygon[:, axis] - limit)
        ends, beyond = np.roll(polygon, -1, 0), np.roll(depth, -1)
        crosses = (depth < 0) != (beyond < 0)
        fraction = depth / np.where(crosses, depth - beyond, 1.0)
        cuts = polygon + fraction[:, None] * (ends - polygon)
        cuts[:, axis] = limit
        keep = np.stack((depth >= 0, crosses), 1).ravel()
        polygon = np.stack((polygon, cuts), 1).reshape(-1, 2)[keep]
    return polygon


def area(polygon: Floats) -> float:
    """Area of a polygon ``Array[P, 2]`` by the shoelace formula, not negative."""
    if not len(polygon):
        return 0.0
    x, y = (polygon - polygon[0]).T  # far from the origin the products would lose digits
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _part(polygon: Floats, size: Floats, whole: bool) -> tuple[float, Floats] | None:
    """Return share and corners of the part in the window, None where nothing of it has an area."""
    # Single precision decides which corners are on the hull; the corners stay what they are.
    hull = polygon[cv2.convexHull((polygon - polygon[0]).astype(np.float32), returnPoints=False)[:, 0]]
    full = area(hull)
    if not full:
        return None
    if whole:
        return 1.0, polygon
    inside = clip(hull, size)
    share = area(inside) / full
    return (min(share, 1.0), _rectangle(inside, size)) if share > 0 else None


def _rectangle(points: Floats, size: Floats) -> Floats:
    """Return the corners of the smallest rectangle around the points, of an upright one if that cannot be a label.

    Ultralytics leaves out an image of which one box is larger than it is, measured along the axes, and a rectangle that
    stands askew around a large part can be. (Its centre is never outside: it belongs to every convex shape that touches
    the four sides.)
    """
    (x, y), (width, height), degrees = cv2.minAreaRect(points.astype(np.float32))
    rectangle: Floats = corners(np.array([[x, y, width, height, np.radians(degrees)]]))[0]
    if (np.ptp(rectangle, axis=0) <= size).all():
        return rectangle
    (x1, y1), (x2, y2) = points.min(0), points.max(0)
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
