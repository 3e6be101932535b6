"""Layers as a GeoPackage, with the styles that QGIS applies by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from yolo_uncert.scenes.geojson import rings_on_map
from yolo_uncert.scenes.layers import Layer
from yolo_uncert.scenes.raster import Georeference

TYPES = {"box": np.int32, "class": np.int32, "cut": np.bool_, "name": np.object_}
"""Types of the attributes; all others are 64-bit floats."""

VERSION = "1.2"
"""Of the GeoPackage standard, which has been read by all since 2017; nothing of what came later is in the file."""

UTC = 100
"""How GDAL writes that time zone."""

GEOMETRY, STYLES = "geom", "layer_styles"
"""Names of the geometry column, and of the table in which QGIS keeps styles."""


def write_geopackage(path: Path, layers: Sequence[Layer], geo: Georeference, styles: Mapping[str, str]) -> None:
    """Write a new GeoPackage in the reference system of a scene, whether that has an EPSG code or not.

    Args:
        path: File that does not exist yet.
        layers: Polygons in pixels; each becomes a table of its name.
        geo: Where the scene lies.
        styles: QML by name of the layer, which QGIS applies when it opens that layer.

    Raises:
        ImportError: pyogrio is not installed.
    """
    import shapely
    from pyogrio.raw import write

    for layer in layers:
        polygons = [shapely.Polygon(rings[0], rings[1:]) for rings in rings_on_map(layer, geo)]
        write(
            path,
            shapely.to_wkb(np.array(polygons, object)),
            [np.array(values, TYPES.get(name, np.float64)) for name, values in layer.columns.items()],
            list(layer.columns),
            layer=layer.name,
            driver="GPKG",
            geometry_type="Polygon",
            crs=geo.crs,
            dataset_options=None if path.exists() else {"VERSION": VERSION},
            layer_options={"GEOMETRY_NAME": GEOMETRY, "DESCRIPTION": layer.description},
        )
    columns = _style_columns(styles)
    write(
        path,
        None,
        list(columns.values()),
        list(columns),
        layer=STYLES,
        driver="GPKG",
        layer_options={"FID": "id"},
        gdal_tz_offsets={"update_time": np.full(len(styles), UTC)},
    )


def _style_columns(styles: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the columns that QGIS gives its table of styles."""
    count = len(styles)
    names, empty = np.array(list(styles), object), np.full(count, "", object)
    return {
        "f_table_catalog": empty,
        "f_table_schema": empty,  # QGIS looks for the empty text, which is not NULL
        "f_table_name": names,
        "f_geometry_column": np.full(count, GEOMETRY, object),
        "styleName": names,
        "styleQML": np.array(list(styles.values()), object),
        "styleSLD": empty,
        "useAsDefault": np.ones(count, bool),
        "description": empty,
        "owner": empty,
        "ui": empty,
        "update_time": np.full(count, np.datetime64("now", "ms")),
    }
