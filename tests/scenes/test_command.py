from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from yolo_uncert import YOLO
from yolo_uncert.cli import FAILURE, USAGE_ERROR, main
from yolo_uncert.scenes import detect_scene


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "my scene.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (64, 100, 3), dtype=np.uint8))
    return path


def command(source, out, *more):
    return ["scene", "model=yolov8n-obb-light.yaml", f"source={source}", "tile=64", "overlap=32", f"out={out}", *more]


def test_scene_writes_its_files(picture, tmp_path, caplog):
    words = ["conf=1e-6", "device=cpu", "bands=3,2,1", "var_vote=True", "classes=0", "interval_level=0.5"]
    assert main(command(picture, tmp_path / "out", *words)) == 0
    content = json.loads((tmp_path / "out" / "my_scene-pixels.geojson").read_text())
    assert len(content["features"]) > 0
    assert {feature["properties"]["class"] for feature in content["features"]} == {0}
    rows = (tmp_path / "out" / "my_scene.jsonl").read_text().splitlines()
    assert len(rows) == len(content["features"])
    assert {json.loads(row)["interval_level"] for row in rows} == {0.5}
    assert "boxes in 3 tiles" in caplog.text


def test_wrong_usage(picture, tmp_path, caplog):
    assert main(["scene", "model=yolov8n-light.yaml"]) == USAGE_ERROR
    assert main(command(tmp_path / "nowhere.tif", tmp_path)) == USAGE_ERROR
    assert main(command(picture, tmp_path, "overlap=64")) == USAGE_ERROR
    assert main(command(picture, tmp_path, "overlp=3")) == USAGE_ERROR
    for message in (
        "source= is missing",
        "there is no such file",
        "overlap from 0 to tile - 1",
        "did you mean 'overlap'",
    ):
        assert message in caplog.text


def test_a_damaged_scene_is_a_failure_without_files(tmp_path, caplog):
    (tmp_path / "bad.tif").write_bytes(b"II*\0" + bytes(range(256)))
    assert main(command(tmp_path / "bad.tif", tmp_path / "out")) == FAILURE
    assert "SceneError" in caplog.text
    assert not (tmp_path / "out").exists()


def test_moments_of_a_stock_model_are_not_left_behind():
    model = YOLO("yolov8n.yaml")
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    options = {"conf": 1e-6, "device": "cpu"}
    assert detect_scene(model, image, tile=64, overlap=0, sigma_source="dfl", **options).boxes.std is not None
    assert detect_scene(model, image, tile=64, overlap=0, **options).boxes.std is None
    assert model.predict(image, imgsz=64, verbose=False, sigma_source="dfl", **options)[0].boxes.std is not None
