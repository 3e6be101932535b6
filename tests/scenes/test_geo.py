from __future__ import annotations

import json
import math

import numpy as np
import pytest
import shapely
from scipy.integrate import quad

from yolo_uncert.evaluation import read_dota
from yolo_uncert.options import OptionError
from yolo_uncert.output import JsonLinesWriter
from yolo_uncert.scenes import geojson as geojson_module
from yolo_uncert.scenes import geopackage as geopackage_module
from yolo_uncert.scenes.geo import lengths, metres_per_degree, metres_per_pixel, to_lonlat, to_map
from yolo_uncert.scenes.raster import Georeference, open_raster

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")

BOXES = [(40, 30, 60, 50), (130, 20, 170, 36), (85, 88, 117, 112)]

# Columns and rows to eastings and northings: half a metre north-up; the same turned by 30 degrees; degrees.
COS, SIN = 0.5 * math.cos(math.pi / 6), 0.5 * math.sin(math.pi / 6)
PLACES = {
    "utm": Georeference((0.5, 0.0, 500000.0, 0.0, -0.5, 5000000.0), "EPSG:32633"),
    "utm-rotated": Georeference((COS, SIN, 500000.0, SIN, -COS, 5000000.0), "EPSG:32633"),
    "degrees": Georeference((1e-5, 0.0, 15.0, 0.0, -1e-5, 45.0), "EPSG:4326"),
    "degrees-rotated": Georeference((8e-6, 6e-6, 15.0, 6e-6, -8e-6, 45.0), "EPSG:4326"),
}


@pytest.fixture
def scene(write_tif, rectangles, look_at, blank_scene):
    """Detections in a GeoTIFF that lies in one of the places, or nowhere."""

    def run(place, task="detect"):
        rasterio = pytest.importorskip("rasterio")
        geo = PLACES.get(place)
        where = {"crs": geo.crs, "transform": rasterio.Affine(*geo.transform)} if geo else {}
        path = write_tif(blank_scene(200, 150, BOXES)[None], f"{place}.tif", **where)
        with open_raster(path) as raster:
            return look_at(rectangles(task), raster, 100, 40, name=str(path))

    return run


def rings(content):
    return np.array([feature["geometry"]["coordinates"][0] for feature in content["features"]])


