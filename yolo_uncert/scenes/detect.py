"""Detect in scenes that are too large for one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import ultralytics

from yolo_uncert import __version__
from yolo_uncert.engine.calibration import check_interval_level
from yolo_uncert.engine.options import check_options
from yolo_uncert.files import check_folder
from yolo_uncert.model import YOLO
from yolo_uncert.options import OptionError
from yolo_uncert.scenes.finder import ModelFinder
from yolo_uncert.scenes.pixels import STRETCH, choose_look
from yolo_uncert.scenes.progress import Progress, model_digest, source_stamp
from yolo_uncert.scenes.raster import open_raster, pick_bands
from yolo_uncert.scenes.result import DOTA, SceneResult, name_of
from yolo_uncert.scenes.scan import scan
from yolo_uncert.scenes.targets import check_dota, check_targets
from yolo_uncert.scenes.tiles import tile_rows


def detect_scene(
    model: YOLO | str | Path,
    source: str | Path | npt.NDArray[Any],
    *,
    tile: int = 1024,
    overlap: int = 200,
    batch: int = 4,
    bands: Sequence[int] | int | None = None,
    stretch: Sequence[float] = STRETCH,
    out: str | Path | None = None,
    resume: bool = True,
    dota: bool = True,
    **options: Any,
) -> SceneResult:
    """Detect in a scene of any size, tile by tile, and merge what the tiles show.

    Candidates of all tiles are suppressed and vote together, by the same rules as those of one image. A box at an inner
    border of its tile gives way where another tile sees that place whole: objects up to ``overlap`` (less twice
    ``tiles.EDGE``) pixels come out once and whole. Longer ones may come out in parts, marked in ``fields["cut"]``.

    Memory holds a batch of tiles, what was found, and candidates that tiles to come may still add to.

    Args:
        model: Detect or obb model, or its file.
        source: Raster or image file, or an image as ``Array[H, W]`` or ``Array[H, W, C]``, blue first.
        tile: Side of a tile in pixels, and the model's ``imgsz`` unless it is given.
        overlap: Pixels that neighbouring tiles share at least.
        batch: Tiles per batch.
        bands: One or three bands, numbered from 1 as in the file, that become red, green and blue; by default the first
            three that are no alpha channel, or the first where there are fewer.
        stretch: Percentiles of each band that become black and white where pixels are not 8-bit.
        out: Folder that the files of `SceneResult.save` are written to. After each row of tiles what was found is kept
            there in ``.NAME.partial``, and the same call goes on from it if this one is stopped; it disappears when the
            files are written. None: nothing is written.
        resume: Go on; False starts over. What is left of a call with another model, scene or option is never used.
        dota: Write the folder ``dota`` among these files.
        **options: Options of predict: ``conf``, ``iou``, ``device``, ``suppress``, ``var_vote`` and so on. ``max_det``
            and ``max_nms`` limit no scene; an end-to-end head finds up to ``max_det`` in each tile.

    Raises:
        FileNotFoundError: There is no such file.
        OptionError: An option is wrong, or the model cannot do this.
        OSError: ``out`` cannot be written to.
        SceneError: The scene cannot be read, or has no valid pixel.
    """
    _check_numbers(tile=tile, overlap=overlap, batch=batch)
    check_switches(resume=resume, dota=dota)
    model = model if isinstance(model, YOLO) else YOLO(model)
    ours = check_options(options, "scene")
    check_interval_level(model.model, ours, "scene")
    title = "scene" if isinstance(source, np.ndarray) else str(source)
    if out is not None:
        _check_out(Path(out), title, dota)
    before, lent, model.predictor = model.predictor, model._lent, None
    try:
        with open_raster(source) as raster:
            look = choose_look(raster, pick_bands(raster, bands), stretch)
            rows = tile_rows(raster.width, raster.height, tile, overlap)
            finder, progress = ModelFinder(model, options, side=max(rows[0][0].x2, rows[0][0].y2)), None
            if out is not None:
                check_folder(Path(out), "scene: out")
                run = {"tile": tile, "overlap": overlap, "batch": batch, **asdict(look), **settings(options)}
                progress = Progress(Path(out) / f".{name_of(title)}.partial", {**origin(model, source), **run})
                if not resume:
                    progress.remove()
            result = scan(finder, raster, look, rows, batch=batch, name=title, progress=progress)
        if out is not None and progress is not None:
            result.save(out, dota=dota, interval_level=ours.interval_level)
            progress.remove()
        return result
    finally:
        model.predictor = before if model._lent == lent else None


def _check_numbers(**numbers: Any) -> None:
    for name, number in numbers.items():
        least = 0 if name == "overlap" else 1
        if not isinstance(number, int) or number < least:
            raise OptionError(f"scene: {name} must be a whole number of at least {least}, not {number!r}")


def _check_out(out: Path, title: str, dota: bool) -> None:
    """Refuse a folder with files that are not of such a scene, before anything is done."""
    check_targets(out, name_of(title), title)
    if dota:
        check_dota(out / DOTA)


def check_switches(**switches: Any) -> None:
    """Refuse values of options that are neither True nor False.

    Raises:
        OptionError: One is something else.
    """
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise OptionError(f"scene: {name} must be True or False, not {value!r}; out= says where files go")


def settings(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of predict that a result depends on: the level of the intervals is that of its files."""
    return {name: str(value) for name, value in options.items() if name != "interval_level"}


def origin(model: YOLO, source: str | Path | npt.NDArray[Any]) -> dict[str, str]:
    """Return what a result depends on beside the options."""
    versions = f"{__version__}, ultralytics {ultralytics.__version__}, torch {torch.__version__}"
    return {"version": versions, "model": model_digest(model), "source": source_stamp(source)}
