"""Runs that are stopped, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_uncert import YOLO
from yolo_uncert.cli import main
from yolo_uncert.options import OptionError
from yolo_uncert.scenes import SceneResult, detect_scene
from yolo_uncert.scenes import scan as scan_module
from yolo_uncert.scenes.progress import STATE, Progress, model_digest, source_stamp

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")

OPTIONS = {"tile": 64, "overlap": 32, "conf": 1e-6, "device": "cpu", "var_vote": True}


@pytest.fixture
def picture(tmp_path):
    """A scene of 5 rows of 2 tiles."""
    path = tmp_path / "scene.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (192, 96, 3), dtype=np.uint8))
    return path


def same(first, second):
    assert first.boxes.data.tobytes() == second.boxes.data.tobytes()
    assert first.boxes.fields.keys() == second.boxes.fields.keys()
    for name, values in first.boxes.fields.items():
        assert values.tobytes() == second.boxes.fields[name].tobytes(), name
    assert (first.tiles, first.empty_tiles) == (second.tiles, second.empty_tiles)


def stop_at(monkeypatch, row):
    """Fail with the first tile of a row; return the number of tiles that are looked at."""
    seen = []

    def read(raster, tile, look):
        if row is not None and tile.y1 == 32 * row:
            raise KeyboardInterrupt
        seen.append(tile)
        return original(raster, tile, look)

    original = scan_module.read_tile
    monkeypatch.setattr(scan_module, "read_tile", read)
    return seen


def partial(out):
    return out / ".scene.partial"


@pytest.mark.parametrize("row", [1, 2, 4])
def test_a_stopped_run_goes_on_to_the_same_result(model_file, picture, tmp_path, monkeypatch, caplog, row):
    whole = detect_scene(model_file, picture, **OPTIONS)
    assert len(whole) > 20
    with monkeypatch.context() as patch:
        stop_at(patch, row)
        with pytest.raises(KeyboardInterrupt):
            detect_scene(model_file, picture, out=tmp_path / "out", **OPTIONS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".scene.partial"]
    seen = stop_at(monkeypatch, None)
    result = detect_scene(model_file, picture, out=tmp_path / "out", **OPTIONS)
    same(result, whole)
    assert f"going on after {row} of 5 rows of tiles" in caplog.text
    assert len(seen) == 2 * (5 - row)
    assert not partial(tmp_path / "out").exists()
    assert (tmp_path / "out" / "scene-pixels.geojson").exists()


def test_a_run_that_only_failed_to_write_its_files_looks_at_no_tile_again(model_file, picture, tmp_path, monkeypatch):
    whole = detect_scene(model_file, picture, **OPTIONS)

    def full(self, folder, **options):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SceneResult, "save", full)
        with pytest.raises(OSError, match="no space left"):
            detect_scene(model_file, picture, out=tmp_path, **OPTIONS)
    seen = stop_at(monkeypatch, None)
    same(detect_scene(model_file, picture, out=tmp_path, **OPTIONS), whole)
    assert not seen


def test_the_rest_of_a_scene_is_empty(model_file, write_tif, tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(1, 255, (3, 192, 96), dtype=np.uint8)
    values[:, 64:] = 0
    path = write_tif(values, nodata=0)
    whole = detect_scene(model_file, path, **OPTIONS)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            detect_scene(model_file, path, out=tmp_path, **OPTIONS)
    same(detect_scene(model_file, path, out=tmp_path, **OPTIONS), whole)


@pytest.fixture
def stopped(model_file, picture, tmp_path, monkeypatch):
    """The folder of a run that stopped in its third row."""
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            detect_scene(model_file, picture, out=tmp_path, **OPTIONS)
    assert partial(tmp_path).exists()
    return tmp_path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"overlap": 33}, "overlap was 32, is 33"),
        ({"conf": 1e-5}, "conf was 1e-06, is 1e-05"),
        ({"bands": (3, 2, 1)}, "bands was [1, 2, 3], is [3, 2, 1]"),
        ({"classes": [0]}, "classes was not given, is [0]"),
        ({"batch": 1, "iou": 0.6}, "batch was 4, is 1; iou was not given, is 0.6"),
    ],
)
def test_another_run_starts_over_and_says_why(model_file, picture, stopped, monkeypatch, caplog, change, told):
    seen = stop_at(monkeypatch, None)
    options = {**OPTIONS, **change}
    result = detect_scene(model_file, picture, out=stopped, **options)
    assert len(seen) == result.tiles
    assert "is of another run" in caplog.text
    assert told in caplog.text
    assert not partial(stopped).exists()


def test_another_model_or_scene_starts_over(tiny, model_file, picture, stopped, monkeypatch, caplog):
    os.utime(picture, ns=(0, 1))
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            detect_scene(model_file, picture, out=stopped, **OPTIONS)
    assert "another run: source was" in caplog.text
    other = stopped / "other.pt"
    YOLO(tiny.yaml("obb")).save(other)
    with monkeypatch.context() as patch:
        seen = stop_at(patch, None)
        detect_scene(other, picture, out=stopped, **OPTIONS)
    assert "another run: model was" in caplog.text
    assert len(seen) == 10


def test_starting_over_on_request(model_file, picture, stopped, monkeypatch):
    seen = stop_at(monkeypatch, None)
    detect_scene(model_file, picture, out=stopped, resume=False, **OPTIONS)
    assert len(seen) == 10
    with pytest.raises(OptionError, match="resume must be True or False"):
        detect_scene(model_file, picture, out=stopped, resume="out", **OPTIONS)


@pytest.mark.parametrize("name", [STATE, "row-00000.safetensors"])
def test_damaged_progress_starts_over(model_file, picture, stopped, monkeypatch, caplog, name):
    (partial(stopped) / name).write_bytes(b"\0" * 100)
    seen = stop_at(monkeypatch, None)
    detect_scene(model_file, picture, out=stopped, **OPTIONS)
    assert len(seen) == 10
    assert "cannot be read" in caplog.text


def test_a_row_that_was_not_kept_completely_is_looked_at_again(rectangles, look_at, blank_scene, tmp_path, monkeypatch):
    image = blank_scene(100, 500, [(20, y, 60, y + 30) for y in range(10, 460, 50)])
    whole = look_at(rectangles(), image, 100, 40)
    write, calls = scan_module.Progress.save, []

    def fail(self, state):
        calls.append(state.rows)
        if len(calls) == 3:  # the part of the row is there, its state is not
            monkeypatch.setattr("yolo_uncert.scenes.progress.STATE", "elsewhere")
            write(self, state)
            raise KeyboardInterrupt
        write(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "save", fail)
        with pytest.raises(KeyboardInterrupt):
            look_at(rectangles(), image, 100, 40, progress=Progress(tmp_path / "kept", {}))
    monkeypatch.undo()
    assert (tmp_path / "kept" / "row-00002.safetensors").exists()
    finder = rectangles()
    same(look_at(finder, image, 100, 40, progress=Progress(tmp_path / "kept", {})), whole)
    assert finder.seen == whole.tiles - 2


def test_hashes_of_models(tiny, model_file, tmp_path):
    copy = tmp_path / "copy.pt"
    copy.write_bytes(model_file.read_bytes())
    assert model_digest(YOLO(copy)) == model_digest(YOLO(model_file))
    first = YOLO(tiny.yaml("detect"))
    assert model_digest(first) == model_digest(first)
    assert model_digest(first) != model_digest(YOLO(tiny.yaml("detect"))), "other weights"


def test_stamps_of_scenes(tmp_path):
    image = np.zeros((4, 5, 3), np.uint8)
    before = source_stamp(image)
    image[0, 0] = 1
    assert source_stamp(image) != before
    assert source_stamp("NETCDF:a.nc:red") == "NETCDF:a.nc:red"
    (tmp_path / "a.tif").write_bytes(b"123")
    assert source_stamp(tmp_path / "a.tif").startswith(f"{tmp_path / 'a.tif'} of 3 bytes")


def test_stamps_hold_all_files_of_a_scene(write_tif, tmp_path):
    copy = pytest.importorskip("rasterio.shutil").copy
    path = write_tif(np.zeros((1, 20, 30), np.uint8))
    before = source_stamp(path)
    assert source_stamp(path) == before
    (tmp_path / "scene.tfw").write_text("1\n0\n0\n-1\n500000\n0\n")
    placed = source_stamp(path)
    assert placed != before, "a file that says where it lies"
    assert "scene.tfw" in placed
    (tmp_path / "scene.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MAXIMUM">0</MDI></Metadata></PAMRasterBand>'
        "</PAMDataset>"
    )
    assert source_stamp(path) == placed, "QGIS has looked at it"
    (tmp_path / "scene.tif.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:32633</SRS><GeoTransform>5e5, 1, 0, 5e6, 0, -1</GeoTransform></PAMDataset>"
    )
    assert "EPSG:32633" in source_stamp(path), "where it lies"
    copy(path, tmp_path / "mosaic.vrt", driver="VRT")
    mosaic = source_stamp(tmp_path / "mosaic.vrt")
    write_tif(np.ones((1, 20, 30), np.uint8))
    assert source_stamp(tmp_path / "mosaic.vrt") != mosaic, "another image under the mosaic"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_killed_command_goes_on(model_file, tmp_path, caplog):
    scene = tmp_path / "scene.png"
    cv2.imwrite(str(scene), np.random.default_rng(0).integers(0, 255, (1024, 96, 3), dtype=np.uint8))
    words = ["scene", f"model={model_file}", f"source={scene}", *(f"{name}={value}" for name, value in OPTIONS.items())]
    code = "import torch, sys; torch.set_num_threads(1); from yolo_uncert.cli import main; main(sys.argv[1:])"
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words, f"out={out}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    ) as process:
        while process.poll() is None and len(list(partial(out).glob("row-*"))) < 3:
            time.sleep(0.01)
        process.kill()
    assert partial(out).exists(), "it was stopped before its end"
    assert not list(out.glob("*.geojson"))
    assert main([*words, f"out={out}"]) == 0
    assert "going on after" in caplog.text
    assert main([*words, f"out={tmp_path / 'whole'}"]) == 0
    files = sorted(path.relative_to(out) for path in out.rglob("*.*") if path.suffix != ".gpkg")
    assert len(files) > 4
    for file in files:
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    assert not partial(out).exists()
