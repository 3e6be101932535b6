from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_uncert import YOLO
from yolo_uncert.engine.candidates import Candidates
from yolo_uncert.run_options import RunOptions
from yolo_uncert.scenes.finder import settle
from yolo_uncert.scenes.pixels import choose_look
from yolo_uncert.scenes.raster import ImageRaster, pick_bands
from yolo_uncert.scenes.scan import scan
from yolo_uncert.scenes.tiles import tile_rows
from yolo_uncert.schema import Schema


class Rectangles:
    """A finder that sees exactly the bright rectangles on black ground; the second class are those above 200.

    ``std`` is 2 pixels on each side.
    """

    names: ClassVar = {0: "dim", 1: "bright"}
    agnostic = False
    conformal = None

    def __init__(self, task="detect", **options):
        self.task, self.seen = task, 0
        self.schema = Schema(task, 2, ("gaussian",))
        given = {"conf": 0.25, "agnostic_nms": False, "max_det": 3, **options}
        self.args = SimpleNamespace(**{**DEFAULT_CFG_DICT, **vars(RunOptions()), **given})

    def find(self, tiles):
        self.seen += len(tiles)
        return [self._candidates(tile) for tile in tiles]

    def settle(self, candidates):
        return settle(candidates, self.schema, self.args)

    def _candidates(self, image):
        plane = np.ascontiguousarray(image[:, :, 0])
        _, labels, stats, _ = cv2.connectedComponentsWithStats((plane > 20).astype(np.uint8), connectivity=8)
        boxes, classes = [], []
        for number, (x, y, w, h, _) in enumerate(stats[1:].tolist(), start=1):
            whole = [x, y, x + w, y + h] if self.task == "detect" else [x + w / 2, y + h / 2, w, h, 0.0]
            boxes.append(whole)
            classes.append(float(plane[labels == number].max() > 200))
        count, columns = len(boxes), 4 if self.task == "detect" else 5
        gaussian = torch.full((count, 4 if self.task == "detect" else 7), 2.0)
        if self.task == "obb":
            gaussian[:, 4:] = torch.tensor([0.1, 0.0, 0.0])
        box = torch.tensor(boxes, dtype=torch.float32).reshape(count, columns)
        score = torch.full((count,), 0.9)
        return Candidates(box, score, torch.tensor(classes), torch.arange(count), {"gaussian": gaussian})


def draw(width, height, boxes, value=255):
    """A black image with filled xyxy boxes."""
    image = np.zeros((height, width), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = value
    return image


@pytest.fixture
def rectangles():
    return Rectangles


@pytest.fixture
def look_at():
    """Scan an image or raster with a finder."""

    def run(finder, image, tile, overlap, batch=2, bands=None, name="scene", progress=None):
        raster = ImageRaster(image) if isinstance(image, np.ndarray) else image
        look = choose_look(raster, pick_bands(raster, bands))
        rows = tile_rows(raster.width, raster.height, tile, overlap)
        return scan(finder, raster, look, rows, batch=batch, name=name, progress=progress)

    return run


@pytest.fixture
def write_tif(tmp_path):
    """Write ``Array[C, H, W]`` as a GeoTIFF and return its path."""
    rasterio = pytest.importorskip("rasterio")

    def write(values, name="scene.tif", **profile):
        path = tmp_path / name
        count, height, width = values.shape
        kind = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
        with rasterio.open(path, "w", **{**kind, **profile}) as file:
            file.write(values)
        return path

    return write


@pytest.fixture
def blank_scene():
    return draw


@pytest.fixture(scope="session")
def model_file(tiny, tmp_path_factory):
    """Checkpoint of an untrained model, the same each time; nobody writes to it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    YOLO(tiny.yaml("obb")).save(path)
    return path
