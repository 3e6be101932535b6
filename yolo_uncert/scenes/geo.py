"""From pixels to the ground: coordinates of a scene's reference system, longitude and latitude, metres."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from yolo_uncert.scenes.raster import Georeference

Floats = npt.NDArray[np.float64]

SEMI_MAJOR, FLATTENING = 6378137.0, 1 / 298.257223563
"""The ellipsoid of WGS 84: metres, and without unit."""

ELLIPSOID = re.compile(r'(?:SPHEROID|ELLIPSOID)\["[^"]*",\s*([\d.eE+]+),\s*([\d.eE+]+)')
"""Where the text of a reference system tells its semi-major axis and the inverse of its flattening, 0 for a sphere."""

WGS84 = "EPSG:4326"


def to_map(points: npt.NDArray[Any], geo: Georeference) -> Floats:
    """Return points in the reference system of a scene.

    Args:
        points: ``Array[..., 2]`` of ``(x, y)`` in pixels; (0, 0) is the corner of the first pixel.
        geo: Where the scene lies.

    Returns:
        ``Array[..., 2]`` in units of the reference system, easting (longitude) first.
    """
    a, b, c, d, e, f = geo.transform
    return np.asarray(points, np.float64) @ np.array([[a, d], [b, e]]) + np.array([c, f])


def to_lonlat(points: npt.NDArray[Any], crs: str) -> Floats:
    """Return points of a reference system as longitude and latitude in degrees, WGS 84.

    Args:
        points: ``Array[..., 2]``, easting (longitude) first.
        crs: Reference system that rasterio reads.

    Returns:
        ``Array[..., 2]``; NaN where there is no such place: off the disc of a full view, or on another planet.

    Raises:
        ImportError: rasterio is not installed.
    """
    flat = np.asarray(points, np.float64).reshape(-1, 2)
    return _lonlat(flat, crs).reshape(np.shape(points))


def _lonlat(points: Floats, crs: str) -> Floats:
    """Transform what can be: GDAL refuses all points where one of them has no place."""
    from rasterio.warp import transform

    if not len(points):
        return points
    try:
        found = np.column_stack(transform(crs, WGS84, *points.T))
        return np.where(np.isfinite(found), found, np.nan)
    except Exception:
        # GDAL's errors have no public base class. With no way at all between the systems halving would not help.
        if len(points) == 1 or not _related(crs):
            return np.full_like(points, np.nan)
    half = len(points) // 2
    return np.concatenate((_lonlat(points[:half], crs), _lonlat(points[half:], crs)))


@cache
def _related(crs: str) -> bool:
    """Return whether there is a way from a reference system to WGS 84: from there any place has a way back."""
    from rasterio.warp import transform

    try:
        transform(WGS84, crs, [0.0], [0.0])
    except Exception as error:
        return "operation" not in str(error)
    return True


def metres_per_pixel(points: npt.NDArray[Any], geo: Georeference) -> Floats:
    """Return the matrices that take a small step in pixels to one on the ground in metres.

    In a projected system the unit of its axes counts: the scale error of the projection, of a few parts in ten thousand
    in a UTM zone, is left in (it grows with the latitude in Web Mercator: twice too long at 60 degrees). In a
    geographic system a degree is as long as its ellipsoid makes it at that latitude.

    Args:
        points: ``Array[N, 2]`` of ``(x, y)`` in pixels.
        geo: Where the scene lies.

    Returns:
        ``Array[N, 2, 2]``; its product with a step ``(dx, dy)`` is metres along the axes of the reference system.
    """
    from rasterio.crs import CRS

    crs = CRS.from_user_input(geo.crs)
    a, b, _, d, e, _ = geo.transform
    linear = np.array([[a, b], [d, e]])
    if not crs.is_geographic:
        factor = crs.linear_units_factor[1] if crs.is_projected else 1.0
        return np.broadcast_to(linear * factor, (len(points), 2, 2)).copy()
    unit = crs.units_factor[1]  # radians; not all systems count in degrees
    latitude = to_map(points, geo)[:, 1] * unit
    return metres_per_degree(latitude, *_ellipsoid(crs.wkt))[:, :, None] * linear * math.degrees(unit)


def _ellipsoid(wkt: str) -> tuple[float, float]:
    """Return semi-major axis in metres and flattening of a reference system, those of WGS 84 where it tells none."""
    if (found := ELLIPSOID.search(wkt)) is None:
        return SEMI_MAJOR, FLATTENING
    axis, inverse = map(float, found.groups())
    return axis, 1 / inverse if inverse else 0.0


def metres_per_degree(latitude: Floats, axis: float = SEMI_MAJOR, flattening: float = FLATTENING) -> Floats:
    """Return the length of a degree of longitude and of latitude on an ellipsoid.

    With ``e2 = f (2 - f)`` and ``q = 1 - e2 sin(lat)^2`` the radii of curvature are ``a / sqrt(q)`` across the meridian
    and ``a (1 - e2) / q^1.5`` along it.

    Args:
        latitude: ``Array[N]`` in radians.
        axis: Semi-major axis in metres, ``a``.
        flattening: ``f``.

    Returns:
        ``Array[N, 2]`` in metres, longitude first.
    """
    square = flattening * (2 - flattening)
    q = 1 - square * np.sin(latitude) ** 2
    across, along = axis / np.sqrt(q) * np.cos(latitude), axis * (1 - square) / q**1.5
    return np.stack((across, along), -1) * math.pi / 180


def lengths(matrices: Floats, angle: Floats) -> Floats:
    """Return metres per pixel in two directions of a scene, one at an angle and the one a quarter turn further.

    Args:
        matrices: ``Array[N, 2, 2]`` of `metres_per_pixel`.
        angle: ``Array[N]`` in radians, from the x axis of the image towards its y axis.

    Returns:
        ``Array[N, 2]`` in metres.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    steps = np.stack((np.stack((cos, sin), -1), np.stack((-sin, cos), -1)), -1)
    return np.linalg.norm(matrices @ steps, axis=1)
