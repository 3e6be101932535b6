"""What a GIS makes of the files: opened with geopandas, which reads, places and checks them without our code."""

from __future__ import annotations

import math
import sqlite3
import sys
from itertools import pairwise
from xml.etree import ElementTree

import geopandas
import numpy as np
import pytest
import shapely
from pyproj import CRS, Geod, Transformer

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.options import OptionError
from yolo_uncert.scenes import SceneResult
from yolo_uncert.scenes.layers import bands
from yolo_uncert.scenes.raster import Georeference

NAMES = {0: "ship", 1: "car & <van>"}
SHAPE = (300, 400)

# Boxes of 40 x 20 pixels at (100, 80) and of 60 x 30 at (250, 200).
DETECT = np.array([[80, 70, 120, 90, 0.9, 1], [220, 185, 280, 215, 0.6, 0]], float)
OBB = np.array([[100, 80, 40, 20, 0.3, 0.9, 1], [250, 200, 60, 30, 2.0, 0.6, 0]], float)
SIDES = np.array([[1.0, 2.0, 3.0, 4.0], [0.5, 0.5, 0.5, 0.5]])
LAEA = "+proj=laea +lat_0=52 +lon_0=10 +datum=WGS84 +units=m"

COS, SIN = 0.5 * math.cos(math.pi / 6), 0.5 * math.sin(math.pi / 6)
PLACES = {
    "utm": Georeference((COS, SIN, 500000.0, SIN, -COS, 5000000.0), "EPSG:32633"),
    "degrees": Georeference((8e-6, 6e-6, 15.0, 6e-6, -8e-6, 45.0), "EPSG:4326"),
    "no-code": Georeference((0.5, 0.0, 3000.0, 0.0, -0.5, 2000.0), CRS(LAEA).to_wkt()),
}


def result_of(task="obb", geo=PLACES["utm"], sides=SIDES, rows=2, name="scene.tif"):
    if task == "detect":
        boxes = UncertBoxes(DETECT[:rows], SHAPE, {"std": sides[:rows]})
    else:
        full = np.column_stack((sides, np.full(len(sides), 0.05), np.zeros((len(sides), 2))))
        std = np.column_stack((sides, np.full(len(sides), 0.05)))
        boxes = UncertOBB(OBB[:rows], SHAPE, {"std": std[:rows], "sides": full[:rows]})
    return SceneResult(name, NAMES, boxes, geo)


