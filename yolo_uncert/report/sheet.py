"""Contact sheet of matched boxes: what the errors look like that sigma describes best, and worst."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon
from ultralytics.utils import LOGGER
from ultralytics.utils.ops import xywhr2xyxyxyxy
from ultralytics.utils.patches import imread

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.engine.plotting import EDGE, draw_bands, side_bands
from yolo_uncert.functional.records import Floats, Matches
from yolo_uncert.functional.residuals import SIGMA_MIN
from yolo_uncert.report.style import NO_BOXES, canvas, note, parts

Image: TypeAlias = npt.NDArray[np.uint8]

COLUMNS, ROWS = 4, 3
TILE = 320
"""Pixels of the side of a tile; crops are enlarged to it, so that bands of a pixel can be seen."""

MARGIN = 0.25
"""Share of a crop's content that is added as surroundings on every side."""

SMALLEST = 24
"""Smallest side of a crop in pixels of the image."""

LONGEST = 20
"""Letters of a class name that fit above a tile."""

DETECTION, OBJECT = "#FFB000", "#00D0FF"
"""Bright on dark and on light photographs; thin, with a dark seam, so that narrow bands are seen."""

BAND = (0, 176, 255)
"""The colour of the detection, as OpenCV orders channels."""


def sheet_plot(matches: Matches, names: Mapping[int, str], file: Path, worst: bool) -> Figure:
    """Show crops of the boxes with the largest, or smallest, normalised error: the maximum of |e| / sigma.

    Each shows the detection with a band of one sigma to both sides of every edge, and the object. Boxes of images that
    cannot be read are left out with a warning.

    Args:
        matches: Matched boxes.
        names: Class names.
        file: Image to write.
        worst: Show the largest errors rather than the smallest.

    Returns:
        The figure, as written.
    """
    error = normalised_error(matches).max(1) if len(matches) else np.zeros(0)
    order = np.argsort(error, kind="stable")
    title = f"Matched boxes with the {'largest' if worst else 'smallest'} max |e| / σ"
    return tiles_plot(matches, names, file, (order[::-1] if worst else order)[: COLUMNS * ROWS], title)


