"""Windows that cover a scene, and which of them sees a box whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolo_uncert.options import OptionError

EDGE = 4.0
"""Pixels from an inner border within which a box counts as touching it: the box of a cut object ends about there."""


class Tile(NamedTuple):
    """A window of a scene in pixels, ``x2`` and ``y2`` exclusive."""

    x1: int
    y1: int
    x2: int
    y2: int


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return where the tiles of one axis begin.

    Neighbours overlap by at least ``overlap``. The last tile is shifted inwards to end with the scene, so that no tile
    is smaller than ``tile`` unless the scene is.

    Args:
        length: Pixels of the scene.
        tile: Pixels of a tile.
        overlap: Pixels that neighbours share, from 0 to ``tile - 1``.

    Raises:
        OptionError: A number is out of its range.
    """
    if tile < 1 or not 0 <= overlap < tile:
        raise OptionError(f"tile must be at least 1 and overlap from 0 to tile - 1, not tile={tile}, overlap={overlap}")
    if length < 1:
        raise OptionError(f"a scene has at least one pixel, not {length}")
    last = max(length - tile, 0)
    return [*range(0, last, tile - overlap), last]


def tile_rows(width: int, height: int, tile: int, overlap: int) -> list[list[Tile]]:
    """Return the tiles of a scene, a list for each row, from the top left; all have the same size.

    Args:
        width: Pixels of the scene.
        height: Pixels of the scene.
        tile: Side of a tile in pixels.
        overlap: Pixels that neighbours share at least.

    Raises:
        OptionError: A number is out of its range.
    """
    columns, rows = starts(width, tile, overlap), starts(height, tile, overlap)
    return [[Tile(x, y, min(x + tile, width), min(y + tile, height)) for x in columns] for y in rows]


def touches_inner(extents: npt.NDArray[Any], tile: Tile, size: tuple[int, int], edge: float = EDGE) -> npt.NDArray[Any]:
    """Return the mask of the boxes that reach a border of their tile behind which the scene goes on.

    Args:
        extents: ``Array[N, 4]`` in ``(x1, y1, x2, y2)`` format, pixels of the scene.
        tile: The tile that they were found in.
        size: Width and height of the scene.
        edge: Distance in pixels that counts as touching.
    """
    return ~seen_whole(extents, [tile], size, edge)


def seen_whole(
    extents: npt.NDArray[Any], tiles: Sequence[Tile], size: tuple[int, int], edge: float = EDGE
) -> npt.NDArray[Any]:
    """Return the mask of the boxes that lie in one of the tiles clear of its inner borders.

    Args:
        extents: ``Array[N, 4]`` in ``(x1, y1, x2, y2)`` format, pixels of the scene.
        tiles: Tiles to look at.
        size: Width and height of the scene.
        edge: Distance in pixels that counts as touching a border.
    """
    whole = np.zeros(len(extents), bool)
    for tile in tiles:
        low, high = inner_limits(tile, size, edge)
        whole |= ((extents[:, :2] >= low) & (extents[:, 2:] <= high)).all(1)
    return whole


def inner_limits(tile: Tile, size: tuple[int, int], edge: float) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the least and the greatest ``(x, y)`` of what does not touch an inner border.

    Args:
        tile: A tile.
        size: Width and height of the scene.
        edge: Distance in pixels that counts as touching.

    Returns:
        Two ``Array[2]``, infinite where the border is that of the scene.
    """
    low = np.where(np.array(tile[:2]) > 0, np.array(tile[:2]) + edge, -np.inf)
    high = np.where(np.array(tile[2:]) < np.array(size), np.array(tile[2:]) - edge, np.inf)
    return low, high
