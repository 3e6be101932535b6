"""Many scenes in one go."""

from __future__ import annotations

import gc
import weakref

import cv2
import numpy as np
import pytest

from yolo_uncert.cli import FAILURE, USAGE_ERROR, main
from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.evaluation import DotaDetections, read_dota
from yolo_uncert.functional.conformal import Conformal
from yolo_uncert.options import OptionError
from yolo_uncert.scenes import Georeference, SceneError, SceneResult, detect_scene, detect_scenes
from yolo_uncert.scenes import scan as scan_module
from yolo_uncert.scenes.finished import Finished
from yolo_uncert.scenes.several import list_scenes, names_several

OPTIONS = {"tile": 64, "overlap": 32, "conf": 1e-6, "device": "cpu"}

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")


@pytest.fixture
def folder(tmp_path):
    """Three scenes and what does not count: notes, a hidden file, a folder."""
    place = tmp_path / "scenes"
    (place / "deeper.png").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name in ("c.png", "a.png", "b b.PNG", "deeper.png/d.png"):
        cv2.imwrite(str(place / name), noise.integers(0, 255, (64, 96, 3), dtype=np.uint8))
    (place / "notes.md").write_text("-")
    (place / ".hidden.png").write_bytes(b"-")
    return place


@pytest.fixture
def looked_at(monkeypatch):
    """The tiles that are read."""
    seen, original = [], scan_module.read_tile
    monkeypatch.setattr(scan_module, "read_tile", lambda *words: seen.append(words) or original(*words))
    return seen


def same(first, second):
    assert (first.path, first.names, first.geo, first.tiles) == (second.path, second.names, second.geo, second.tiles)
    assert type(first.boxes) is type(second.boxes)
    assert first.boxes.orig_shape == second.boxes.orig_shape
    np.testing.assert_array_equal(first.boxes.data, second.boxes.data)
    assert first.boxes.fields.keys() == second.boxes.fields.keys()
    for name, values in first.boxes.fields.items():
        np.testing.assert_array_equal(values, second.boxes.fields[name])


def same_table(first, second):
    for column in ("images", "classes"):
        assert getattr(first, column).tolist() == getattr(second, column).tolist()
    np.testing.assert_allclose(first.scores, second.scores, rtol=1e-8)
    np.testing.assert_allclose(first.polygons, second.polygons, rtol=1e-8)


def test_what_a_source_names(folder):
    listing = folder / "list.txt"
    listing.write_text(f"a.png\n\n{folder / 'deeper.png' / 'd.png'}\n a.png \nnowhere.png\n")
    in_folder = [str(folder / name) for name in ("a.png", "b b.PNG", "c.png")]
    assert list_scenes(folder) == in_folder
    assert list_scenes(f"{folder}/[ac].*") == [in_folder[0], in_folder[2]]
    assert list_scenes(f"{folder}/**/*.png") == [in_folder[0], in_folder[2], str(folder / "deeper.png" / "d.png")]
    assert list_scenes(listing) == [in_folder[0], str(folder / "deeper.png" / "d.png"), "nowhere.png"]
    assert list_scenes(in_folder[0]) == in_folder[:1]
    assert list_scenes(iter([folder / "c.png", folder / "a.png"])) == [in_folder[2], in_folder[0]]


def test_which_sources_are_one_scene(folder, tmp_path):
    several = (folder, f"{folder}/*.png", folder / "list.txt")
    (folder / "list.txt").write_text("a.png")
    assert all(map(names_several, several))
    odd = tmp_path / "odd[1].png"
    odd.write_bytes(b"-")
    (tmp_path / "scene.SAFE").mkdir()  # GDAL reads some formats from folders
    one = (folder / "a.png", odd, "https://host/a.tif?x=[1]", "/vsizip/a*.zip/b.tif", tmp_path / "scene.SAFE", "no.tif")
    assert not any(map(names_several, one))


def test_sources_that_cannot_be(folder):
    with pytest.raises(FileNotFoundError, match="no such scene"):
        list_scenes(f"{folder}/*.jp2")
    (folder / "b_b.tif").write_bytes(b"-")
    with pytest.raises(OptionError, match=r"b b\.PNG and of .*b_b\.tif would have the same name"):
        list_scenes(folder)
    with pytest.raises(OptionError, match="dota must be True or False"):
        detect_scenes("no.pt", folder, dota="out")


@pytest.mark.parametrize("end", ["sigma", "pixels", "pixels-sigma", "epsg32633"])
def test_names_that_the_files_of_another_scene_have(folder, tmp_path, end):
    (folder / f"a-{end}.tif").write_bytes(b"-")
    with pytest.raises(OptionError, match=rf"a\.png and of .*a-{end}\.tif might have the same name"):
        detect_scenes("no.pt", folder, out=tmp_path / "out")
    assert len(list_scenes(folder)) == 4, "without files there is no clash"


def test_names_that_the_files_of_a_scene_have_with_an_end_of_their_own(folder, tmp_path):
    for end in ("pixels", "pixels-sigma"):
        (folder / f"e-{end}.tif").write_bytes(b"-")
    with pytest.raises(OptionError, match=r"e-pixels\.tif and of .*e-pixels-sigma\.tif might"):
        detect_scenes("no.pt", folder, out=tmp_path / "out")


