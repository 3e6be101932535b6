"""A scene in tiles: pixels, labels for training, and labels in DOTA's format with flags.

A tile is named as DOTA's development kit names it, ``<scene>__<scale>__<x>___<y>``: its corner ``(x, y)`` in pixels of
the scene resized by ``scale``. So a point of a tile lies at ``((px + x) / scale, (py + y) / scale)`` in the scene.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from ultralytics.utils.patches import imread, imwrite

from yolo_uncert.dota.clipping import Parts, visible_parts
from yolo_uncert.dota.sources import Scene
from yolo_uncert.evaluation import DotaTruth
from yolo_uncert.evaluation.dota_boxes import class_name
from yolo_uncert.files import replacing
from yolo_uncert.run_options import PrepareOptions
from yolo_uncert.scenes.tiles import Tile, tile_rows

CUT_AWAY = 2
"""Flag of an object of which a tile shows too little, as in DOTA's development kit: neither to be found nor wrong."""

_TOLERANCE = 1e-9
"""Rounding of shares: exactly the least share is enough."""


def cut_scene(
    scene: Scene, truth: DotaTruth, names: Sequence[str], out: Path, options: PrepareOptions
) -> tuple[list[str], Counter[str]]:
    """Write the tiles of a scene at all scales.

    ``images/<split>`` holds the pixels, ``labels/<split>`` the labels that Ultralytics trains on, ``labelTxt/<split>``
    all objects of which the tile shows something, in pixels of the tile, with their flags. The last two are there where
    the scene has labels.

    Args:
        scene: Files of the scene.
        truth: Its objects.
        names: All class names, in the order of their indices.
        out: Folder of the prepared data.
        options: How to cut.

    Returns:
        Names of the tiles, and the numbers of what they hold.

    Raises:
        OSError: The image cannot be read, or a file cannot be written.
    """
    image = imread(scene.image)
    if image is None:
        raise OSError(f"{scene.image} is no image that can be read; mend it or take it away, then run this again")
    index = {class_name(name): number for number, name in enumerate(names)}
    wanted = ~truth.difficult if options.difficult == "drop" else np.ones(len(truth.classes), bool)
    classes = np.array([index[name] for name in truth.classes.tolist()], int)
    written, labelled = [], np.zeros(len(classes), bool)
    count: Counter[str] = Counter(scenes=1, objects=len(classes), difficult=int(truth.difficult.sum()))
    for name, pixels, parts in _tiles(scene, image, truth.polygons, options):
        kept = wanted[parts.rows] & (parts.share >= options.area - _TOLERANCE)
        if scene.labels and not kept.any() and not _keeps_background(scene.split, name, options.background):
            count["without_dropped"] += 1
            continue
        size = pixels.shape[1], pixels.shape[0]
        texts = {
            "labels": _yolo_lines(parts.polygons[kept] / size, classes[parts.rows[kept]]),
            "labelTxt": _dota_lines(parts, truth, options.area),
        }
        _write(out, scene.split, name, pixels, options.format, texts if scene.labels else {})
        written.append(name)
        labelled[parts.rows[kept]] = True
        cut = parts.share < 1
        count.update(tiles=1, labels=int(kept.sum()), cut=int((kept & cut).sum()), without=int(not kept.any()))
        count["away"] += int((cut & ~kept & wanted[parts.rows]).sum())
    count["lost"] = int((wanted & ~labelled).sum())
    return written, count


def _tiles(
    scene: Scene, image: NDArray[Any], polygons: NDArray[np.float64], options: PrepareOptions
) -> Iterator[tuple[str, NDArray[Any], Parts]]:
    """Yield name, pixels and objects of every tile."""
    for scale in options.scale_list:
        resized, factor = _resize(image, scale)
        height, width = resized.shape[:2]
        objects = polygons * factor
        for row in tile_rows(width, height, options.tile, options.overlap):
            for tile in row:
                yield _tile_name(scene.name, scale, tile), _window(resized, tile), visible_parts(objects, tile)


def _tile_name(scene: str, scale: float, tile: Tile) -> str:
    return f"{scene}__{scale:g}__{tile.x1}___{tile.y1}"


def _window(image: NDArray[Any], tile: Tile) -> NDArray[Any]:
    return image[tile.y1 : tile.y2, tile.x1 : tile.x2]


def _resize(image: NDArray[Any], scale: float) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the resized image and by how much it is, in x and in y: sizes are whole pixels."""
    if scale == 1:
        return image, np.ones(2)
    before = image.shape[1], image.shape[0]
    after = [max(round(length * scale), 1) for length in before]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, after, interpolation=method), np.array(after) / before


def _keeps_background(split: str, tile: str, share: float) -> bool:
    """Choose by the name, so that the choice is the same each time; of other splits than train all is needed."""
    return split != "train" or zlib.crc32(tile.encode()) < share * 2**32


def _yolo_lines(polygons: NDArray[np.float64], classes: NDArray[np.int64]) -> str:
    rows = zip(classes.tolist(), polygons.reshape(-1, 8).tolist(), strict=True)
    return "".join(f"{number} {' '.join(f'{value:.6f}' for value in row)}\n" for number, row in rows)


def _dota_lines(parts: Parts, truth: DotaTruth, least: float) -> str:
    flags = np.where(parts.share >= least - _TOLERANCE, truth.difficult[parts.rows].astype(int), CUT_AWAY)
    rows = zip(parts.polygons.reshape(-1, 8).tolist(), truth.classes[parts.rows].tolist(), flags.tolist(), strict=True)
    return "".join(f"{' '.join(f'{value:.7g}' for value in row)} {name} {flag}\n" for row, name, flag in rows)


def _write(out: Path, split: str, name: str, pixels: NDArray[Any], suffix: str, texts: dict[str, str]) -> None:
    for folder, text in texts.items():
        with replacing(out / folder / split / f"{name}.txt") as part:
            part.write_text(text, encoding="utf-8")
    target = out / "images" / split / f"{name}.{suffix}"
    with replacing(target) as part:
        if not imwrite(part, pixels):
            raise OSError(f"cannot write {target}")