def on_map(points, geo):
    a, b, c, d, e, f = geo.transform
    return np.stack((a * points[..., 0] + b * points[..., 1] + c, d * points[..., 0] + e * points[..., 1] + f), -1)


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("place", PLACES)
def test_geopandas_opens_every_file_and_finds_the_boxes_in_place(tmp_path, place, task):
    geo, result = PLACES[place], result_of(task, PLACES[place])
    files = {file.name: file for file in result.save(tmp_path)}
    pixel = math.hypot(geo.transform[0], geo.transform[3])
    expected = [shapely.Polygon(points) for points in on_map(result.polygons, geo)]
    opened = {name: geopandas.read_file(file) for name, file in files.items() if name.endswith("json")}
    opened["boxes"] = geopandas.read_file(files["scene.gpkg"], layer="boxes")
    opened["sigma"] = geopandas.read_file(files["scene.gpkg"], layer="sigma")
    assert ("scene-epsg32633.geojson" in opened) == (place == "utm")
    for name, frame in opened.items():
        in_degrees = name in ("scene.geojson", "scene-sigma.geojson")
        assert frame.crs == CRS("EPSG:4326" if in_degrees else geo.crs)
        assert frame.is_valid.all()
        assert frame["box"].tolist() == [1, 2]
        assert frame["name"].tolist() == ["car & <van>", "ship"]
        assert frame["score"].tolist() == [0.9, 0.6]
        shapes = frame.to_crs(geo.crs).geometry if in_degrees else frame.geometry
        for found, truth in zip(shapes, expected, strict=True):
            if "sigma" in name:
                assert len(found.interiors) == 1
                found = shapely.Polygon(found.exterior).intersection(truth)
            assert found.hausdorff_distance(truth) < 0.01 * pixel


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_columns_and_their_units(tmp_path, task):
    result_of(task).save(tmp_path)
    boxes = geopandas.read_file(tmp_path / "scene.gpkg", layer="boxes")
    sigma = geopandas.read_file(tmp_path / "scene.gpkg", layer="sigma")
    text = geopandas.read_file(tmp_path / "scene.geojson")
    labels, spread = ["box", "class", "name", "score"], ["std_px", "std_m"]
    coordinates = ["x1", "y1", "x2", "y2"] if task == "detect" else ["x", "y", "w", "h"]
    each = [f"std_{name}_{unit}" for name in coordinates for unit in ("px", "m")]
    angle = [] if task == "detect" else ["std_angle_rad"]
    assert list(boxes.columns) == list(text.columns) == [*labels, "cut", *spread, *each, *angle, "geometry"]
    assert list(sigma.columns) == [*labels, "sigmas", *spread, "geometry"]
    assert boxes["cut"].dtype == text["cut"].dtype == bool
    assert boxes["std_px"].tolist() == sigma["std_px"].tolist() == [2.5, 0.5]
    assert boxes["std_m"].tolist() == sigma["std_m"].tolist() == [1.25, 0.25], "half a metre per pixel"
    assert sigma["sigmas"].tolist() == [2, 2]


def test_area_of_a_band(tmp_path):
    # Sides of 40 x 20 pixels grow and shrink by 2 (1 + 3) = 8 and 2 (2 + 4) = 12: 48 x 32 - 32 x 8 = 1280 pixels of
    # a quarter of a square metre; 60 x 30 by 2 each: 62 x 32 - 58 x 28 = 360.
    result_of().save(tmp_path)
    sigma = geopandas.read_file(tmp_path / "scene.gpkg", layer="sigma")
    assert sigma.area.tolist() == pytest.approx([320, 90], rel=1e-6)
    result_of("detect").save(tmp_path)
    assert geopandas.read_file(tmp_path / "scene-epsg32633.geojson").area.tolist() == pytest.approx(
        [200, 450], rel=1e-4
    )


def test_sides_move_along_the_axes_of_the_box():
    # Turned by a quarter, left is up, right down, top to the right and bottom to the left. The box reaches from
    # (90, 30) to (110, 70); two standard deviations of 1, 2, 3, 4 move up 2, right 4, down 6 and left 8.
    data = np.array([[100, 50, 40, 20, np.pi / 2, 0.9, 0]])
    fields = {"std": np.ones((1, 5)), "sides": np.array([[1.0, 2, 3, 4, 0.1, 0, 0]])}
    outer, inner = bands(UncertOBB(data, SHAPE, fields))
    assert [*outer[0].min(0), *outer[0].max(0)] == pytest.approx([82, 28, 114, 76])
    assert [*inner[0].min(0), *inner[0].max(0)] == pytest.approx([98, 32, 106, 64])


def test_a_band_without_a_hole():
    sides = np.array([[8.0, 8.0, 8.0, 8.0], [2.0, 8.0, 2.0, 7.0]])  # 20 and 30 pixels high, 32 and 30 are taken off
    result = result_of("detect", sides=sides)
    assert np.isnan(bands(result.boxes)[1]).all()
    assert [len(f["geometry"]["coordinates"]) for f in result.geojson(layer="sigma")["features"]] == [1, 1]


