"""Files that a result must not replace."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_uncert.engine.boxes import UncertBoxes
from yolo_uncert.evaluation import read_dota
from yolo_uncert.options import OptionError
from yolo_uncert.scenes import Georeference, SceneResult, detect_scene
from yolo_uncert.scenes import scan as scan_module
from yolo_uncert.scenes.targets import check_targets

GEO = Georeference((0.5, 0.0, 500000.0, 0.0, -0.5, 5000000.0), "EPSG:32633")

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")


def found(path="field.tif", score=0.9, geo=GEO):
    rows = np.array([[10, 20, 40, 60, score, 0]], np.float32)
    return SceneResult(str(path), {0: "car"}, UncertBoxes(rows, (100, 200), {"std": np.ones((1, 4), np.float32)}), geo)


@pytest.fixture
def written(tmp_path):
    """Folder with the files of a result."""
    pytest.importorskip("rasterio")
    pytest.importorskip("pyogrio")
    found().save(tmp_path / "out")
    return tmp_path / "out"


def test_every_file_that_is_written_is_looked_at_before(tmp_path):
    pytest.importorskip("rasterio")
    pytest.importorskip("pyogrio")
    for geo in (GEO, None):
        for file in found(geo=geo).save(tmp_path / "new", dota=False):
            other = tmp_path / "other" / file.name
            other.parent.mkdir(exist_ok=True)
            other.write_text("mine")
            with pytest.raises(OptionError, match=f"{re.escape(file.name)} would be replaced"):
                check_targets(other.parent, "field", "field.tif")
            other.unlink()


def test_files_of_a_place_that_was_wrong_are_removed(written):
    (written / "field-epsg32634-notes.geojson").write_text("mine")
    found(geo=Georeference(GEO.transform, "EPSG:32634")).save(written)
    names = {file.name for file in written.iterdir()}
    assert {"field-epsg32634.geojson", "field-epsg32634.qml", "field-epsg32634-notes.geojson"} <= names
    assert not {"field-epsg32633.geojson", "field-epsg32633.qml"} & names
    found(geo=None).save(written)
    names = {file.name for file in written.iterdir() if not file.name.startswith(".")}
    kinds = ("-pixels.geojson", "-pixels.qml", "-pixels-sigma.geojson", "-pixels-sigma.qml", ".jsonl")
    assert names == {*(f"field{kind}" for kind in kinds), "field-epsg32634-notes.geojson", "dota"}


def test_files_of_an_earlier_run_are_replaced(written):
    names = {file.name for file in written.iterdir()}
    assert {"field.geojson", "field.gpkg", "field-epsg32633.geojson", "field.jsonl"} <= names
    found(score=0.5).save(written)
    assert '"score": 0.5' in (written / "field.geojson").read_text()


@pytest.mark.parametrize("name", ["field.geojson", "field-sigma.geojson", "field-epsg4326.geojson", "field.jsonl"])
def test_a_text_of_other_origin_stays(tmp_path, name):
    (tmp_path / name).write_text('{"type": "FeatureCollection", "features": []}\n')
    with pytest.raises(OptionError, match=rf"{name} would be replaced, and is not, or no longer, as yolo-uncert"):
        found(geo=None).save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("field.geojson", '"name": "car"', '"name": "van"'),
        ("field-epsg32633.geojson", '"name": "car"', '"name": "van"'),
        ("field.jsonl", '"name": "car"', '"name": "van"'),
        ("field.qml", "</qgis>", "<!-- thinner lines --></qgis>"),
    ],
)
def test_an_edited_text_stays(written, name, old, new):
    text = (written / name).read_text()
    assert old in text
    (written / name).write_text(text.replace(old, new))
    before = contents(written)
    with pytest.raises(OptionError, match="no longer"):
        found(score=0.5).save(written)
    assert contents(written) == before, "all files, not only that one"


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def query(file, *commands):
    with closing(sqlite3.connect(file)) as database, database:
        return [database.execute(command).fetchall() for command in commands][-1]


def test_an_edited_package_stays(written):
    file = written / "field.gpkg"
    triggers = query(file, "SELECT name FROM sqlite_master WHERE type = 'trigger'")
    query(file, *(f'DROP TRIGGER "{name}"' for (name,) in triggers), "UPDATE boxes SET name = 'van'")
    with pytest.raises(OptionError, match="no longer"):
        found().save(written)


def test_a_package_that_was_only_looked_at_is_replaced(written):
    file = written / "field.gpkg"
    before = file.read_bytes()
    query(file, "PRAGMA user_version = 7")  # QGIS, too, leaves other bytes behind
    assert file.read_bytes() != before
    found(score=0.5).save(written)


def test_a_run_that_was_stopped_while_it_wrote_can_be_repeated(written, monkeypatch):
    monkeypatch.setattr("yolo_uncert.files.os.replace", stop_at("field.geojson"))
    with pytest.raises(KeyboardInterrupt):
        found(score=0.5).save(written)
    monkeypatch.undo()
    found(score=0.5).save(written)


def stop_at(name):
    """Stand in for `os.replace`: the process ends before a file gets its place."""

    def replace(source, target, move=os.replace):
        if Path(target).name == name:
            raise KeyboardInterrupt
        move(source, target)

    return replace


def test_a_package_with_a_layer_of_the_user_stays(written):
    with closing(sqlite3.connect(written / "field.gpkg")) as database, database:
        database.execute("INSERT INTO gpkg_contents (table_name, data_type) VALUES ('my fields', 'attributes')")
    with pytest.raises(OptionError, match=r"field\.gpkg would be replaced"):
        found().save(written)


def test_what_only_looks_like_a_package_stays(tmp_path):
    (tmp_path / "field.gpkg").write_bytes(b"no database, but somebody's")
    with pytest.raises(OptionError, match=r"field\.gpkg"):
        check_targets(tmp_path, "field", "field.tif")


def test_empty_and_unrelated_files_are_no_obstacle(tmp_path):
    for name in ("field.geojson", "field.gpkg", "field.jsonl"):
        (tmp_path / name).touch()
    for name in ("other.geojson", "field2.geojson", "field-notes.geojson", "field.tif"):
        (tmp_path / name).write_text("mine")
    check_targets(tmp_path, "field", str(tmp_path / "other.tif"))
    check_targets(tmp_path / "not there yet", "field", "field.tif")


def test_the_scene_itself_is_not_replaced(tmp_path, model_file, monkeypatch):
    scene = tmp_path / "field.gpkg"
    _, png = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))
    scene.write_bytes(png.tobytes())
    before, seen = scene.read_bytes(), []
    monkeypatch.setattr(scan_module, "read_tile", lambda *words: seen.append(words))
    with pytest.raises(OptionError, match="is the scene itself and would be replaced"):
        detect_scene(model_file, scene, out=tmp_path, tile=64, overlap=0, device="cpu")
    assert scene.read_bytes() == before
    assert not seen, "found out before the first tile"


def test_a_submission_keeps_the_lines_of_other_scenes(tmp_path):
    for path, score in (("a.png", 0.9), ("b.png", 0.8), ("a.png", 0.7)):
        found(path, score, geo=None).save(tmp_path)
    rows = read_dota(tmp_path / "dota")
    assert dict(zip(rows.images.tolist(), rows.scores.round(3).tolist(), strict=True)) == {"b": 0.8, "a": 0.7}
    assert [Path(file).name for file in (tmp_path / "dota").iterdir()] == ["Task1_car.txt"]


def test_a_submission_keeps_classes_of_other_models(tmp_path):
    (tmp_path / "dota").mkdir()
    (tmp_path / "dota" / "Task1_ship.txt").write_text("old 0.5 0 0 1 0 1 1 0 1\n")
    found(geo=None).save(tmp_path)
    assert (tmp_path / "dota" / "Task1_ship.txt").read_text() == "old 0.5 0 0 1 0 1 1 0 1\n"
    assert len(read_dota(tmp_path / "dota").images) == 2
