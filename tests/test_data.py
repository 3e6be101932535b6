"""Where the local copy of a data set is looked for, and what Ultralytics gets to read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from yolo_uncert.data import data_name, resolve_data
from yolo_uncert.paths import find_asset, list_assets

CITY = """
local: city
source: |
  Get it from https://example.org.
train: images/train
val: images/val
names: {0: plane}
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A working directory with city.yaml, an empty cache, and no data root set anywhere."""
    from ultralytics.utils import SETTINGS

    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("YOLO_UNCERT_DATA", raising=False)
    monkeypatch.setitem(SETTINGS, "datasets_dir", str(tmp_path / "ultralytics"))
    Path("city.yaml").write_text(CITY)
    return tmp_path


def _read(path: str) -> dict:
    return yaml.safe_load(Path(path).read_text())


def test_the_resolved_yaml_is_an_ordinary_one_with_an_absolute_path(world):
    (world / "root/city").mkdir(parents=True)
    resolved = resolve_data("city", root=world / "root")
    assert _read(resolved) == {
        "path": str(world / "root/city"),
        "train": "images/train",
        "val": "images/val",
        "names": {0: "plane"},
    }
    assert Path(resolved).parent == world / "cache/yolo-uncert/data"


def test_a_resolved_yaml_goes_by_the_name_of_the_shipped_one(world):
    (world / "datasets/city").mkdir(parents=True)
    resolved = resolve_data("city", root=world / "datasets")
    assert data_name(resolved) == data_name("city.yaml") == "city.yaml"
    assert data_name("a/city-2024.yaml") == "city-2024.yaml"


def test_a_resolved_yaml_whose_cache_was_emptied_is_made_again(world):
    (world / "cwd/datasets/city").mkdir(parents=True)
    resolved = resolve_data("city")
    Path(resolved).unlink()
    assert resolve_data(resolved) == resolved
    assert _read(resolved)["path"] == str(world / "cwd/datasets/city")
    (world / "cwd/datasets").rename(world / "moved")
    assert _read(resolve_data(resolved, world / "moved"))["path"] == str(world / "moved/city")
    with pytest.raises(FileNotFoundError, match="town-0123456789ab"):
        resolve_data("gone/town-0123456789ab.yaml")


def test_the_places_are_searched_in_the_documented_order(world, monkeypatch):
    monkeypatch.setenv("YOLO_UNCERT_DATA", str(world / "env"))
    for place in ("ultralytics", "cwd/datasets", "env", "root"):  # the last one made comes first in the order
        (world / place / "city").mkdir(parents=True)
        root = world / "root" if place == "root" else None
        assert _read(resolve_data("city.yaml", root))["path"] == str(world / place / "city")


def test_a_root_that_was_asked_for_is_the_only_place(world, monkeypatch):
    monkeypatch.setenv("YOLO_UNCERT_DATA", str(world / "env"))
    (world / "env/city").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="root/city"):
        resolve_data("city.yaml", root=world / "root")


def test_a_relative_root_becomes_absolute(world):
    (world / "cwd/sets/city").mkdir(parents=True)
    assert _read(resolve_data("city.yaml", root="sets"))["path"] == str(world / "cwd/sets/city")


def test_missing_data_says_what_to_get_and_which_variable_to_set(world):
    with pytest.raises(FileNotFoundError) as error:
        resolve_data("city.yaml")
    message = str(error.value)
    assert "Get it from https://example.org." in message
    assert "YOLO_UNCERT_DATA" in message
    assert "data_root=" in message
    assert f"{world}/cwd/datasets/city, {world}/ultralytics/city" in message


def test_the_same_content_is_the_same_file_and_other_content_another(world):
    for place in ("a", "b"):
        (world / place / "city").mkdir(parents=True)
    first = resolve_data("city.yaml", world / "a")
    assert resolve_data("city.yaml", world / "a") == first
    assert resolve_data("city.yaml", world / "b") != first
    assert len(list((world / "cache/yolo-uncert/data").iterdir())) == 2  # and no temporary file stays behind


def test_an_unwritable_cache_falls_back_to_a_temporary_folder(world, monkeypatch):
    (world / "root/city").mkdir(parents=True)
    (world / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(world / "file"))  # no folder below a file, not even for root
    resolved = resolve_data("city.yaml", world / "root")
    assert _read(resolved)["path"] == str(world / "root/city")
    assert world not in Path(resolved).parents


def test_the_own_yaml_of_a_user_is_left_alone(world):
    Path("mine.yaml").write_text("train: a\nval: b\nnames: [x]\n")
    assert resolve_data("mine.yaml") == "mine.yaml"
    assert resolve_data(world / "cwd/mine.yaml") == str(world / "cwd/mine.yaml")
    assert not (world / "cache").exists()


@pytest.mark.parametrize("name", ["coco8.yaml", "coco8", "DOTAv1.5", "https://example.org/a.zip", "folder", "sets.zip"])
def test_what_ultralytics_reads_itself_is_left_alone(world, name):
    Path("folder").mkdir()
    Path("sets.zip").touch()
    assert resolve_data(name) == name


def test_an_unknown_name_is_an_error_with_suggestions(world):
    with pytest.raises(FileNotFoundError, match=r"no data yaml named 'hituva'\. Did you mean hituav\.yaml"):
        resolve_data("hituva")


@pytest.mark.parametrize("name", list_assets("data"))
def test_every_shipped_yaml_says_where_its_data_comes_from(world, name):
    spec = _read(find_asset(name, "data"))
    assert {"local", "source", "train", "val", "names"} <= spec.keys()
    assert list(spec["names"]) == list(range(len(spec["names"])))
    assert "https://" in spec["source"] or "http://" in spec["source"]
    with pytest.raises(FileNotFoundError, match=f"Put it in a folder named '{spec['local']}'"):
        resolve_data(name)


@pytest.mark.parametrize("name", list_assets("data"))
def test_real_data_is_found_and_accepted_by_ultralytics(shared_data, monkeypatch, tmp_path, name):
    from ultralytics.data.utils import check_det_dataset

    spec = _read(find_asset(name, "data"))
    folder = shared_data / spec["local"]
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    checked = check_det_dataset(resolve_data(name, shared_data), autodownload=False)
    assert checked["names"] == _read(folder / "data.yaml")["names"]
    assert Path(checked["val"]).is_dir()


@pytest.mark.parametrize("name", ["hituav", "voc07"])
def test_splits_are_those_of_the_lists(shared_data, name):
    listed = (Path(__file__).parents[1] / f"experiments/splits/{name}.txt").read_text(encoding="utf-8").split()
    images = shared_data / name / "images"
    if not images.is_dir():
        pytest.skip(f"no {images}")
    assert sorted(listed) == sorted(f"{file.parent.name}/{file.name}" for file in images.glob("*/*.jpg"))