def test_a_scene_without_the_bands_is_left_out(model_file, folder, tmp_path, caplog):
    cv2.imwrite(str(folder / "b b.PNG"), np.zeros((64, 96), np.uint8))
    with pytest.raises(SceneError, match=r"1 of 3 scenes could not be done: .*b b\.PNG"):
        list(detect_scenes(model_file, folder, out=tmp_path / "out", bands=(3, 2, 1), **OPTIONS))
    assert "bands must be one or three numbers from 1 to 1" in caplog.text
    assert set(read_dota(tmp_path / "out" / "dota").images) == {"a", "c"}


def test_a_submission_is_that_of_this_call_alone(model_file, folder, tmp_path):
    place = tmp_path / "out" / "dota"
    place.mkdir(parents=True)
    (place / "Task1_ship.txt").write_text("old 0.5 0 0 1 0 1 1 0 1\n")
    list(detect_scenes(model_file, folder, out=tmp_path / "out", **OPTIONS))
    assert "Task1_ship.txt" not in {file.name for file in place.iterdir()}
    (place / "Task1_disc.txt").write_text("my notes\n")
    with pytest.raises(OptionError, match="holds no results of DOTA"):
        detect_scenes(model_file, folder, out=tmp_path / "out", **OPTIONS)
    with pytest.raises(OptionError, match="holds no results of DOTA"):
        detect_scene(model_file, folder / "a.png", out=tmp_path / "out", **OPTIONS)
    assert (place / "Task1_disc.txt").read_text() == "my notes\n"


def test_each_scene_as_by_itself_and_one_submission(model_file, folder, tmp_path):
    out = tmp_path / "out"
    results = list(detect_scenes(model_file, folder, out=out, **OPTIONS))
    assert [result.name for result in results] == ["a", "b_b", "c"]
    for result in results:
        same(result, detect_scene(model_file, result.path, out=tmp_path / "single", **OPTIONS))
        for file in (f"{result.name}.jsonl", f"{result.name}-pixels.geojson"):
            assert (out / file).read_bytes() == (tmp_path / "single" / file).read_bytes()
    assert sum(map(len, results)) > 50
    names = {f"Task1_{name}.txt" for name in results[0].names.values()}
    assert {file.name for file in (out / "dota").iterdir()} == {name.replace(" ", "-") for name in names}
    table = DotaDetections.stack(result.dota() for result in results)
    order = np.argsort(table.classes, kind="stable")
    same_table(read_dota(out / "dota"), DotaDetections(*(values[order] for values in vars(table).values())))
    assert not list(out.glob("*.partial"))