def area(ring):
    x, y = ring.T
    return ((x[:-1] * y[1:] - x[1:] * y[:-1]) / 2).sum()


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("place", PLACES)
def test_known_objects_come_back_where_they_are(scene, place, task):
    rasterio = pytest.importorskip("rasterio")
    result = scene(place, task)
    content = result.geojson("scene")
    transform = rasterio.Affine(*PLACES[place].transform)
    for box in BOXES:
        x1, y1, x2, y2 = box
        corners = [transform @ point for point in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
        pixel = math.hypot(transform.a, transform.d)
        distances = [
            np.linalg.norm(ring[:4, None] - np.array(corners)[None], axis=2).min(1).max() for ring in rings(content)
        ]
        assert min(distances) < 0.01 * pixel, "same place, well within a pixel"
    assert len(content["features"]) == len(BOXES)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("crs", ["wgs84", "scene"])
def test_rings_are_closed_and_turn_left(scene, place, crs):
    for ring in rings(scene(place).geojson(crs)):
        assert len(ring) == 5
        assert (ring[0] == ring[-1]).all()
        assert area(ring - ring.mean(0)) > 0


def test_polygons_are_valid_and_as_large_as_the_objects(scene):
    # Half-metre pixels: a quarter of a square metre each.
    features = scene("utm-rotated").geojson("scene")["features"]
    polygons = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    assert all(polygon.is_valid for polygon in polygons)
    expected = sorted((x2 - x1) * (y2 - y1) / 4 for x1, y1, x2, y2 in BOXES)
    assert sorted(polygon.area for polygon in polygons) == pytest.approx(expected, rel=1e-4)


def test_longitude_and_latitude_of_a_utm_scene(scene):
    # On the central meridian of zone 33 the longitude is 15, and the northing is 0.9996 times the arc from the equator.
    box = rings(scene("utm").geojson())
    assert (np.abs(box[..., 0] - 15.001) < 0.002).all()
    square = 1 / 298.257223563 * (2 - 1 / 298.257223563)

    def radius(latitude):
        return 6378137.0 * (1 - square) / (1 - square * math.sin(latitude) ** 2) ** 1.5

    lonlat = to_lonlat(np.array([[500000.0, 5000000.0]]), "EPSG:32633")[0]
    assert lonlat[0] == pytest.approx(15, abs=1e-9)
    assert 0.9996 * quad(radius, 0, math.radians(lonlat[1]))[0] == pytest.approx(5000000, abs=0.01)
    assert to_lonlat(np.zeros((0, 4, 2)), "EPSG:32633").shape == (0, 4, 2)


def test_to_map_of_a_rotated_scene():
    # (x, y) = (10, 20): 2*10 + 3*20 + 100 = 180, 4*10 - 5*20 + 200 = 140
    assert to_map(np.array([10, 20]), Georeference((2, 3, 100, 4, -5, 200), "EPSG:32633")).tolist() == [180, 140]


def test_length_of_a_degree():
    # At the equator a degree of longitude is pi / 180 of the semi-major axis; at 45 degrees the usual series gives
    # 111132.954 - 1.175 = 111131.78 m of latitude and 78846.8 m of longitude.
    found = metres_per_degree(np.radians([0.0, 45.0]))
    assert found[0, 0] == pytest.approx(6378137 * math.pi / 180)
    assert found[1] == pytest.approx([78846.8, 111131.78], abs=0.5)


def test_metres_of_a_step():
    pytest.importorskip("rasterio")
    centre = np.array([[0.0, 0.0]])
    # Pixels of 2 m to the east and 1 m to the north: half a turn between them.
    geo = Georeference((2.0, 0.0, 0.0, 0.0, -1.0, 0.0), "EPSG:32633")
    assert lengths(metres_per_pixel(centre, geo), np.array([0.0]))[0] == pytest.approx([2, 1])
    assert lengths(metres_per_pixel(centre, geo), np.array([np.pi / 2]))[0] == pytest.approx([1, 2])
    assert lengths(metres_per_pixel(centre, geo), np.array([np.pi / 4]))[0] == pytest.approx([math.sqrt(2.5)] * 2)
    # EPSG:2263 measures in US survey feet of 1200 / 3937 m.
    geo = Georeference((1.0, 0.0, 0.0, 0.0, -1.0, 0.0), "EPSG:2263")
    assert lengths(metres_per_pixel(centre, geo), np.array([0.0]))[0] == pytest.approx([1200 / 3937] * 2)


def test_metres_of_other_units_and_bodies():
    pytest.importorskip("rasterio")
    grad = math.pi / 200
    # EPSG:4807 counts in grads from Paris, on Clarke's ellipsoid of 1880: a = 6378249.2 m, 1 / f = 293.466.
    geo = Georeference((1e-5, 0.0, 0.0, 0.0, -1e-5, 50.0), "EPSG:4807")
    square = (2 - 1 / 293.4660212936265) / 293.4660212936265
    north = 6378249.2 * (1 - square) / (1 - square * 0.5) ** 1.5 * grad * 1e-5
    assert lengths(metres_per_pixel(np.zeros((1, 2)), geo), np.zeros(1))[0, 1] == pytest.approx(north, rel=1e-6)
    # On the moon, a sphere of 1737.4 km, a degree has 30.3 km in both directions at the equator.
    geo = Georeference((0.001, 0.0, 0.0, 0.0, -0.001, 0.0), "+proj=longlat +R=1737400 +no_defs")
    found = lengths(metres_per_pixel(np.zeros((1, 2)), geo), np.zeros(1))[0]
    assert found == pytest.approx([1737400 * math.pi / 180 * 0.001] * 2, rel=1e-9)


def test_points_without_longitude_and_latitude(scene, monkeypatch, caplog):
    pytest.importorskip("rasterio")
    full_disc = "+proj=geos +h=35785831 +lon_0=0 +ellps=WGS84 +units=m"
    points = np.array([[[0.0, 0.0], [1e5, 1e5]], [[9e6, 9e6], [0.0, 2e5]]])
    found = to_lonlat(points, full_disc)
    assert found.shape == (2, 2, 2)
    assert np.isnan(found[1, 0]).all(), "beside the earth"
    alone = [to_lonlat(point, full_disc) for point in (points[0, 0], points[0, 1], points[1, 1])]
    np.testing.assert_array_equal(found[[0, 0, 1], [0, 1, 1]], alone)
    moon = "+proj=longlat +R=1737400 +no_defs"
    monkeypatch.setattr("yolo_uncert.scenes.geojson.to_lonlat", lambda points, _: points * np.nan)
    content = scene("utm").geojson()
    assert [feature["geometry"] for feature in content["features"]] == [None] * 3
    assert "3 of 3 boxes have no longitude and latitude: their geometry is null" in caplog.text
    assert np.isnan(to_lonlat(points, moon)).all()
    many = np.concatenate((np.full((60, 2), 9e6), np.zeros((60, 2))))
    assert np.isnan(to_lonlat(many, full_disc)).all(1).tolist() == [True] * 60 + [False] * 60


@pytest.mark.parametrize(
    ("place", "x", "y"),
    [
        ("utm", 1.0, 1.0),  # 2 pixels of half a metre
        ("utm-rotated", 1.0, 1.0),
        ("degrees", 2e-5 * 78846.8, 2e-5 * 111131.8),
        # x: (8e-6, 6e-6) degrees of longitude and latitude a pixel
        (
            "degrees-rotated",
            2 * math.hypot(8e-6 * 78846.8, 6e-6 * 111131.8),
            2 * math.hypot(6e-6 * 78846.8, 8e-6 * 111131.8),
        ),
    ],
)
def test_standard_deviations_in_metres(scene, place, x, y):
    row = scene(place).geojson()["features"][0]["properties"]
    assert [row["std_px"], row["std_x1_px"]] == [2, 2]
    assert [row["std_x1_m"], row["std_x2_m"], row["std_y1_m"], row["std_y2_m"]] == pytest.approx([x, x, y, y], rel=1e-4)
    assert row["std_m"] == pytest.approx((x + y) / 2, rel=1e-4)
    turned = scene(place, "obb").geojson()["features"][0]["properties"]
    # w = l + r, and the centre their half difference: sqrt(2) and 1 / sqrt(2) times the std of a side.
    assert turned["std_w_m"] == pytest.approx(x * math.sqrt(2), rel=1e-4)
    assert turned["std_y_m"] == pytest.approx(y / math.sqrt(2), rel=1e-4)
    assert turned["std_angle_rad"] == pytest.approx(0.1)


def test_properties(scene):
    row = scene("utm").geojson()["features"][0]["properties"]
    assert {name: row[name] for name in ("class", "name", "score", "cut")} == {
        "class": 1,
        "name": "bright",
        "score": 0.9,
        "cut": False,
    }


def test_without_georeference_there_are_pixels_and_a_word_about_it(scene, caplog, tmp_path):
    result = scene("nowhere")
    assert "has no georeference: positions are in pixels" in caplog.text
    content = result.geojson()
    assert content["coordinates"].startswith("pixels")
    assert rings(content)[..., 0].max() == 170
    assert not any(name.endswith("_m") for name in content["features"][0]["properties"])
    assert [file.name for file in result.save(tmp_path / "out")][:5] == [
        "nowhere-pixels.geojson",
        "nowhere-pixels.qml",
        "nowhere-pixels-sigma.geojson",
        "nowhere-pixels-sigma.qml",
        "nowhere.jsonl",
    ]


def test_names_of_reference_systems(scene):
    assert "crs" not in scene("utm").geojson()
    assert scene("utm").geojson("scene")["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert scene("degrees").geojson("scene")["crs"]["properties"]["name"].endswith("CRS84")
    with pytest.raises(OptionError, match="Allowed: wgs84, scene"):
        scene("utm").geojson("utm")


def test_files(scene, tmp_path):
    result = scene("utm", "obb")
    files = [file.relative_to(tmp_path).as_posix() for file in result.save(tmp_path / "out")]
    assert files == [
        "out/utm.geojson",
        "out/utm.qml",
        "out/utm-sigma.geojson",
        "out/utm-sigma.qml",
        "out/utm-epsg32633.geojson",
        "out/utm-epsg32633.qml",
        "out/utm.gpkg",
        "out/utm.jsonl",
        "out/dota/Task1_dim.txt",
        "out/dota/Task1_bright.txt",
    ]
    assert json.loads((tmp_path / files[0]).read_text()) == result.geojson()
    assert json.loads((tmp_path / files[2]).read_text()) == result.geojson(layer="sigma")
    lines = [json.loads(line) for line in (tmp_path / "out" / "utm.jsonl").read_text().splitlines()]
    assert [line["x"] for line in lines] == pytest.approx(result.boxes.data[:, 0].tolist())
    found = read_dota(tmp_path / "out" / "dota")
    assert found.images.tolist() == ["utm"] * 3
    assert np.sort(found.polygons.reshape(-1)) == pytest.approx(np.sort(result.polygons.reshape(-1)))
    assert {path.as_posix() for path in tmp_path.glob("out/[!.]*")} == {
        (tmp_path / file.replace("/Task1", " ").split()[0]).as_posix() for file in files
    }


def fails_at_third_feature(monkeypatch):
    dumps, calls = json.dumps, []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("no space left on device")
        return dumps(*args, **kwargs)

    monkeypatch.setattr(geojson_module.json, "dumps", fail)


def fails_after_the_first_row(monkeypatch):
    write = JsonLinesWriter.write

    def fail(self, rows):
        write(self, rows[:1])
        raise OSError("no space left on device")

    monkeypatch.setattr(JsonLinesWriter, "write", fail)


def fails_at_the_styles(monkeypatch):
    def fail(styles):
        raise OSError("no space left on device")

    monkeypatch.setattr(geopackage_module, "_style_columns", fail)


@pytest.mark.parametrize(
    ("fail", "name"),
    [
        (fails_at_third_feature, "utm.geojson"),
        (fails_after_the_first_row, "utm.jsonl"),
        (fails_at_the_styles, "utm.gpkg"),
    ],
)
def test_a_failure_in_the_middle_leaves_the_old_file_or_none(scene, tmp_path, monkeypatch, fail, name):
    result = scene("utm")
    result.save(tmp_path / "out")
    old = (tmp_path / "out" / name).read_bytes()
    fail(monkeypatch)
    with pytest.raises(OSError, match="no space left"):
        result.save(tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == old
    monkeypatch.undo()
    fail(monkeypatch)
    with pytest.raises(OSError, match="no space left"):
        result.save(tmp_path / "new")
    assert not (tmp_path / "new" / name).exists()
    assert {path.name for path in tmp_path.rglob(".*")} <= {".utm.written"}, "nothing half written lies about"
