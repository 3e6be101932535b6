"""Scenes by tiles, beside SAHI: ``python benchmarks/slicing.py stock.pt hituav/images/val folder --imgsz 416``.

Puts labelled images side by side, as a TIFF whose objects are known, and detects in it with one and the same stock
model, tiles, overlap, confidence and batch 1: with ``detect_scene``, with SAHI as it comes and with other rules of
SAHI, in turns. CPU time, and the share of it outside the forward pass; precision, recall and AP50 by the exact overlap
of polygons, for all objects and for those that a border of a tile cuts. Wrong boxes that lie on an object of their
class are duplicates (IoU of 0.5 or more with it) or parts (70 % of the box inside it). Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import logging
import platform
import time
import warnings
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
import sahi
import torch
import ultralytics
from rasterio.errors import NotGeoreferencedWarning
from sahi import AutoDetectionModel
from sahi.predict import get_sliced_prediction
from scenes import Forward
from ultralytics.utils import LOGGER

from yolo_uncert import YOLO
from yolo_uncert.evaluation import DotaDetections, DotaTruth, corners, evaluate_dota, polygon_iou
from yolo_uncert.scenes import detect_scene
from yolo_uncert.scenes.tiles import starts

INSIDE = 0.7
"""Share of a wrong box inside an object that makes it a part of it."""


def compose(images: Path, target: Path, columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Write images side by side; return the classes and the corners in pixels of their objects."""
    files = sorted(images.iterdir())
    files = files[:: max(len(files) // (columns * rows), 1)][: columns * rows]
    labels = images.parents[1] / "labels" / images.name
    height, width = cv2.imread(str(files[0])).shape[:2]
    scene = np.zeros((rows * height, columns * width, 3), np.uint8)
    classes, polygons = [], []
    for number, file in enumerate(files):
        y, x = number // columns * height, number % columns * width
        scene[y : y + height, x : x + width] = cv2.imread(str(file))[:, :, ::-1]
        for line in (labels / f"{file.stem}.txt").read_text().splitlines():
            kind, *numbers = map(float, line.split())
            if len(numbers) == 4:  # a horizontal box: centre and size
                numbers = corners(np.array([[*numbers, 0.0]])).ravel().tolist()
            classes.append(int(kind))
            polygons.append(np.reshape(numbers, (4, 2)) * (width, height) + (x, y))
    profile = {"driver": "GTiff", "width": scene.shape[1], "height": scene.shape[0], "count": 3, "dtype": "uint8"}
    with rasterio.open(target, "w", **profile, tiled=True, compress="deflate") as out:
        out.write(scene.transpose(2, 0, 1))
    return np.array(classes), np.array(polygons)


def ours(model: YOLO, scene: Path, given: argparse.Namespace, **rules: Any) -> DotaDetections:
    """Return what ``detect_scene`` finds."""
    options = {"tile": given.tile, "overlap": given.overlap, "conf": given.conf, "imgsz": given.imgsz}
    return detect_scene(model, scene, batch=1, device="cpu", **options, **rules).dota()


def theirs(model: Any, scene: Path, given: argparse.Namespace, **rules: Any) -> DotaDetections:
    """Return what SAHI finds."""
    size = {"slice_height": given.tile, "slice_width": given.tile}
    share = given.overlap / given.tile
    overlap = {"overlap_height_ratio": share, "overlap_width_ratio": share}
    found = get_sliced_prediction(str(scene), model, **size, **overlap, verbose=0, **rules).object_prediction_list
    polygons = [box.mask.segmentation[0] if box.mask else rectangle(*box.bbox.to_xyxy()) for box in found]
    return DotaDetections(
        np.full(len(found), scene.stem),
        np.array([box.category.name for box in found]),
        np.array([box.score.value for box in found], np.float64),
        np.array(polygons, np.float64).reshape(-1, 4, 2),
    )


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """Return the corners of a horizontal box."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def pairs(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of two tables that overlap in one class, and their IoU."""
    low, high = first.polygons.min(1)[:, None], first.polygons.max(1)[:, None]
    meet = ((low < second.polygons.max(1)) & (high > second.polygons.min(1))).all(2)
    i, j = np.nonzero(meet & (first.classes[:, None] == second.classes))
    return i, j, polygon_iou(first.polygons[i], second.polygons[j])


def matched(i: np.ndarray, j: np.ndarray, iou: np.ndarray, rank: np.ndarray) -> list[int]:
    """Return the pairs with an IoU above 0.5 that are taken in the order of their rank, each row at most once."""
    taken, used, chosen = set(), set(), []
    for pair in np.lexsort((-iou, rank)).tolist():
        if iou[pair] > 0.5 and i[pair] not in taken and j[pair] not in used:
            taken.add(i[pair])
            used.add(j[pair])
            chosen.append(pair)
    return chosen


def on_border(polygons: np.ndarray, size: tuple[int, int], tile: int, overlap: int) -> np.ndarray:
    """Return the mask of the polygons that an inner border of a tile cuts."""
    cut = np.zeros(len(polygons), bool)
    for axis, length in enumerate(size):
        begins = starts(length, tile, overlap)
        for line in chain(begins[1:], (begin + tile for begin in begins[:-1])):
            cut |= (polygons[:, :, axis].min(1) < line) & (polygons[:, :, axis].max(1) > line)
    return cut


def quality(found: DotaDetections, truth: DotaTruth, cut: np.ndarray, cut_found: np.ndarray) -> list[str]:
    """Return the cells of a row: AP50, precision and recall, the same at borders, duplicates and parts."""
    i, j, iou = pairs(found, truth)
    chosen = matched(i, j, iou, -found.scores[i])
    right, seen = np.zeros(len(found.scores), bool), np.zeros(len(truth.images), bool)
    right[i[chosen]], seen[j[chosen]] = True, True
    # Objects away from borders neither count nor hurt there.
    hard = DotaTruth(truth.images, truth.classes, ~cut, truth.polygons)
    near = cut_found.copy()
    near[i[chosen]] = cut[j[chosen]]
    at_borders = DotaDetections(*(values[near] for values in vars(found).values()))
    ap = [evaluate_dota(*tables, (0.5,), "area").mean()["AP50"] for tables in ((found, truth), (at_borders, hard))]
    rows = [f"{ap[0]:.3f}, {right.mean():.3f}, {seen.mean():.3f}"]
    rows.append(f"{ap[1]:.3f}, {right[near].mean():.3f}, {seen[cut].mean():.3f}")
    inside = iou / (1 + iou) * (1 + area(truth.polygons[j]) / area(found.polygons[i]))
    lies = ~right[i] & (inside > INSIDE)
    double = np.unique(i[lies & (iou >= 0.5)])
    return [*rows, str(len(double)), str(len(np.setdiff1d(i[lies], double)))]


def area(polygons: np.ndarray) -> np.ndarray:
    """Return the areas of quadrilaterals."""
    first, second = polygons[:, 2] - polygons[:, 0], polygons[:, 3] - polygons[:, 1]
    return np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2


def in_turns(methods: dict[str, Callable[[], Any]], runs: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what each method finds, and for each run its CPU seconds in total and in the forward pass."""
    found, times = {}, {name: [] for name in methods}
    for number in range(runs + 1):
        for name, method in methods.items():
            with Forward(time.process_time) as forward:
                start = time.process_time()
                found[name] = method()
                if number:  # the first round warms up
                    times[name].append((time.process_time() - start, forward.seconds))
    return found, {name: np.array(rows) for name, rows in times.items()}


def arguments() -> argparse.Namespace:
    """Return the words of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="stock detect or obb model")
    parser.add_argument("images", type=Path, help="folder images/val with labels/val beside it, images of one size")
    parser.add_argument("folder", type=Path, help="for the scene")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tile", type=int, default=640)
    parser.add_argument("--overlap", type=int, default=128)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--conf", type=float, default=0.25)
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    """Compare and print the table."""
    given = arguments()
    LOGGER.setLevel(logging.ERROR)
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    scene = given.folder / "composed.tif"
    classes, polygons = compose(given.images, scene, given.columns, given.rows)
    mine = YOLO(given.model)
    known = {"model_type": "ultralytics", "model_path": given.model, "device": "cpu", "image_size": given.imgsz}
    other = AutoDetectionModel.from_pretrained(confidence_threshold=given.conf, **known)
    methods: dict[str, Callable[[], DotaDetections]] = {"detect_scene": lambda: ours(mine, scene, given)}
    if mine.task == "detect":  # of oriented boxes this is the default
        methods["detect_scene, iou=0.5"] = lambda: ours(mine, scene, given, iou=0.5)
    for name, rules in RULES.items():
        methods[name] = lambda rules=rules: theirs(other, scene, given, **rules)
    found, times = in_turns(methods, given.runs)

    names = np.array([mine.names[key] for key in sorted(mine.names)])
    truth = DotaTruth(np.full(len(classes), scene.stem), names[classes], np.zeros(len(classes), bool), polygons)
    with rasterio.open(scene) as raster:
        size = (raster.width, raster.height)
    cut = on_border(polygons, size, given.tile, given.overlap)
    versions = f"torch {torch.__version__}, Ultralytics {ultralytics.__version__}, SAHI {sahi.__version__}"
    print(f"\n{platform.machine()}, {versions}, one thread, batch 1; {size[0]}x{size[1]} pixels,", end=" ")
    print(f"{len(classes)} objects, {cut.sum()} of them at borders of tiles\n")
    head = ["", "boxes", "CPU time", "outside the forward pass", "AP50, precision, recall", "the same at borders"]
    head += ["duplicates", "parts", "as detect_scene"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name, table in found.items():
        total, forward = np.median(times[name], 0)
        cells = [name, len(table.scores), f"{total:.2f} s", f"{1 - forward / total:.0%} ({total - forward:.2f} s)"]
        cells += quality(table, truth, cut, on_border(table.polygons, size, given.tile, given.overlap))
        i, j, iou = pairs(table, found["detect_scene"])
        chosen = matched(i, j, iou, -iou)
        cells.append(f"{len(chosen)}, median IoU {np.median(iou[chosen]):.3f}")
        print(f"| {' | '.join(map(str, cells))} |")


RULES: dict[str, dict[str, Any]] = {
    "SAHI, as it comes": {},
    "SAHI, tiles only": {"perform_standard_pred": False},
    "SAHI, tiles only, NMS at IoU 0.5": {
        "perform_standard_pred": False,
        "postprocess_type": "NMS",
        "postprocess_match_metric": "IOU",
    },
}
"""Ways to call it: with its defaults (also a look at the whole scene; boxes merged, oriented ones suppressed, where the
smaller one is covered by half), and without that look."""


if __name__ == "__main__":
    main()
