"""Datasets on disk: layout, truth, determinism, reuse."""

import json
import math
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from ultralytics.data import YOLODataset
from ultralytics.data.utils import check_det_dataset

from yolo_uncert.synthetic import SceneSpec, dataset, load_truth, make_dataset
from yolo_uncert.synthetic.shapes import corners

SPEC = SceneSpec(imgsz=96)
COUNTS = {"train": 6, "val": 3}
TASKS = ["detect", "obb"]


@pytest.fixture(scope="module", params=TASKS)
def made(request, tmp_path_factory):
    """Task and root of a small dataset."""
    root = tmp_path_factory.mktemp("scenes") / request.param
    make_dataset(root, request.param, COUNTS, SPEC)
    return request.param, root


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_labels(root, split, name):
    lines = (root / "labels" / split / name).with_suffix(".txt").read_text().splitlines()
    return np.array([[float(value) for value in line.split()] for line in lines])


def test_layout(made):
    _, root = made
    described = yaml.safe_load((root / "data.yaml").read_text())
    assert described == {
        "train": "images/train",
        "val": "images/val",
        "names": {0: "disc", 1: "plate", 2: "arrow"},
    }
    for split, count in COUNTS.items():
        assert len(list((root / "images" / split).glob("*.jpg"))) == count
        assert len(list((root / "labels" / split).glob("*.txt"))) == count
    assert cv2.imread(str(root / "images/train/000000.jpg")).shape == (96, 96, 3)
    assert not [path for path in root.parent.iterdir() if path != root]


@pytest.mark.parametrize("split", sorted(COUNTS))
def test_label_files_hold_the_noisy_boxes(made, split):
    task, root = made
    for name, objects in load_truth(root, split).items():
        labels = read_labels(root, split, name)
        assert labels.shape == (len(objects), 5 if task == "detect" else 9)
        assert labels[:, 0].tolist() == [item.cls for item in objects]
        assert labels[:, 1:].min() >= 0
        assert labels[:, 1:].max() <= 1
        for row, item in zip(labels[:, 1:] * 96, objects, strict=True):
            if task == "detect":
                cx, cy, w, h = row
                expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                np.testing.assert_allclose(item.label_box, expected, atol=2e-4)
            else:
                np.testing.assert_allclose(corners(item.label_box).ravel(), row, atol=1e-4)


def test_polygons_give_the_label_box_back(tmp_path):
    make_dataset(tmp_path / "obb", "obb", {"train": 30}, SPEC)
    for name, objects in load_truth(tmp_path / "obb", "train").items():
        labels = read_labels(tmp_path / "obb", "train", name)
        for row, item in zip(labels[:, 1:] * 96, objects, strict=True):
            (cx, cy), (w, h), degrees = cv2.minAreaRect(row.reshape(4, 2).astype(np.float32))
            np.testing.assert_allclose([cx, cy], item.label_box[:2], atol=0.01)
            np.testing.assert_allclose(sorted([w, h]), sorted(item.label_box[2:4]), atol=0.01)
            # A rectangle stays the same when it is turned by a quarter and its sides swap.
            turn = (math.radians(degrees) - item.label_box[4]) % (math.pi / 2)
            assert min(turn, math.pi / 2 - turn) < 1e-3


def test_truth_is_that_of_the_rendered_scenes(made):
    task, root = made
    rng = np.random.default_rng([0, zlib.crc32(b"val"), 2])
    scene = dataset.render_scene(rng, SPEC, task)
    assert load_truth(root, "val")["000002.jpg"] == scene.objects
    stored = cv2.imread(str(root / "images/val/000002.jpg")).astype(float)
    assert np.abs(stored - scene.image).mean() < 6


def test_truth_file_explains_itself(made):
    task, root = made
    truth = json.loads((root / "truth" / "val.json").read_text())
    assert truth["boxes"].startswith("[x1, y1, x2, y2]" if task == "detect" else "[cx, cy, w, h, angle]")
    assert set(truth["fields"]) == set(truth["images"]["000000.jpg"][0])