def tiles_plot(
    matches: Matches, names: Mapping[int, str], file: Path, shown: npt.NDArray[np.intp], title: str
) -> Figure:
    """Show crops of some boxes: the detection, a band of one sigma to both sides of its edges, and the object.

    Args:
        matches: Matched boxes. Those of images that cannot be read are left out with a warning.
        names: Class names.
        file: Image to write.
        shown: Array[K], rows of the matches, in the order of the tiles.
        title: What the boxes have in common.

    Returns:
        The figure, as written.
    """
    error = normalised_error(matches)
    tiles = [(row, image) for row in shown if (image := _read(matches, row)) is not None]
    rows = max(-(-len(tiles) // COLUMNS), 1)
    with canvas(file, (10, 0.5 + 2.82 * rows)) as figure:
        grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel() if tiles else [figure.subplots()]
        for axes in grid[len(tiles) :]:
            axes.axis("off")
        for axes, (row, image) in zip(grid, tiles, strict=False):
            _draw(axes, image, matches.take(np.array([row])))
            axes.set_title(_caption(matches, names, row, error[row]), fontsize=9, linespacing=1.35)
        if tiles:
            _legend(figure, title)
        else:
            note(grid[0], "no images" if len(matches) else NO_BOXES)
    return figure


def normalised_error(matches: Matches) -> Floats:
    """Return Array[N, C], the absolute residuals in units of sigma, of the coordinates whose sigma is known."""
    return np.hstack([np.abs(part.residual) / np.maximum(part.sigma, SIGMA_MIN) for part in parts(matches)])


def _read(matches: Matches, row: int) -> Image | None:
    """Read the image of a match; None with a warning if that fails."""
    if not matches.files:
        return None
    file = matches.files[matches.image[row]]
    try:
        image = imread(file)
    except (OSError, cv2.error):
        image = None
    if image is None:
        LOGGER.warning(f"report: cannot read {file}, its boxes are not shown")
        return None
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _draw(axes: Axes, image: Image, match: Matches) -> None:
    """Draw the surroundings of one match in pixels of the image, its bands with those of an enlarged crop."""
    (box,), (sides,) = _oriented(match, match.boxes)
    (truth,), _ = _oriented(match, match.boxes + match.residual)
    outlines = xywhr2xyxyxyxy(np.stack((box, truth)))
    shown = side_bands(box[None], np.minimum(sides, box[2:4].max())[None])
    low, high = _window(np.concatenate((*outlines, shown.reshape(-1, 2))))
    x0, y0 = np.clip(low, 0, np.array(image.shape[1::-1]) - 1)
    crop = image[y0 : max(high[1], y0 + 1), x0 : max(high[0], x0 + 1)]
    extent = (x0, x0 + crop.shape[1], y0 + crop.shape[0], y0)
    factor = TILE / (high[0] - low[0])
    size = [max(round(side * factor), 1) for side in crop.shape[1::-1]]
    crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    local = np.array([[*((box[:2] - (x0, y0)) * factor), *(box[2:4] * factor), box[4]]])
    crop = draw_bands(crop, side_bands(local, np.maximum(sides[None] * factor - EDGE, 0)), [BAND])
    axes.imshow(crop[..., ::-1], extent=extent)
    for corners, colour, width in zip(outlines, (DETECTION, OBJECT), (1.2, 0.9), strict=True):
        axes.add_patch(Polygon(corners, fill=False, ec="black", lw=width + 0.8))
        axes.add_patch(Polygon(corners, fill=False, ec=colour, lw=width))
    axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal", facecolor="#e9e9e9", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def _oriented(match: Matches, boxes: Floats) -> tuple[Floats, Floats]:
    """Return Array[1, 5] x, y, w, h, angle, and Array[1, 4], sigma of the sides along the axes of the box."""
    rows = np.column_stack((boxes, match.conf, match.cls)).astype(float)
    kind = UncertOBB if match.oriented else UncertBoxes
    found: Any = kind(rows, (1, 1), {"std": match.sigma})
    return (found.xywhr if match.oriented else np.pad(found.xywh, ((0, 0), (0, 1)))), found.side_std


def _window(points: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the lower and upper corner of a square around points, in whole pixels."""
    low, high = points.min(0), points.max(0)
    half = max(np.ceil(max(high - low) * (0.5 + MARGIN)), SMALLEST / 2)
    centre = np.rint((low + high) / 2)
    return (centre - half).astype(int), (centre + half).astype(int)


def _caption(matches: Matches, names: Mapping[int, str], row: int, error: Floats) -> str:
    """Return class, score, IoU, and the coordinate that is furthest off."""
    cls, iou = int(matches.cls[row]), matches.iou[row]
    name = " ".join(names.get(cls, str(cls)).split())
    name = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
    column = int(error.argmax())
    coordinate = (UncertOBB if matches.oriented else UncertBoxes).coordinates[column]
    off = abs(matches.residual[row, column])
    length = f"{np.degrees(off):.1f}°" if coordinate == "angle" else f"{off:.1f} px"
    overlap = f"{iou:.2f}" if np.isfinite(iou) else "?"
    return f"{name} {matches.conf[row]:.2f}, IoU {overlap}\n{coordinate} off by {length} = {error[column]:.1f} σ"


def _legend(figure: Figure, title: str) -> None:
    """Say above the tiles what they show."""
    handles = [
        Patch(fc="none", ec=DETECTION, lw=2, label="detection"),
        Patch(fc=DETECTION, alpha=0.5, label="its sides ± σ"),
        Patch(fc="none", ec=OBJECT, lw=2, label="object (label)"),
    ]
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