def test_without_a_folder_or_a_submission(model_file, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(list(detect_scenes(model_file, [folder / "a.png"], **OPTIONS))) == 1
    assert not list(tmp_path.glob("*.jsonl"))
    result = detect_scene(model_file, folder / "a.png", out="one", dota=False, **OPTIONS)
    assert not (tmp_path / "one" / "dota").exists()
    same(result, *detect_scenes(model_file, [folder / "a.png"], out="many", dota=False, **OPTIONS))
    assert (tmp_path / "many" / "a.jsonl").exists()
    assert not (tmp_path / "many" / "dota").exists()


@pytest.mark.parametrize("again", [False, True])
def test_results_are_not_held(model_file, folder, tmp_path, again):
    if again:
        list(detect_scenes(model_file, folder, out=tmp_path / "out", **OPTIONS))
    held = []
    for result in detect_scenes(model_file, folder, out=tmp_path / "out", **OPTIONS):
        held.append(weakref.ref(result.boxes.data))
        gc.collect()
        assert [rows() is None for rows in held] == [*[True] * (len(held) - 1), False]
    assert len(held) == 3


def test_what_cannot_be_read_is_left_out(model_file, folder, tmp_path, caplog):
    (folder / "b b.PNG").write_bytes(b"no picture")
    (folder / "list.txt").write_text("a.png\nb b.PNG\nnowhere.png\nc.png")
    results, out = [], tmp_path / "out"
    with pytest.raises(SceneError, match=r"2 of 4 scenes could not be done: .*b b\.PNG, nowhere\.png"):
        results.extend(detect_scenes(model_file, folder / "list.txt", out=out, **OPTIONS))
    assert [result.name for result in results] == ["a", "c"]
    assert "source=nowhere.png: there is no such file" in caplog.text
    assert set(read_dota(out / "dota").images) == {"a", "c"}
    with pytest.raises(SceneError, match="1 of 1"):
        list(detect_scenes(model_file, ["nowhere.png"], out=tmp_path / "none", **OPTIONS))
    assert not (tmp_path / "none").exists()


def test_finished_scenes_are_not_done_again(model_file, folder, tmp_path, looked_at):
    out = tmp_path / "out"
    scenes = detect_scenes(model_file, folder, out=out, **OPTIONS)
    first = next(scenes)
    scenes.close()
    assert not (out / "dota").exists()
    assert len(looked_at) == 2
    results = list(detect_scenes(model_file, folder, out=out, **OPTIONS))
    assert len(looked_at) == 6
    same(results[0], first)
    whole = {file.name: file.read_bytes() for file in (out / "dota").iterdir()}
    written = {name: (out / f"{name}.jsonl").read_bytes() for name in "ac"}
    (out / "c.jsonl").unlink()
    (out / "a.jsonl").write_bytes(b"")
    for result, before in zip(detect_scenes(model_file, folder, out=out, **OPTIONS), results, strict=True):
        same(result, before)
    assert len(looked_at) == 6
    assert {name: (out / f"{name}.jsonl").read_bytes() for name in "ac"} == written, "again from what was kept"
    assert {file.name: file.read_bytes() for file in (out / "dota").iterdir()} == whole


def test_files_of_other_origin_are_found_before_the_first_scene(model_file, folder, tmp_path, looked_at):
    (tmp_path / "c.jsonl").write_text("mine")
    with pytest.raises(OptionError, match=r"c\.jsonl would be replaced"):
        detect_scenes(model_file, folder, out=tmp_path, **OPTIONS)
    assert not looked_at
    assert (tmp_path / "c.jsonl").read_text() == "mine"


def test_what_changed_is_done_again(model_file, folder, tmp_path, looked_at, caplog):
    out = tmp_path / "out"

    def tiles(**options):
        looked_at.clear()
        list(detect_scenes(model_file, folder, out=out, **{**OPTIONS, **options}))
        return len(looked_at)

    assert tiles() == 6
    assert tiles() == 0
    assert tiles(resume=False) == 6
    cv2.imwrite(str(folder / "a.png"), np.full((64, 96, 3), 9, np.uint8))
    assert tiles() == 2
    assert tiles(conf=1e-5) == 6
    (out / ".finished" / "c.safetensors").write_bytes(b"\0" * 100)
    assert tiles(conf=1e-5) == 2
    assert "Its scene is done again" in caplog.text


def test_a_scene_that_was_stopped_goes_on_within(model_file, folder, tmp_path, monkeypatch, looked_at):
    tall = np.random.default_rng(1).integers(0, 255, (192, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "c.png"), tall)
    original = scan_module.read_tile

    def stop(raster, tile, look):
        if tile.y1 == 64:
            raise KeyboardInterrupt
        return original(raster, tile, look)

    scenes = detect_scenes(model_file, folder, out=tmp_path / "out", **OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(scan_module, "read_tile", stop)
        with pytest.raises(KeyboardInterrupt):
            list(scenes)
    looked_at.clear()
    results = list(detect_scenes(model_file, folder, out=tmp_path / "out", **OPTIONS))
    assert [tile.y1 for _, tile, _ in looked_at] == [64, 96, 128]
    same(results[-1], detect_scene(model_file, folder / "c.png", **OPTIONS))


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("kind", [UncertBoxes, UncertOBB])
def test_a_result_survives_its_file(tmp_path, count, kind):
    columns = len(kind.coordinates)
    rows = np.random.default_rng(0).random((count, columns + 2)) * 100
    rows[:, -1] = 1
    # A view that is not contiguous, as indexing gives it.
    fields = {"std": np.asfortranarray(rows[:, :columns]), "cut": np.zeros(count)}
    conformal = Conformal.fit(np.array([[0.5, 1.0], [2.0, 0.1]]), np.ones((2, 2)))
    geo = Georeference((0.1, 0.0, 3.0, 0.0, -0.1, 7.0), "EPSG:32651")
    result = SceneResult("x/a.tif", {0: "car", 1: "bus"}, kind(rows, (70, 90), fields, conformal), geo, 5, 2)
    kept = Finished(tmp_path / "new" / "a.safetensors", {"conf": "0.1"})
    assert kept.load() is None
    kept.save(result)
    again = kept.load()
    same(again, result)
    assert again.empty_tiles == 2
    np.testing.assert_array_equal(again.boxes.conformal.scores, conformal.scores)
    assert Finished(kept.file, {"conf": "0.2"}).load() is None
    kept.remove()
    assert kept.load() is None


def test_the_command(model_file, folder, tmp_path, caplog):
    words = ["scene", f"model={model_file}", "tile=64", "overlap=32", "conf=1e-6", "device=cpu"]
    assert main([*words, f"source={folder}/*.png", f"out={tmp_path / 'out'}"]) == 0
    assert "boxes in 2 scenes" in caplog.text
    assert set(read_dota(tmp_path / "out" / "dota").images) == {"a", "c"}
    (folder / "c.png").write_bytes(b"no picture")
    assert main([*words, f"source={folder}", f"out={tmp_path / 'out'}", "dota=False"]) == FAILURE
    assert "1 of 3 scenes could not be done" in caplog.text
    assert "boxes, found by an earlier run" in caplog.text, "dota=False changes no result"
    assert main([*words, f"source={folder}/*.jp2", f"out={tmp_path / 'out'}"]) == USAGE_ERROR
