"""Records of a made-up validation whose sigma is true, with images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolo_uncert.functional.records import Matches, Scored
from yolo_uncert.report import style

HEIGHT, WIDTH, IMAGES = 120, 160, 3


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Small images, which are written faster; the resolution in pixels per inch."""
    monkeypatch.setitem(style.LOOK, "savefig.dpi", 40)
    return 40


@pytest.fixture
def unwritten(monkeypatch):
    """Figures are drawn on, but not rendered: most of the time goes into that."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)


@pytest.fixture
def make_matches(tmp_path):
    """Function of the number of boxes and whether they are oriented."""
    files = []
    for i in range(IMAGES):
        files.append(str(tmp_path / f"image{i}.png"))
        cv2.imwrite(files[-1], np.random.default_rng(i).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))

    def make(count, oriented=False, seed=0):
        rng = np.random.default_rng(seed)
        centre, size = rng.uniform((20, 20), (140, 100), (count, 2)), rng.uniform(8, 40, (count, 2))
        if oriented:
            boxes = np.hstack((centre, size, rng.uniform(-0.7, 0.7, (count, 1))))
        else:
            boxes = np.hstack((centre - size / 2, centre + size / 2))
        sigma = rng.uniform(0.5, 4, boxes.shape) * np.array([1, 1, 1, 1, 0.05])[: boxes.shape[1]]
        return Matches(
            residual=rng.normal(0, sigma),
            sigma=sigma,
            boxes=boxes,
            iou=rng.uniform(0.5, 1, count),
            conf=rng.uniform(0, 1, count),
            cls=rng.integers(0, 2, count),
            image=rng.integers(0, IMAGES, count),
            shapes=np.tile([HEIGHT, WIDTH], (IMAGES, 1)).astype(float),
            files=tuple(files),
        )

    return make


@pytest.fixture
def make_scored():
    """Function of the number of detections."""

    def make(count, seed=0):
        rng = np.random.default_rng(seed)
        conf = rng.uniform(0, 1, count)
        iou = rng.uniform(0, 1, count)
        thresholds = np.arange(0.5, 1, 0.05)
        image = np.zeros(count, int)
        return Scored(
            conf, image, iou[:, None] >= thresholds, iou >= 0.5, iou, image, np.zeros(5, int), np.zeros(5, int)
        )

    return make