def test_a_box_with_unknown_standard_deviations_has_no_band(tmp_path):
    result = result_of("detect", sides=np.array([[1.0, np.nan, 1, 1], [1, 1, 1, 1]]))
    result.save(tmp_path)
    boxes = geopandas.read_file(tmp_path / "scene.gpkg", layer="boxes")
    assert boxes[["std_m", "std_y1_m", "std_y2_m"]].isna().to_numpy().tolist() == [[True, True, False], [False] * 3]
    assert geopandas.read_file(tmp_path / "scene.gpkg", layer="sigma")["box"].tolist() == [2]


def test_a_model_without_standard_deviations(tmp_path):
    result = SceneResult("scene.tif", NAMES, UncertBoxes(DETECT, SHAPE), PLACES["utm"])
    assert "scene-sigma.geojson" not in [file.name for file in result.save(tmp_path)]
    assert geopandas.list_layers(tmp_path / "scene.gpkg")["name"].tolist() == ["boxes", "layer_styles"]
    with pytest.raises(OptionError, match=r"layer is 'sigma'\. This result has: boxes"):
        result.geojson(layer="sigma")


def test_bands_of_an_earlier_model_do_not_stay(tmp_path):
    result_of().save(tmp_path)
    (tmp_path / "scene-sigma-of-mine.geojson").touch()
    SceneResult("scene.tif", NAMES, UncertBoxes(DETECT, SHAPE), PLACES["utm"]).save(tmp_path)
    assert [file.name for file in tmp_path.glob("*sigma*")] == ["scene-sigma-of-mine.geojson"]


def test_nothing_found(tmp_path):
    result_of(rows=0).save(tmp_path)
    for layer in ("boxes", "sigma"):
        frame = geopandas.read_file(tmp_path / "scene.gpkg", layer=layer)
        assert (len(frame), frame.crs) == (0, CRS("EPSG:32633"))
    assert len(geopandas.read_file(tmp_path / "scene.geojson")) == 0


def test_without_pyogrio_there_is_no_geopackage_and_a_word_about_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pyogrio.raw", None)
    names = [file.name for file in result_of().save(tmp_path)]
    assert "scene.geojson" in names
    assert "scene.gpkg" not in names
    assert "no GeoPackage is written" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# Styles


def test_styles_name_classes_and_ranges(tmp_path):
    result = result_of(sides=SIDES)
    result.save(tmp_path)
    style = ElementTree.parse(tmp_path / "scene.qml").getroot()
    categories = {entry.get("value"): entry.get("symbol") for entry in style.iter("category")}
    symbols = {entry.get("name"): entry for entry in style.iter("symbol")}
    assert set(categories) == set(NAMES.values())
    assert set(categories.values()) == symbols.keys()
    assert style.find("renderer-v2").get("attr") == "name"
    style = ElementTree.parse(tmp_path / "scene-sigma.qml").getroot()
    assert style.find("renderer-v2").get("attr") == "std_m"
    limits = [(float(entry.get("lower")), float(entry.get("upper"))) for entry in style.iter("range")]
    assert (limits[0][0], limits[-1][1]) == (0.25, 1.25)
    assert all(before[1] == after[0] for before, after in pairwise(limits))
    assert {entry.get("symbol") for entry in style.iter("range")} == {
        entry.get("name") for entry in style.iter("symbol")
    }


@pytest.mark.parametrize("rows", [0, 1])
def test_style_of_few_boxes(tmp_path, rows):
    result_of(rows=rows).save(tmp_path)
    (only,) = ElementTree.parse(tmp_path / "scene-sigma.qml").getroot().iter("range")
    assert only.get("lower") == only.get("upper") == ("1.25" if rows else "0.0")


def test_a_style_without_metres(tmp_path):
    result_of(geo=None).save(tmp_path)
    style = ElementTree.parse(tmp_path / "scene-pixels-sigma.qml").getroot()
    assert style.find("renderer-v2").get("attr") == "std_px"


