"""Evaluations by the rules of COCO and DOTA as the validator runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_uncert import YOLO
from yolo_uncert.engine.standards import exact_table, image_names
from yolo_uncert.evaluation import DotaDetections, DotaTruth, evaluate_dota, read_dota, read_dota_labels

QUIET = {"imgsz": 64, "batch": 8, "plots": False, "device": "cpu", "workers": 0, "name": "val", "exist_ok": True}


def measured(folder):
    return json.loads((folder / "val" / "uncertainty.json").read_text(encoding="utf-8"))


def test_names_of_images():
    assert image_names(["/a/x 1.jpg", "/a/y.png"]) == ["x_1", "y"]
    assert image_names(["/a/b/x.jpg", "/a/c/x.jpg"]) == ["b_x", "c_x"]
    assert image_names(["/a/shot 1.jpg", "/a/shot_1.jpg", "/a/y.jpg"]) == ["shot_1", "shot_1-2", "y"]
    assert image_names(["/a/x.jpg", "/a/x.png", "/a/x-2.jpg"]) == ["x", "x-2", "x-2-2"]
    relative, absolute = image_names(["b/x.jpg", str(Path("c/x.jpg").resolve())])
    assert (relative, absolute) == ("b_x", "c_x")


def test_coco_numbers_are_those_of_pycocotools(tiny, tmp_path, caplog):
    data = tiny.data("detect")
    YOLO(tiny.weights("detect")).val(data=str(data), project=str(tmp_path), save_json=True, **QUIET)
    written = measured(tmp_path)
    found = {**written["COCO precision"]["all"], **written["COCO recall"]["all"]}
    assert "AP_small" in "\n".join(caplog.messages)
    labels = sorted((data.parent / "labels" / "val").glob("*.txt"))
    ids = {file.stem: number for number, file in enumerate(labels, 1)}
    objects = [(ids[f.stem], *map(float, line.split())) for f in labels for line in f.read_text().splitlines()]
    annotations = [
        {"id": k, "image_id": image, "category_id": int(c) + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for k, (image, c, x, y, w, h) in enumerate(objects, 1)
        for box in [[64 * (x - w / 2), 64 * (y - h / 2), 64 * w, 64 * h]]
    ]
    truth, categories = COCO(), [{"id": 1, "name": "disc"}, {"id": 2, "name": "plate"}]
    truth.dataset = {"images": [{"id": i} for i in ids.values()], "annotations": annotations, "categories": categories}
    truth.createIndex()
    rows = json.loads((tmp_path / "val" / "predictions.json").read_text(encoding="utf-8"))
    reference = COCOeval(
        truth, truth.loadRes([{**r, "image_id": ids[Path(r["file_name"]).stem]} for r in rows]), "bbox"
    )
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert [-1 if v is None else v for v in found.values()] == pytest.approx(reference.stats.tolist(), abs=1e-3)
    assert found["AP50"] > 0


def test_dota_files_hold_what_was_measured(tiny, tmp_path, caplog):
    data = tiny.data("obb")
    YOLO(tiny.weights("obb")).val(data=str(data), project=str(tmp_path), save_json=True, **QUIET)
    found = measured(tmp_path)["Exact IoU"]
    assert "Exact IoU" in "\n".join(caplog.messages)
    folder = tmp_path / "labelTxt"
    folder.mkdir()
    for file in (data.parent / "labels" / "val").glob("*.txt"):
        rows = [line.split() for line in file.read_text().splitlines()]
        corners = [" ".join(str(64 * float(v)) for v in row[1:]) for row in rows]
        lines = [f"{c} {('disc', 'plate')[int(row[0])]} 0" for c, row in zip(corners, rows, strict=True)]
        (folder / file.name).write_text("\n".join(lines) + "\n")
    detections, truth = read_dota(tmp_path / "val" / "dota"), read_dota_labels(folder)
    for method, ending in (("area", ""), ("voc07", " (07)")):
        expected = evaluate_dota(detections, truth, method=method).mean()
        for column in ("AP50", "AP75", "AP"):
            assert found["all"][column + ending] == pytest.approx(expected[column], abs=1e-3)
    assert found["all"]["AP50"] > 0
    assert np.isfinite(found["disc"]["AP75"])


def test_rows_of_classes_stand_in_the_order_of_the_names():
    # One object of each class, found exactly; file names of classes have hyphens.
    square = np.array([[[0, 0], [9, 0], [9, 9], [0, 9]]] * 3, float)
    images, classes = np.array(["a"] * 3), np.array(["two-words", "b", "a"])
    found = DotaDetections(images, classes, np.full(3, 0.9), square)
    table = exact_table(found, DotaTruth(images, classes, np.zeros(3, bool), square), {0: "two words", 1: "b", 2: "a"})
    assert [row[0] for row in table.rows] == ["all", "two-words", "b", "a"]
    assert table.rows[1][1:] == (1.0,) * 6


@pytest.mark.parametrize("verbose", [True, False])
def test_classes_are_printed_only_if_asked(tiny, tmp_path, caplog, verbose):
    YOLO(tiny.weights("obb")).val(data=str(tiny.data("obb")), project=str(tmp_path), verbose=verbose, **QUIET)
    shown = "\n".join(caplog.messages)
    assert "Exact IoU" in shown[shown.index("AP at IoU") :]
    assert ("plate" in shown[shown.index("AP at IoU") :]) == verbose


def test_oriented_boxes_are_evaluated_exactly_without_files_too(tiny, tmp_path):
    YOLO(tiny.weights("obb")).val(data=str(tiny.data("obb")), project=str(tmp_path), **QUIET)
    assert measured(tmp_path)["Exact IoU"]["all"]["AP50"] > 0
    assert not (tmp_path / "val" / "dota").exists()


@pytest.fixture
def unlabelled(tiny, tmp_path):
    """The validation scenes of a task without their labels."""

    def make(task):
        source, root = tiny.data(task).parent, tmp_path / "unlabelled"
        shutil.copytree(source / "images" / "val", root / "images" / "val")
        names = {0: "disc", 1: "plate"}
        content = {"path": str(root), "train": "images/val", "val": "images/val", "names": names}
        (root / "data.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return root / "data.yaml"

    return make


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_images_without_labels_lose_nothing(tiny, tmp_path, unlabelled, task):
    YOLO(tiny.weights(task)).val(data=str(unlabelled(task)), project=str(tmp_path), save_json=True, **QUIET)
    found = measured(tmp_path)
    assert found["sigma"]["all"]["n"] == 0
    assert found["Scores"]["all"]["Detections"] > 0
    assert not {"Exact IoU", "COCO precision"} & found.keys()


def test_names_of_classes_that_are_no_names_of_files(tiny, tmp_path, caplog):
    model = YOLO(tiny.weights("obb"))
    model.model.names = {0: "a/b", 1: "../c"}
    model.val(data=str(tiny.data("obb")), project=str(tmp_path), save_json=True, **QUIET)
    assert sorted(f.name for f in (tmp_path / "val" / "dota").iterdir()) == ["Task1_..-c.txt", "Task1_a-b.txt"]
    model.model.names = {0: "red cell", 1: "red-cell"}
    model.val(data=str(tiny.data("obb")), project=str(tmp_path), save_json=True, **QUIET)
    assert "no result files of DOTA: two classes have the same file name" in "\n".join(caplog.messages)
    assert measured(tmp_path)["Exact IoU"]["all"]["AP50"] > 0
