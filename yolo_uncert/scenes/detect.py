"""Detect in scenes that are too large for one image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ultralytics.utils import LOGGER, TQDM

from yolo_uncert.config import OptionError
from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.engine.postprocess import Detections
from yolo_uncert.model import YOLO
from yolo_uncert.scenes.finder import Finder, ModelFinder
from yolo_uncert.scenes.merge import CUT, Merger
from yolo_uncert.scenes.pixels import STRETCH, Look, choose_look, read_tile
from yolo_uncert.scenes.raster import Raster, SceneError, open_raster, pick_bands
from yolo_uncert.scenes.result import SceneResult
from yolo_uncert.scenes.tiles import Tile, tile_rows

SLACK = 0.25
"""How far a box may reach out of its tile, as a share of the tile, to be compared with all that is there."""

KINDS = {"detect": UncertBoxes, "obb": UncertOBB}


def detect_scene(
    model: YOLO | str | Path,
    source: str | Path | npt.NDArray[Any],
    *,
    tile: int = 1024,
    overlap: int = 200,
    batch: int = 4,
    bands: Sequence[int] | int | None = None,
    stretch: Sequence[float] = STRETCH,
    **options: Any,
) -> SceneResult:
    """Detect in a scene of any size, tile by tile, and merge what the tiles show.

    Candidates of all tiles are suppressed and vote together, by the same rules as those of one image. A box at an inner
    border of its tile gives way where another tile sees that place whole: objects up to ``overlap`` (less twice
    ``tiles.EDGE``) pixels come out once and whole. Longer ones may come out in parts, marked in ``fields["cut"]``.

    Memory holds a batch of tiles, and candidates that tiles to come may still add to.

    Args:
        model: Detect or obb model, or its file.
        source: Raster or image file, or an image as ``Array[H, W]`` or ``Array[H, W, C]``, blue first.
        tile: Side of a tile in pixels, and the model's ``imgsz`` unless it is given.
        overlap: Pixels that neighbouring tiles share at least.
        batch: Tiles per batch.
        bands: One or three bands, numbered from 1, that become red, green and blue; by default the first three, or the
            first where there are fewer.
        stretch: Percentiles of each band that become black and white where pixels are not 8-bit.
        **options: Options of predict: ``conf``, ``iou``, ``device``, ``suppress``, ``var_vote`` and so on. ``max_det``
            and ``max_nms`` limit no scene; an end-to-end head finds up to ``max_det`` in each tile.

    Raises:
        FileNotFoundError: There is no such file.
        OptionError: An option is wrong, or the model cannot do this.
        SceneError: The scene cannot be read, or has no valid pixel.
    """
    for name, number, least in (("tile", tile, 1), ("overlap", overlap, 0), ("batch", batch, 1)):
        if not isinstance(number, int) or number < least:
            raise OptionError(f"scene: {name} must be a whole number of at least {least}, not {number!r}")
    model = model if isinstance(model, YOLO) else YOLO(model)
    before, lent, model.predictor = model.predictor, model._lent, None
    try:
        with open_raster(source) as raster:
            look = choose_look(raster, pick_bands(raster.count, bands), stretch)
            rows = tile_rows(raster.width, raster.height, tile, overlap)
            title = "scene" if isinstance(source, np.ndarray) else str(source)
            return scan(ModelFinder(model, options), raster, look, rows, batch=batch, name=title)
    finally:
        model.predictor = before if model._lent == lent else None


def scan(
    finder: Finder, raster: Raster, look: Look, rows: Sequence[Sequence[Tile]], *, batch: int, name: str = "scene"
) -> SceneResult:
    """Find, merge and collect.

    Args:
        finder: Finds candidates in tiles.
        raster: Open scene.
        look: How to show it.
        rows: Its tiles, row by row.
        batch: Tiles per batch.
        name: Path of the scene.

    Raises:
        SceneError: The scene cannot be read, or has no valid pixel.
    """
    merger = Merger((raster.width, raster.height), finder.settle, agnostic=lambda: finder.agnostic)
    tiles, seen, parts = list(itertools.chain.from_iterable(rows)), 0, []
    slack = SLACK * (tiles[0].y2 - tiles[0].y1)
    with TQDM(total=len(tiles), desc="tiles", unit="tile") as bar:
        for number, row in enumerate(rows):
            near = [tile for other in rows if _overlap(row[0], other[0], axes=(1,)) for tile in other]
            for start in range(0, len(row), batch):
                chosen = row[start : start + batch]
                images = {tile: image for tile in chosen if (image := read_tile(raster, tile, look)) is not None}
                found = finder.find(list(images.values())) if images else []
                for tile, candidates in zip(images, found, strict=True):
                    merger.add(candidates, tile, [other for other in near if other != tile and _overlap(tile, other)])
                seen += len(images)
                bar.update(len(chosen))
            last = number + 1 == len(rows)
            parts.append(merger.settle(np.inf if last else rows[number + 1][0].y1 - slack))
    if not seen:
        raise SceneError(f"{name} holds no valid pixel: all of it is nodata or transparent")
    if raster.geo is None:
        LOGGER.info(f"{name} has no georeference: positions are in pixels")
    done = [part for part in parts if part is not None]
    conformal = finder.conformal if done else None
    boxes = _collect(done, finder.task, (raster.height, raster.width))
    boxes.conformal = conformal
    return SceneResult(name, dict(finder.names), boxes, raster.geo, tiles=len(tiles), empty_tiles=len(tiles) - seen)


def _overlap(tile: Tile, other: Tile, axes: Sequence[int] = (0, 1)) -> bool:
    """Return whether two tiles share pixels, or along one axis, rows or columns."""
    return all(tile[axis] < other[axis + 2] and other[axis] < tile[axis + 2] for axis in axes)


def _collect(parts: Sequence[Detections], task: str, shape: tuple[int, int]) -> UncertBoxes | UncertOBB:
    """Return all detections of a scene by falling score, in memory of the CPU as arrays."""
    kind = KINDS[task]
    columns = len(kind.coordinates)
    if not parts:
        return kind(np.zeros((0, columns + 2)), shape, {CUT: np.zeros(0)})
    data = torch.cat([torch.cat((p.boxes, p.conf[:, None], p.cls[:, None].to(p.boxes)), 1) for p in parts]).numpy()
    fields = {name: torch.cat([part.fields[name] for part in parts]).numpy() for name in parts[0].fields}
    if task == "detect":
        data[:, :4] = np.clip(data[:, :4], 0, np.array([shape[1], shape[0]] * 2))
    order = np.argsort(-data[:, -2], kind="stable")
    return kind(data[order], shape, {name: values[order] for name, values in fields.items()})