def test_ultralytics_reads_every_label(made, tmp_path):
    task, root = made
    moved = Path(shutil.copytree(root, tmp_path / "moved"))
    data = check_det_dataset(str(moved / "data.yaml"), autodownload=False)
    loaded = YOLODataset(img_path=data["train"], data=data, task=task, imgsz=96, augment=False)
    truth = load_truth(moved, "train")
    assert len(loaded) == len(truth)
    for entry in loaded.labels:
        objects = truth[entry["im_file"].replace("\\", "/").rsplit("/", 1)[1]]
        assert len(entry["cls"]) == len(objects)


def test_missing_split_is_an_error(made):
    with pytest.raises(FileNotFoundError):
        load_truth(made[1], "test")


@pytest.mark.parametrize("task", TASKS)
def test_larger_counts_keep_earlier_scenes(task, tmp_path):
    make_dataset(tmp_path / "small", task, {"train": 2, "val": 1}, SPEC)
    make_dataset(tmp_path / "large", task, {"val": 3, "train": 4}, SPEC)
    small, large = contents(tmp_path / "small"), contents(tmp_path / "large")
    shared = [name for name in small if name.startswith(("images", "labels"))]
    assert len(shared) == 2 * 3
    assert all(small[name] == large[name] for name in shared)
    assert small["images/train/000000.jpg"] != small["images/val/000000.jpg"]


def test_seeds_differ_and_repeat(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_dataset(tmp_path / name, counts={"train": 2}, spec=SPEC, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["images/train/000000.jpg"] != contents(tmp_path / "c")["images/train/000000.jpg"]


def test_an_identical_dataset_is_reused(tmp_path):
    path = make_dataset(tmp_path / "data", counts=COUNTS, spec=SPEC)
    marker = tmp_path / "data" / "labels" / "train.cache"
    marker.touch()
    assert make_dataset(tmp_path / "data", counts=COUNTS, spec=SPEC) == path == tmp_path / "data" / "data.yaml"
    assert marker.exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"task": "obb"}, "task"),
        ({"counts": {"train": 1}}, "counts"),
        ({"spec": SceneSpec(imgsz=64)}, "spec"),
    ],
)
def test_another_dataset_is_kept_unless_overwritten(change, named, tmp_path):
    arguments = {"task": "detect", "counts": {"train": 2}, "spec": SPEC, "seed": 0}
    make_dataset(tmp_path / "data", **arguments)
    before = contents(tmp_path / "data")
    with pytest.raises(FileExistsError, match=f"another {named}: pass overwrite=True"):
        make_dataset(tmp_path / "data", **arguments | change)
    assert contents(tmp_path / "data") == before
    make_dataset(tmp_path / "data", **arguments | change, overwrite=True)
    assert contents(tmp_path / "data") != before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folders_are_never_replaced(overwrite, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is no synthetic dataset"):
        make_dataset(tmp_path, counts={"train": 1}, spec=SPEC, overwrite=overwrite)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path):
    make_dataset(tmp_path / "new" / "data", counts={"train": 1}, spec=SPEC)
    (tmp_path / "empty").mkdir()
    make_dataset(tmp_path / "empty", counts={"train": 1}, spec=SPEC)
    assert contents(tmp_path / "empty") == contents(tmp_path / "new" / "data")


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("disk full")

    make_dataset(tmp_path / "data", counts={"train": 1}, spec=SPEC)
    before = contents(tmp_path)
    monkeypatch.setattr(dataset, "render_scene", fail)
    for name in ("data", "other"):
        with pytest.raises(RuntimeError, match="disk full"):
            make_dataset(tmp_path / name, counts={"train": 2}, spec=SPEC, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "segment"}, "task must be one of"),
        ({"counts": {}}, "counts must name at least one split"),
        ({"counts": {"train": 0}}, "at least one image"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_dataset(tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()


def test_scenes_without_objects_have_empty_labels(tmp_path):
    spec = SceneSpec(imgsz=96, objects=(0, 1))
    make_dataset(tmp_path / "data", counts={"train": 12}, spec=spec)
    truth = load_truth(tmp_path / "data", "train")
    empty = [name for name, objects in truth.items() if not objects]
    assert 0 < len(empty) < 12
    for name in empty:
        assert (tmp_path / "data" / "labels" / "train" / name).with_suffix(".txt").read_text() == ""
