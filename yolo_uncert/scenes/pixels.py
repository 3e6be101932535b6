"""From the bands of a raster to the 8-bit images that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from yolo_uncert.options import OptionError
from yolo_uncert.scenes.images import SceneError
from yolo_uncert.scenes.raster import Raster
from yolo_uncert.scenes.tiles import Tile

OVERVIEW = 1024
"""Rows and columns at most from which the brightness of a scene is taken."""

STRETCH = (2.0, 98.0)
"""Percentiles of a band that become black and white."""


@dataclass(frozen=True)
class Look:
    """How a scene is shown to a model, the same in all tiles.

    Attributes:
        bands: Numbers from 1 of the bands that become red, green and blue.
        low: Value of each that becomes 0; None leaves 8-bit pixels as they are.
        high: Value of each that becomes 255.
    """

    bands: tuple[int, int, int]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


def choose_look(raster: Raster, bands: tuple[int, int, int], stretch: Sequence[float] = STRETCH) -> Look:
    """Return how to show a scene: 8-bit pixels as they are, all others between two percentiles of each band.

    The percentiles are those of the band's valid pixels in a decimated overview of the whole scene: 12-bit data in
    16-bit files fills the 8 bits, and a tile does not depend on what lies in it.

    Args:
        raster: Open scene.
        bands: Bands that become red, green and blue.
        stretch: Two percentiles, 0 to 100.

    Raises:
        OptionError: The percentiles are none.
        SceneError: The overview has no valid pixel.
    """
    if np.shape(stretch) != (2,) or not 0 <= stretch[0] < stretch[1] <= 100:
        raise OptionError(f"stretch must be two percentiles from 0 to 100, the lower one first, not {stretch}")
    if all(raster.dtypes[band] == np.uint8 for band in bands):
        return Look(bands)
    step = max(1, -(-max(raster.width, raster.height) // OVERVIEW))
    values, mask = raster.read(bands, Tile(0, 0, raster.width, raster.height), step)
    if not mask.any():
        raise SceneError("the scene holds no valid pixel: all of its overview is nodata or transparent")
    pairs = zip(values.astype(np.float64), mask, strict=True)
    ends = [np.percentile(v[m], stretch).tolist() if m.any() else (0.0, 0.0) for v, m in pairs]
    low, high = zip(*ends, strict=True)
    return Look(bands, low, high)


def read_tile(raster: Raster, tile: Tile, look: Look) -> npt.NDArray[np.uint8] | None:
    """Return a window as ``Array[H, W, 3]``, blue first. None if no pixel is valid in any band.

    Invalid pixels are black. Where one of three stretched bands has no value it counts as 0; those of 8 bits stay as
    they are, because with a nodata value of 0 or 255 that is part of a colour.

    Args:
        raster: Open scene.
        tile: Window.
        look: How to show it.

    Raises:
        SceneError: The file is damaged there.
    """
    values, mask = raster.read(look.bands, tile)
    if not mask.any():
        return None
    if look.low is not None and look.high is not None:
        values = np.where(mask, _stretched(np.where(mask, values, 0), look.low, look.high), 0)
    elif not mask.all():
        values = np.where(mask.any(0), values, 0)
    return np.ascontiguousarray(values[::-1].transpose(1, 2, 0), np.uint8)


def _stretched(values: npt.NDArray[Any], low: Sequence[float], high: Sequence[float]) -> npt.NDArray[Any]:
    """Map low to 0 and high to 255, linearly, and clip; a band of one value becomes 0."""
    bottom, top = (np.array(ends)[:, None, None] for ends in (low, high))
    span = np.where(top > bottom, top - bottom, np.inf)
    return np.clip(np.rint((values - bottom) / span * 255), 0, 255)
