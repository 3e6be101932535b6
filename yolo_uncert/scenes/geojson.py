"""Detections as GeoJSON: polygons with class, score and standard deviations in pixels and metres."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yolo_uncert.config import OptionError
from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.scenes.geo import lengths, metres_per_pixel, to_lonlat, to_map
from yolo_uncert.scenes.merge import CUT
from yolo_uncert.scenes.raster import Georeference

Floats = npt.NDArray[np.float64]

PIXELS = "pixels: x to the right, y down, (0, 0) is the corner of the first pixel; the scene has no georeference"

AXIS = {"x1": 0, "x2": 0, "y1": 1, "y2": 1, "w": 0, "h": 1}
"""Direction in which each coordinate of a box is measured: along the box's first axis or its second one."""


def feature_collection(
    boxes: UncertBoxes | UncertOBB, names: dict[int, str], polygons: Floats, geo: Georeference | None, crs: str
) -> dict[str, Any]:
    """Return a FeatureCollection with one polygon per box; see `SceneResult.geojson`.

    Args:
        boxes: Boxes in pixels, as arrays.
        names: Class names.
        polygons: Their corners, ``Array[N, 4, 2]`` in pixels.
        geo: Where the scene lies, if it says so.
        crs: ``wgs84`` or ``scene``.

    Raises:
        OptionError: ``crs`` is neither, or the scene's system has no EPSG code to name it by.
    """
    if crs not in ("wgs84", "scene"):
        raise OptionError(f"crs is {crs!r}. Allowed: wgs84, scene")
    head: dict[str, Any] = {"type": "FeatureCollection"}
    places, digits = polygons, 3
    if geo is None:
        head["coordinates"] = PIXELS
    elif crs == "wgs84":
        places, digits = to_lonlat(to_map(polygons, geo), geo.crs), 9
    else:
        head["crs"] = {"type": "name", "properties": {"name": _urn(geo.crs)}}
        places, digits = to_map(polygons, geo), 9 if _degrees(geo.crs) else 4
    rows = _properties(boxes, names, polygons, geo)
    rings = np.round(_counterclockwise(places), digits).tolist()
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": row}
        for ring, row in zip(rings, rows, strict=True)
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


def _properties(
    boxes: UncertBoxes | UncertOBB, names: dict[int, str], polygons: Floats, geo: Georeference | None
) -> list[dict[str, Any]]:
    """Return the attributes of each box; null stands for what is not known."""
    data: Any = boxes.data
    count = len(data)
    columns: dict[str, Any] = {
        "class": data[:, -1].astype(int).tolist(),
        "name": [names[int(index)] for index in data[:, -1]],
        "score": np.round(data[:, -2].astype(np.float64), 5).tolist(),
        "cut": (np.asarray(boxes.fields.get(CUT, np.zeros(count))) > 0).tolist(),
    }
    if boxes.std is not None:
        oriented = isinstance(boxes, UncertOBB)
        angle = data[:, 4].astype(np.float64) if oriented else np.zeros(count)
        matrices = None if geo is None else metres_per_pixel(polygons.mean(1), geo)
        sides: Any = boxes.side_std
        columns["std_px"] = _plain(sides.mean(1))
        along = None if matrices is None else lengths(matrices, angle)
        if along is not None:
            columns["std_m"] = _plain((sides * along[:, [0, 1, 0, 1]]).mean(1))
        level = None if matrices is None else lengths(matrices, np.zeros(count))
        std: Any = boxes.std
        for index, coordinate in enumerate(boxes.coordinates):
            if coordinate == "angle":
                columns["std_angle_rad"] = _plain(std[:, index])
                continue
            columns[f"std_{coordinate}_px"] = _plain(std[:, index])
            scale = along if coordinate in AXIS else level  # the centre of an oriented box has the image's axes
            if scale is not None:
                axis = AXIS.get(coordinate, int(coordinate == "y"))
                columns[f"std_{coordinate}_m"] = _plain(std[:, index] * scale[:, axis])
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _plain(values: Any) -> list[float | None]:
    """Return numbers with five digits behind the point, None where they are not finite."""
    return [round(value, 5) if np.isfinite(value) else None for value in np.asarray(values, np.float64).tolist()]


def _counterclockwise(polygons: Floats) -> Floats:
    """Return closed rings that turn as RFC 7946 wants them, ``Array[N, 5, 2]``."""
    step = np.roll(polygons, -1, axis=1)
    area = (polygons[..., 0] * step[..., 1] - step[..., 0] * polygons[..., 1]).sum(1)
    turned = np.where((area < 0)[:, None, None], polygons[:, ::-1], polygons)
    return np.concatenate((turned, turned[:, :1]), axis=1)


def _urn(crs: str) -> str:
    """Return the name of a reference system for a ``crs`` member."""
    from rasterio.crs import CRS

    code = CRS.from_user_input(crs).to_epsg()
    if code is None:
        raise OptionError("the scene's reference system has no EPSG code: only the file in WGS 84 can be written")
    # EPSG:4326 has the latitude first, CRS84 is the same with the longitude first, which is what is written.
    return "urn:ogc:def:crs:OGC:1.3:CRS84" if code == 4326 else f"urn:ogc:def:crs:EPSG::{code}"


def _degrees(crs: str) -> bool:
    from rasterio.crs import CRS

    return bool(CRS.from_user_input(crs).is_geographic)
