"""Look at the tiles of a scene one row after the other, and collect what they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from ultralytics.utils import LOGGER, TQDM

from yolo_uncert.engine.boxes import BOXES, UncertBoxes, UncertOBB
from yolo_uncert.engine.candidates import Candidates
from yolo_uncert.engine.postprocess import Detections
from yolo_uncert.scenes.finder import Finder
from yolo_uncert.scenes.images import SceneError
from yolo_uncert.scenes.merge import Merger
from yolo_uncert.scenes.pixels import Look, read_tile
from yolo_uncert.scenes.progress import Progress, State
from yolo_uncert.scenes.raster import Raster
from yolo_uncert.scenes.result import SceneResult
from yolo_uncert.scenes.tiles import Tile

SLACK = 0.25
"""How far a box may reach out of its tile, as a share of the tile, to be compared with all that is there."""


def scan(
    finder: Finder,
    raster: Raster,
    look: Look,
    rows: Sequence[Sequence[Tile]],
    *,
    batch: int,
    name: str = "scene",
    progress: Progress | None = None,
) -> SceneResult:
    """Find, merge and collect.

    Args:
        finder: Finds candidates in tiles.
        raster: Open scene.
        look: How to show it.
        rows: Its tiles, row by row.
        batch: Tiles per batch.
        name: Path of the scene.
        progress: Keeps what each row gave, and says where to go on.

    Raises:
        SceneError: The scene cannot be read, or has no valid pixel.
    """
    state = progress.load() if progress else State()
    if progress and state.rows:
        LOGGER.info(f"going on after {state.rows} of {len(rows)} rows of tiles, which are in {progress.folder}")
    size, total = (raster.width, raster.height), sum(map(len, rows))
    merger = Merger(size, finder.settle, agnostic=lambda: finder.agnostic, waiting=state.waiting)
    slack = SLACK * (rows[0][0].y2 - rows[0][0].y1)
    with TQDM(total=total, initial=sum(map(len, rows[: state.rows])), desc="tiles", unit="tile") as bar:
        for number in range(state.rows, len(rows)):
            row = rows[number]
            near = [tile for other in rows if _overlap(row[0], other[0], axes=(1,)) for tile in other]
            for tile, found in _find(finder, raster, look, row, batch):
                if found is not None:
                    merger.add(found, tile, [other for other in near if other != tile and _overlap(tile, other)])
                    state.seen += 1
                bar.update()
            last = number + 1 == len(rows)
            state.parts.append(merger.settle(np.inf if last else rows[number + 1][0].y1 - slack))
            state.rows, state.waiting = number + 1, merger.waiting
            if progress:
                progress.save(state)
    if not state.seen:
        if progress:
            progress.remove()
        raise SceneError(f"{name} holds no valid pixel: all of it is nodata or transparent")
    if raster.geo is None:
        LOGGER.info(f"{name} has no georeference: positions are in pixels")
    boxes = _collect([part for part in state.parts if part is not None], finder.task, (raster.height, raster.width))
    boxes.conformal = finder.conformal
    return SceneResult(name, dict(finder.names), boxes, raster.geo, tiles=total, empty_tiles=total - state.seen)


def _find(
    finder: Finder, raster: Raster, look: Look, row: Sequence[Tile], batch: int
) -> Iterator[tuple[Tile, Candidates | None]]:
    """Yield what each tile of a row shows; None where it has no valid pixel."""
    for start in range(0, len(row), batch):
        images = {tile: read_tile(raster, tile, look) for tile in row[start : start + batch]}
        shown = {tile: image for tile, image in images.items() if image is not None}
        found = dict(zip(shown, finder.find(list(shown.values())) if shown else [], strict=True))
        yield from ((tile, found.get(tile)) for tile in images)


def _overlap(tile: Tile, other: Tile, axes: Sequence[int] = (0, 1)) -> bool:
    """Return whether two tiles share pixels, or along one axis, rows or columns."""
    return all(tile[axis] < other[axis + 2] and other[axis] < tile[axis + 2] for axis in axes)


def _collect(parts: Sequence[Detections], task: str, shape: tuple[int, int]) -> UncertBoxes | UncertOBB:
    """Return all detections of a scene by falling score, in memory of the CPU as arrays."""
    kind = BOXES[task]
    data = torch.cat([torch.cat((p.boxes, p.conf[:, None], p.cls[:, None].to(p.boxes)), 1) for p in parts]).numpy()
    fields = {name: torch.cat([part.fields[name] for part in parts]).numpy() for name in parts[0].fields}
    if task == "detect":
        data[:, :4] = np.clip(data[:, :4], 0, np.array([shape[1], shape[0]] * 2))
    order = np.argsort(-data[:, -2], kind="stable")
    return kind(data[order], shape, {name: values[order] for name, values in fields.items()})
