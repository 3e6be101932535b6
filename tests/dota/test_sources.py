"""Finding images and labels, and the names of classes."""

from __future__ import annotations

import shutil

import pytest

from yolo_uncert.dota.sources import DOTA_CLASSES, class_names, find_scenes, read_scene
from yolo_uncert.options import OptionError

BOX = "0 0 10 0 10 5 0 5"


def names_of(scenes):
    return [(scene.split, scene.name, scene.labels is not None) for scene in scenes]


def test_dota_layout(filled):
    scenes = find_scenes(filled.root)
    assert names_of(scenes) == [
        ("train", "P0001", True),
        ("train", "P0002", True),
        ("val", "P0003", True),
        ("test", "P0004", False),
    ]
    assert len(read_scene(scenes[0]).classes) == 30
    assert len(read_scene(scenes[3]).classes) == 0


@pytest.mark.parametrize("labels", ["labels/{}_original", "labelTxt/{}"])
def test_folders_by_split(filled, tmp_path, labels):
    root = tmp_path / "flat"
    for split in ("train", "val", "test"):
        shutil.copytree(filled.root / split / "images", root / "images" / split)
    for split in ("train", "val"):
        shutil.copytree(filled.root / split / "labelTxt", root / labels.format(split))
    assert names_of(find_scenes(root)) == names_of(find_scenes(filled.root))


def test_files_without_partner_are_listed_and_left_out(dota, caplog):
    dota.scene("train", "P1", (20, 20), [])
    dota.image("train", "alone", (20, 20))
    for number in range(7):
        dota.labels("train", f"orphan{number}", [])
    (dota.root / "train" / "images" / "Thumbs.db").touch()
    assert names_of(find_scenes(dota.root)) == [("train", "P1", True)]
    assert "train: images without a label file, left out (1): alone" in caplog.text
    assert "without an image, left out (7): orphan0, orphan1, orphan2, orphan3, orphan4 and 2 more" in caplog.text


def test_missing_folders(dota, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no data set in DOTA's layout: expected one of\n.*labelTxt"):
        find_scenes(tmp_path / "nowhere")
    dota.image("train", "P1", (20, 20))
    with pytest.raises(
        FileNotFoundError, match=r"train has no label folder\. Looked for: .*labelTxt, .*train_original"
    ):
        find_scenes(dota.root)


def test_names_that_would_collide(dota):
    dota.scene("train", "P1", (20, 20), [])
    dota.image("train", "P1", (20, 20), "jpg")
    with pytest.raises(OptionError, match=r"P1\.jpg and P1\.png would give tiles of the same name"):
        find_scenes(dota.root)


def test_names_of_several_words(dota):
    dota.image("test", "P 1", (20, 20))
    with pytest.raises(OptionError, match=r"P 1\.png: the name of an image must be one word"):
        find_scenes(dota.root)


@pytest.mark.parametrize(
    ("found", "count"), [(["ship", "small-vehicle"], 15), (["container-crane"], 16), (["plane", "helipad"], 18)]
)
def test_the_oldest_version_of_dota_that_has_the_classes(dota, found, count):
    dota.scene("train", "P1", (20, 20), [f"{BOX} {name} 0" for name in found])
    assert class_names(find_scenes(dota.root)) == list(DOTA_CLASSES[:count])


def test_the_order_is_that_of_ultralytics():
    import yaml
    from ultralytics.utils import ROOT

    for file, count in (("DOTAv1.yaml", 15), ("DOTAv1.5.yaml", 16)):
        names = yaml.safe_load((ROOT / "cfg" / "datasets" / file).read_text())["names"]
        assert tuple(names.values()) == DOTA_CLASSES[:count]


def test_names_from_data_list_and_yaml(dota, tmp_path):
    dota.scene("train", "P1", (20, 20), [f"{BOX} wind-turbine 0", f"{BOX} car 0"])
    scenes = find_scenes(dota.root)
    assert class_names(scenes) == ["car", "wind-turbine"]
    assert class_names(scenes, "wind turbine, car,dam") == ["wind turbine", "car", "dam"]
    assert class_names(scenes, ["car", "wind turbine"]) == ["car", "wind turbine"]
    file = tmp_path / "my.yaml"
    file.write_text("names: {1: car, 0: wind turbine}")
    assert class_names(scenes, str(file)) == ["wind turbine", "car"]
    file.write_text("names: [wind turbine, car]")
    assert class_names(scenes, str(file)) == ["wind turbine", "car"]
    with pytest.raises(OptionError, match=r"P1\.txt: class '(car|wind-turbine)' is not among the names: plane, ship"):
        class_names(scenes, "dota.yaml")
    file.write_text("nc: 2")
    with pytest.raises(OptionError, match="has no names"):
        class_names(scenes, str(file))


@pytest.mark.parametrize("names", ["car,car", "small car,small-car", "car,"])
def test_names_that_are_none(dota, names):
    dota.scene("train", "P1", (20, 20), [f"{BOX} car 0"])
    with pytest.raises(OptionError, match="names must be different and not empty"):
        class_names(find_scenes(dota.root), names)


def test_no_object_and_no_names(dota):
    dota.scene("train", "P1", (20, 20), [])
    with pytest.raises(OptionError, match="the label files hold no object: name the classes with names="):
        class_names(find_scenes(dota.root))


def test_bad_lines_are_named(dota):
    dota.scene("train", "P1", (20, 20), [f"{BOX} ship 0", "0 0 10 0 10 5 0 ship 0"])
    with pytest.raises(
        ValueError, match=r"P1\.txt, line 4: expected 'x1 y1 .* difficult', got '0 0 10 0 10 5 0 ship 0'"
    ):
        class_names(find_scenes(dota.root))
