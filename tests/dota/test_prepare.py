"""Data sets in tiles: names, pixels, labels, flags, what a second run does, and that Ultralytics reads the result."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import shapely
import yaml
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_yolo_dataset
from ultralytics.data.split_dota import get_window_obj, get_windows
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import DEFAULT_CFG

from yolo_uncert.cli import main
from yolo_uncert.dota import DOTA_CLASSES, prepare_dota
from yolo_uncert.dota import prepare as module
from yolo_uncert.evaluation import read_dota_labels
from yolo_uncert.options import OptionError

BOX = "10 10 20 10 20 15 10 15"


def tiles_of(prepared, split="train", folder="images"):
    return sorted(file.stem for file in (prepared.data.parent / folder / split).iterdir())


def lines_of(prepared, tile, split="train", folder="labels"):
    return (prepared.data.parent / folder / split / f"{tile}.txt").read_text().splitlines()


# --- tiles ------------------------------------------------------------------------------------------------------------


def test_tiles_by_hand(dota, tmp_path):
    # 250 x 90 pixels in tiles of 100 that share 20: they begin at 0, 80 and, shifted inwards to end at 250, at 150. At
    # 0.4 of the size, 100 x 36 pixels, one tile has it all.
    dota.scene("train", "P1", (250, 90), [f"{BOX} ship 0"])
    prepared = prepare_dota(dota.root, tmp_path / "out", tile=100, overlap=20, scales=[1.0, 0.4], format="png")
    names = ["P1__0.4__0___0", "P1__1__0___0", "P1__1__150___0", "P1__1__80___0"]
    assert tiles_of(prepared) == tiles_of(prepared, folder="labels") == tiles_of(prepared, folder="labelTxt") == names
    scene = cv2.imread(str(dota.root / "train/images/P1.png"))
    folder = prepared.data.parent / "images/train"
    for x in (0, 80, 150):
        np.testing.assert_array_equal(cv2.imread(str(folder / f"P1__1__{x}___0.png")), scene[:, x : x + 100])
    small = cv2.resize(scene, (100, 36), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(cv2.imread(str(folder / "P1__0.4__0___0.png")), small)
    # The box 10..20 x 10..15 in a tile of 100 x 90, and as 4..8 x 4..6 in one of 100 x 36.
    whole = "1 0.100000 0.111111 0.200000 0.111111 0.200000 0.166667 0.100000 0.166667"
    small_box = "1 0.040000 0.111111 0.080000 0.111111 0.080000 0.166667 0.040000 0.166667"
    assert lines_of(prepared, "P1__1__0___0") == [whole]
    assert lines_of(prepared, "P1__0.4__0___0") == [small_box]
    assert lines_of(prepared, "P1__1__80___0") == []
    assert lines_of(prepared, "P1__1__0___0", folder="labelTxt") == ["10 10 20 10 20 15 10 15 ship 0"]


# Boxes 100 px long that end 31, 30 and 29 px beyond the first tile's border at 200: 69, 70 and 71 of 100 are inside.
# The second tile begins at 160 (and ends with the scene at 360) and sees 71, 70 and 69 of them.
@pytest.mark.parametrize(("begin", "first", "second"), [(131, False, True), (130, True, True), (129, True, False)])
def test_seven_tenths_are_enough(dota, tmp_path, begin, first, second):
    dota.scene("train", "P1", (360, 60), [f"{begin} 20 {begin + 100} 20 {begin + 100} 30 {begin} 30 ship 1"])
    prepared = prepare_dota(dota.root, tmp_path / "out", tile=200, overlap=40)
    assert tiles_of(prepared) == ["P1__1__0___0", "P1__1__160___0"]
    for x, kept in ((0, first), (160, second)):
        labels = lines_of(prepared, f"P1__1__{x}___0")
        assert len(labels) == kept
        (line,) = lines_of(prepared, f"P1__1__{x}___0", folder="labelTxt")
        assert line.endswith(" ship 1" if kept else " ship 2"), "what is cut away is not to be found, nor wrong"
        low, high = (begin, 200) if x == 0 else (0, begin + 100 - 160)
        if kept:
            found = np.array(labels[0].split()[1:], float).reshape(4, 2) * (200, 60)
            np.testing.assert_allclose(
                sorted(map(tuple, found)), [(low, 20), (low, 30), (high, 20), (high, 30)], atol=1e-3
            )
    n = prepared.counts["train"]
    assert (n["labels"], n["cut"], n["away"], n["lost"]) == (first + second, first + second, 2 - first - second, 0)


def test_an_object_that_no_tile_shows_is_counted(dota, tmp_path):
    dota.scene("train", "P1", (300, 300), ["0 100 300 100 300 120 0 120 bridge 0", "5 5 9 9 5 5 9 9 ship 0"])
    prepared = prepare_dota(dota.root, tmp_path / "out", tile=100, overlap=0)
    assert (prepared.counts["train"]["lost"], prepared.counts["train"]["labels"]) == (2, 0)
    assert "2 objects in no tile" in prepared.summary()


def test_difficult_objects(dota, tmp_path):
    dota.scene("train", "P1", (50, 50), [f"{BOX} ship 0", "30 30 40 30 40 40 30 40 plane 1"])
    kept = prepare_dota(dota.root, tmp_path / "keep")
    dropped = prepare_dota(dota.root, tmp_path / "drop", difficult="drop")
    assert [line[0] for line in lines_of(kept, "P1__1__0___0")] == ["1", "0"]
    assert [line[0] for line in lines_of(dropped, "P1__1__0___0")] == ["1"]
    for prepared in (kept, dropped):
        truth = read_dota_labels(prepared.data.parent / "labelTxt" / "train")
        assert truth.difficult.tolist() == [False, True], "evaluation needs the flags of all"
        assert (prepared.counts["train"]["difficult"], prepared.counts["train"]["lost"]) == (1, 0)


def test_background(dota, tmp_path):
    for split in ("train", "val"):
        dota.scene(split, "P1", (240, 240), [f"{BOX} ship 0"])
    none, half = (
        prepare_dota(dota.root, tmp_path / f"{share}", tile=40, overlap=0, background=share) for share in (0, 0.5)
    )
    assert tiles_of(none) == ["P1__1__0___0"]
    assert "1 tiles (0 without labels, 35 more left out)" in none.summary()
    assert len(tiles_of(none, "val")) == 36, "validation sees all"
    n = half.counts["train"]
    assert 9 <= n["tiles"] <= 27, "about half of 36"
    assert n["tiles"] + n["without_dropped"] == 36


def test_test_images_need_no_labels(filled, tmp_path):
    prepared = prepare_dota(filled.root, tmp_path / "out", tile=100, overlap=20)
    assert tiles_of(prepared, "test") == ["P0004__1__0___0", "P0004__1__30___0"]
    assert not (prepared.data.parent / "labels" / "test").exists()
    assert yaml.safe_load(prepared.data.read_text())["test"] == "images/test"
    assert "test: 1 scenes, 2 tiles\n" in prepared.summary()


@pytest.mark.parametrize("tile", [64, 100])
def test_tiles_and_objects_are_those_of_ultralytics(filled, tmp_path, tile):
    """Its split_dota has the same windows, and asks shapely which objects are in them."""
    prepared = prepare_dota(filled.root, tmp_path / "out", tile=tile, overlap=20)
    truth = read_dota_labels(filled.root / "train/labelTxt/P0001.txt")
    windows = get_windows((220, 300), (tile,), (20,))
    rows = np.column_stack((np.arange(30), truth.polygons.reshape(-1, 8) / np.tile((300, 220), 4)))
    kept = get_window_obj({"ori_size": (220, 300), "label": rows}, windows)
    names = [f"P0001__1__{x}___{y}" for x, y, *_ in windows.tolist()]
    assert set(names) == {name for name in tiles_of(prepared) if name.startswith("P0001")}
    for name, objects in zip(names, kept, strict=True):
        theirs = [DOTA_CLASSES.index(truth.classes[int(row[0])].replace("-", " ")) for row in objects]
        assert [int(line.split()[0]) for line in lines_of(prepared, name)] == theirs
    assert sum(map(len, kept)) > 20


# --- what Ultralytics reads -------------------------------------------------------------------------------------------


def test_ultralytics_reads_boxes_that_lie_on_the_originals(filled, tmp_path):
    prepared = prepare_dota(filled.root, tmp_path / "out", tile=128, overlap=40, scales=[0.5, 1.0])
    data = check_det_dataset(str(prepared.data))
    assert list(data["names"].values()) == list(DOTA_CLASSES[:15])
    config = get_cfg(DEFAULT_CFG, {"task": "obb", "imgsz": 128})
    seen = {}
    for split in ("train", "val"):
        dataset = build_yolo_dataset(config, data[split], 8, data, mode="val", rect=False)
        assert len(dataset) == prepared.counts[split]["tiles"], "none is dropped as damaged"
        for label in dataset.labels:
            assert len(label["cls"]) == len(label["segments"])
            seen[label["im_file"]] = label
    total = 0
    for file, label in seen.items():
        stem = file.replace("\\", "/").split("/")[-1].removesuffix(".jpg")
        name, scale, x, y = stem.replace("___", "__").split("__")
        split = "val" if name == "P0003" else "train"
        truth = read_dota_labels(filled.root / split / "labelTxt" / f"{name}.txt")
        height, width = label["shape"]
        for number, corners in zip(label["cls"].ravel(), label["segments"], strict=True):
            total += 1
            back = shapely.Polygon((corners * (width, height) + (int(x), int(y))) / float(scale))
            same = truth.classes == DOTA_CLASSES[int(number)].replace(" ", "-")
            originals = [shapely.Polygon(quad) for quad in truth.polygons[same]]
            best = max(back.intersection(o).area / back.union(o).area for o in originals)
            assert best > 0.6, "70 % of the original, in the smallest rectangle around it"
    assert total == sum(n["labels"] for n in prepared.counts.values()) > 80


def test_a_batch_has_the_angles_of_the_labels(filled, tmp_path):
    prepared = prepare_dota(filled.root, tmp_path / "out", tile=1024, names="dota.yaml")
    data = check_det_dataset(str(prepared.data))
    dataset = build_yolo_dataset(get_cfg(DEFAULT_CFG, {"task": "obb", "imgsz": 256}), data["val"], 1, data, mode="val")
    boxes = dataset[0]["bboxes"].numpy()
    truth = read_dota_labels(filled.root / "val/labelTxt")
    assert len(boxes) == 30
    assert len(truth.classes) == 30, "small as the scene is, it is one tile with all of them"
    size = np.array([250, 130])
    centres = np.sort(truth.polygons.mean(1)[:, 0])
    scale = 256 / 250
    found = np.sort(boxes[:, 0] * dataset[0]["resized_shape"][1])
    pad = (dataset[0]["resized_shape"][1] - round(size[0] * scale)) / 2
    np.testing.assert_allclose((found - pad) / scale, centres, atol=0.3)


# --- again ------------------------------------------------------------------------------------------------------------


def test_a_stopped_run_continues(filled, tmp_path, monkeypatch):
    out, cut, done = tmp_path / "out", module.cut_scene, []

    def stop_at_the_second(scene, *rest):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(scene.name)
        return cut(scene, *rest)

    monkeypatch.setattr(module, "cut_scene", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_dota(filled.root, out, tile=100, overlap=20)
    assert not (out / "data.yaml").exists()
    monkeypatch.setattr(module, "cut_scene", lambda scene, *rest: (done.append(scene.name), cut(scene, *rest))[1])
    continued = prepare_dota(filled.root, out, tile=100, overlap=20)
    assert done == ["P0001", "P0002", "P0003", "P0004"]
    fresh = prepare_dota(filled.root, tmp_path / "fresh", tile=100, overlap=20)
    assert continued.counts == fresh.counts
    files = {file.relative_to(out): file for file in out.rglob("*") if file.is_file() and "records" not in file.parts}
    assert files.keys() == {
        file.relative_to(tmp_path / "fresh")
        for file in (tmp_path / "fresh").rglob("*")
        if file.is_file() and "records" not in file.parts
    }
    for name, file in files.items():
        assert file.read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_a_changed_scene_is_cut_again_and_a_lost_one_taken_away(filled, tmp_path):
    out = tmp_path / "out"
    prepare_dota(filled.root, out, tile=100, overlap=20)
    filled.scene("train", "P0002", (60, 60), [f"{BOX} plane 0", f"{BOX} ship 0"])
    (filled.root / "train/images/P0001.png").unlink()
    (filled.root / "train/labelTxt/P0001.txt").unlink()
    before = (out / "images/val/P0003__1__0___0.jpg").stat().st_mtime_ns
    again = prepare_dota(filled.root, out, tile=100, overlap=20)
    assert tiles_of(again) == tiles_of(again, folder="labels") == ["P0002__1__0___0"]
    assert again.counts["train"]["objects"] == 2
    assert [file.name for file in (out / "records/train").iterdir()] == ["P0002.json"]
    assert (out / "images/val/P0003__1__0___0.jpg").stat().st_mtime_ns == before


def test_other_options_need_another_folder(filled, tmp_path):
    prepare_dota(filled.root, tmp_path / "out", tile=100, overlap=20, scales=1)
    prepare_dota(filled.root, tmp_path / "out", tile=100, overlap=20, scales=[1.0])
    with pytest.raises(OptionError, match="holds tiles that were made with another overlap, tile: choose another"):
        prepare_dota(filled.root, tmp_path / "out", tile=128, overlap=30)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    with pytest.raises(OptionError, match="holds something else"):
        prepare_dota(filled.root, tmp_path / "full")


def test_nothing_is_written_when_a_label_is_wrong(filled, tmp_path):
    filled.labels("val", "P0003", ["1 2 3 4 5 6 7 x ship 0"])
    with pytest.raises(ValueError, match=r"P0003\.txt, line 3"):
        prepare_dota(filled.root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unreadable_image(filled, tmp_path):
    (filled.root / "train/images/P0002.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"P0002\.png is no image that can be read"):
        prepare_dota(filled.root, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 100, "overlap": 100}, r"overlap must be less than tile \(100\), not 100"),
        ({"tile": 0}, "tile must be at least 1"),
        ({"scales": [1.0, 0.0]}, "scales must be different numbers above 0"),
        ({"scales": [1.0, 1]}, "scales must be different"),
        ({"area": 1.2}, "area must be at most 1"),
        ({"difficult": "ignore"}, "difficult is 'ignore'. Allowed: keep, drop"),
        ({"background": -1}, "background must be at least 0"),
        ({"gap": 200}, "prepare: unknown option 'gap'"),
        ({"format": "gif"}, "format is 'gif'"),
    ],
)
def test_wrong_options(filled, tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        prepare_dota(filled.root, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# --- command ----------------------------------------------------------------------------------------------------------


def test_command(filled, capsys):
    assert main(["prepare", f"source={filled.root}", "tile=100", "overlap=20", "scales=0.5,1.0", "area=0.6"]) == 0
    shown = capsys.readouterr().out
    assert "train: 2 scenes" in shown
    assert "15 classes; data=" in shown
    out = filled.root.with_name("DOTA-tiles")
    recipe = json.loads((out / "prepare.json").read_text())
    assert (recipe["scales"], recipe["area"], recipe["tile"]) == ([0.5, 1.0], 0.6, 100)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "source= is missing: a folder with the images and labelTxt"),
        (["source=/nowhere"], "/nowhere is no data set in DOTA's layout"),
        (["source=/nowhere", "epochs=3"], "prepare: unknown option 'epochs'"),
    ],
)
def test_wrong_commands(words, message, caplog):
    assert main(["prepare", *words]) == 2
    assert message in caplog.text