@pytest.mark.parametrize("layer", ["boxes", "sigma"])
def test_qgis_finds_the_style_in_the_geopackage(tmp_path, layer):
    result_of().save(tmp_path)
    with sqlite3.connect(tmp_path / "scene.gpkg") as file:
        # What QGIS asks for when it opens a layer (QgsOgrProviderMetadata::loadStyle).
        found = file.execute(
            "SELECT styleQML FROM layer_styles WHERE f_table_schema='' AND f_table_name=? AND f_geometry_column="
            "(SELECT column_name FROM gpkg_geometry_columns WHERE table_name=?) AND useAsDefault=1",
            (layer, layer),
        ).fetchall()
    text = (tmp_path / ("scene.qml" if layer == "boxes" else "scene-sigma.qml")).read_text(encoding="utf-8")
    assert found == [(text,)]


# ---------------------------------------------------------------------------------------------------------------------
# Across the 180th meridian


def around(longitude, latitude, crs, a=0.5, d=0.0):
    """The middle of the first box, pixel (100, 80), lies there; pixels measure half a metre."""
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(longitude, latitude)
    return Georeference((a, d, x - 100 * a - 80 * d, d, -a, y - 100 * d + 80 * a), crs)


DATE_LINE = {
    "utm": around(180.0, -17.0, "EPSG:32660"),
    "utm-rotated": around(180.0, -17.0, "EPSG:32660", COS, SIN),
    "polar": around(180.0, 75.0, "EPSG:3413", COS, SIN),
    "degrees": around(180.0, 0.0, "EPSG:4326", 0.5 / 111320),  # the east of the scene is beyond 180 degrees
}


@pytest.mark.parametrize("layer", ["boxes", "sigma"])
@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("place", DATE_LINE)
def test_polygons_are_cut_at_the_180th_meridian(place, task, layer):
    result = result_of(task, DATE_LINE[place])
    first, second = (shapely.geometry.shape(f["geometry"]) for f in result.geojson(layer=layer)["features"])
    assert first.geom_type == "MultiPolygon"
    assert second.geom_type == "Polygon"
    assert first.is_valid
    assert second.is_valid
    eastern, western = sorted(first.geoms, key=lambda part: part.bounds[0])
    assert (eastern.bounds[0], western.bounds[2]) == (-180, 180)
    assert max(eastern.bounds[2] + 180, 180 - western.bounds[0]) < 0.01, "each half lies beside the meridian"
    assert all(part.exterior.is_ccw for part in first.geoms)
    area = sum(abs(Geod(ellps="WGS84").geometry_area_perimeter(part)[0]) for part in first.geoms)
    whole = result_of(task, PLACES["utm"]).geojson("scene", layer)["features"][0]
    assert area == pytest.approx(shapely.geometry.shape(whole["geometry"]).area, rel=0.05), "scales of the projections"


def test_a_geopackage_goes_on_beyond_the_meridian_in_the_system_of_the_scene(tmp_path):
    result_of(geo=DATE_LINE["utm"]).save(tmp_path)
    assert set(geopandas.read_file(tmp_path / "scene.gpkg", layer="boxes").geom_type) == {"Polygon"}
    frame = geopandas.read_file(tmp_path / "scene.geojson")
    assert frame.geom_type.tolist() == ["MultiPolygon", "Polygon"]
    assert frame.is_valid.all()


def test_a_box_around_the_pole():
    geo = around(0.0, 90.0, "EPSG:3413")
    first = shapely.geometry.shape(result_of(geo=geo).geojson()["features"][0]["geometry"])
    assert first.is_valid
    assert [first.bounds[0], *first.bounds[2:]] == [-180, 180, 90]


def test_a_corner_on_the_meridian_leaves_no_empty_part():
    geo = Georeference((1e-5, 0.0, 180 - 80e-5, 0.0, -1e-5, -17.0), "EPSG:4326")  # the first box begins at 180 degrees
    first = result_of("detect", geo).geojson()["features"][0]["geometry"]
    assert first["type"] == "Polygon"
    assert np.array(first["coordinates"])[..., 0].max() < -179
