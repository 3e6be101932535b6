"""Predictors while they yield: at which batch their attributes stand, and what loaders tell of a frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolo_uncert import YOLO

pytestmark = pytest.mark.seam("output/record.py")

QUIET = {"imgsz": 64, "verbose": False, "conf": 1e-6, "device": "cpu", "stream": True}


@pytest.fixture(scope="module")
def model():
    return YOLO("yolo11n-gaussian.yaml")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Seven frames at eight a second."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 8, (64, 64))
    for shade in range(7):
        writer.write(np.full((64, 64, 3), 30 * shade, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(("batch", "stride", "steps"), [(1, 1, [1, 2, 3, 4, 5, 6, 7]), (3, 2, [3, 3, 3])])
def test_a_video_counts_the_frames_that_were_read_up_to_the_end_of_the_batch(model, video, batch, stride, steps):
    seen = []
    for result in model.predict(video, batch=batch, vid_stride=stride, **QUIET):
        predictor = model.predictor
        assert any(other is result for other in predictor.results)
        assert predictor.dataset.mode == "video"
        assert predictor.dataset.fps == 8
        seen.append(predictor.dataset.frame)
    assert seen == steps


def test_with_a_stride_the_last_of_the_frames_read_is_seen(model, video):
    shades = [result.orig_img.mean() / 30 for result in model.predict(video, vid_stride=3, **QUIET)]
    assert shades == pytest.approx([2, 5], abs=0.1)


def test_images_are_no_video_and_come_before_videos(model, video, tmp_path):
    cv2.imwrite(str(tmp_path / "z.png"), np.zeros((64, 64, 3), np.uint8))
    modes = []
    (tmp_path / "files.txt").write_text(f"{video}\n{tmp_path / 'z.png'}")
    for _ in model.predict(tmp_path / "files.txt", **QUIET):
        modes.append(model.predictor.dataset.mode)
    assert modes == ["image", *["video"] * 7]


def test_arrays_are_images_of_one_batch(model):
    for index, result in enumerate(model.predict([np.zeros((64, 64, 3), np.uint8)] * 3, **QUIET)):
        assert model.predictor.dataset.mode == "image"
        assert model.predictor.results[index] is result
