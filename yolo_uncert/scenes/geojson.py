"""Layers as GeoJSON: RFC 7946 in longitude and latitude, or the scene's own reference system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ultralytics.utils import LOGGER

from yolo_uncert.options import OptionError
from yolo_uncert.scenes.geo import to_lonlat, to_map
from yolo_uncert.scenes.layers import Layer
from yolo_uncert.scenes.raster import Georeference

Floats = npt.NDArray[np.float64]

PIXELS = "pixels: x to the right, y down, (0, 0) is the corner of the first pixel; the scene has no georeference"

DEGREE_DIGITS = 9
"""Digits behind the point of a degree: a tenth of a millimetre."""


def feature_collection(layer: Layer, geo: Georeference | None, crs: str) -> dict[str, Any]:
    """Return a FeatureCollection with one polygon per row; see `SceneResult.geojson`.

    Args:
        layer: Polygons in pixels.
        geo: Where the scene lies, if it says so.
        crs: ``wgs84`` or ``scene``.

    Raises:
        OptionError: ``crs`` is neither, or the scene's system has no EPSG code to name it by.
    """
    if crs not in ("wgs84", "scene"):
        raise OptionError(f"crs is {crs!r}. Allowed: wgs84, scene")
    head: dict[str, Any] = {"type": "FeatureCollection"}
    if geo is None:
        head["coordinates"] = PIXELS
    elif crs == "scene":
        head["crs"] = {"type": "name", "properties": {"name": _urn(geo.crs)}}
    names = list(layer.columns)
    features = [
        {"type": "Feature", "geometry": geometry, "properties": dict(zip(names, row, strict=True))}
        for geometry, row in zip(_geometries(layer, geo, crs), zip(*layer.columns.values(), strict=True), strict=True)
    ]
    return {**head, "features": features}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a FeatureCollection, a line for each feature."""
    features = content["features"]
    head = json.dumps({**content, "features": []}, ensure_ascii=False, allow_nan=False).removesuffix("]}")
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(head)
        for number, feature in enumerate(features):
            text = json.dumps(feature, ensure_ascii=False, allow_nan=False)
            file.write(("," if number else "") + "\n" + text)
        file.write("\n]}\n")


def rings_on_map(layer: Layer, geo: Georeference | None) -> list[list[Floats]]:
    """Return the closed rings of each polygon, the outer one first: ``Array[5, 2]`` in the scene's reference system.

    Where x points to the right and y up outer rings turn to the left and holes to the right, as RFC 7946 wants them.

    Args:
        layer: Polygons in pixels.
        geo: Where the scene lies; None leaves pixels.
    """
    drawn = [points for points in (layer.outer, layer.inner) if points is not None]
    placed = drawn if geo is None else [to_map(points, geo) for points in drawn]
    outer, holes = _closed(placed[0]), [_closed(points)[:, ::-1] for points in placed[1:]]
    return [[ring, *(hole[row] for hole in holes if not np.isnan(hole[row]).any())] for row, ring in enumerate(outer)]


def _closed(polygons: Floats) -> Floats:
    """Return closed rings ``Array[N, 5, 2]`` that turn to the left."""
    local = polygons - polygons[:, :1]  # far from the origin the products of coordinates would cancel
    step = np.roll(local, -1, axis=1)
    area = (local[..., 0] * step[..., 1] - step[..., 0] * local[..., 1]).sum(1)
    turned = np.where((area < 0)[:, None, None], polygons[:, ::-1], polygons)
    return np.concatenate((turned, turned[:, :1]), axis=1)


def _geometries(layer: Layer, geo: Georeference | None, crs: str) -> list[dict[str, Any] | None]:
    """Return the geometry of each row, to a thousandth of a pixel or a tenth of a millimetre; None without a place."""
    rows = rings_on_map(layer, geo)
    if geo is None:
        return [_polygon(rings, 3) for rings in rows]
    if crs == "scene":
        return [_polygon(rings, DEGREE_DIGITS if _degrees(geo.crs) else 4) for rings in rows]
    flat = np.array([ring for rings in rows for ring in rings]).reshape(-1, 5, 2)
    moved = iter(to_lonlat(flat, geo.crs))
    placed = [[next(moved) for _ in rings] for rings in rows]
    found = [_geographic(rings) if all(np.isfinite(ring).all() for ring in rings) else None for rings in placed]
    if lost := found.count(None):
        LOGGER.warning(f"{lost} of {len(found)} {layer.name} have no longitude and latitude: their geometry is null")
    return found


def _polygon(rings: list[Floats], digits: int) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [np.round(ring, digits).tolist() for ring in rings]}


def _geographic(rings: list[Floats]) -> dict[str, Any]:
    """Return a polygon in longitude and latitude, cut where it crosses the 180th meridian (RFC 7946, 3.1.9)."""
    longitudes = rings[0][:, 0]
    if np.abs(longitudes).max() <= 180 and np.ptp(longitudes) <= 180:
        return _polygon(rings, DEGREE_DIGITS)
    import antimeridian
    from shapely import Polygon, get_parts

    for ring in rings:  # a scene in degrees may count on beyond 180
        ring[:, 0] = np.where(np.abs(ring[:, 0]) > 180, (ring[:, 0] + 180) % 360 - 180, ring[:, 0])
    # The winding is known, and along a side of a box great circles and straight lines are the same.
    fixed = antimeridian.fix_polygon(Polygon(rings[0], rings[1:]), fix_winding=False, great_circle=False)
    parts = [
        _polygon([np.array(ring.coords) for ring in (part.exterior, *part.interiors)], DEGREE_DIGITS)
        for part in get_parts(fixed).tolist()
        if np.ptp(np.array(part.exterior.coords), axis=0).min() > 2 * 10**-DEGREE_DIGITS  # touches the meridian only
    ]
    if len(parts) == 1:
        return parts[0]
    return {"type": "MultiPolygon", "coordinates": [part["coordinates"] for part in parts]}


def _urn(crs: str) -> str:
    """Return the name of a reference system for a ``crs`` member."""
    from rasterio.crs import CRS

    code = CRS.from_user_input(crs).to_epsg()
    if code is None:
        raise OptionError("the scene's reference system has no EPSG code: GeoJSON can be written in WGS 84 only")
    # EPSG:4326 has the latitude first, CRS84 is the same with the longitude first, which is what is written.
    return "urn:ogc:def:crs:OGC:1.3:CRS84" if code == 4326 else f"urn:ogc:def:crs:EPSG::{code}"


def _degrees(crs: str) -> bool:
    from rasterio.crs import CRS

    return bool(CRS.from_user_input(crs).is_geographic)
