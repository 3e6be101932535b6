"""The drawable object classes and their geometry.

Pixel ``i`` covers the interval ``[i, i + 1)``: a shape with the box ``(0, 0, 8, 8)`` fills the first eight pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_uncert.synthetic.textures import Field, chevrons, lattice, rings

Points = NDArray[np.float64]


def _disc(width: float, height: float) -> Points:
    angles = np.arange(64) * (np.pi / 32)
    return np.stack([np.cos(angles) * width / 2, np.sin(angles) * height / 2], axis=1)


def _plate(width: float, height: float) -> Points:
    radius = 0.14 * min(width, height)
    arc = np.arange(9) * (np.pi / 16)
    corner = np.stack([np.cos(arc), np.sin(arc)], axis=1) * radius + [width / 2 - radius, height / 2 - radius]
    right = np.concatenate([corner[::-1] * [1, -1], corner])
    return np.concatenate([right, right[::-1] * [-1, 1]])


def _arrow(width: float, height: float) -> Points:
    half = [[-0.5, -0.27], [-0.02, -0.27], [-0.02, -0.5], [0.06, -0.5], [0.5, 0.0]]
    mirrored = [[x, -y] for x, y in half[-2::-1]]
    return np.array([*half, *mirrored, [-0.38, 0.0]]) * [width, height]


@dataclass(frozen=True)
class Shape:
    """A drawable class.

    Attributes:
        outline: Maps width and height in pixels to a polygon `float64[P, 2]` around the origin that touches all four
            sides of its box and points along +x.
        aspect: Range of the long side divided by the short side, at least 1.
        pattern: Maps a generator and box coordinates in [-1, 1] to the mixing weight of two colours.
    """

    outline: Callable[[float, float], Points]
    aspect: tuple[float, float]
    pattern: Callable[[np.random.Generator, Field, Field], Field]


SHAPES: dict[str, Shape] = {
    "disc": Shape(_disc, (1.25, 2.0), rings),
    "plate": Shape(_plate, (1.0, 2.4), lattice),
    "arrow": Shape(_arrow, (1.3, 2.2), chevrons),
}


def rotation(angle: float) -> Points:
    """Matrix `float64[2, 2]` that turns column vectors by ``angle`` radians, clockwise on screen (y points down)."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def corners(box: NDArray[np.float64] | tuple[float, ...]) -> Points:
    """Corners of a rotated box.

    Args:
        box: ``(cx, cy, w, h, angle)``, pixels and radians; ``w`` runs along ``(cos angle, sin angle)``.

    Returns:
        `float64[4, 2]`, pixels, in order around the box.
    """
    cx, cy, w, h, angle = box
    unit = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    return (unit * [w, h]) @ rotation(angle).T + [cx, cy]


def outline(name: str, box: tuple[float, ...]) -> Points:
    """Outline of an object in the image.

    Args:
        name: Class name from `SHAPES`.
        box: ``(cx, cy, w, h, angle)``, pixels and radians.

    Returns:
        Polygon `float64[P, 2]`, pixels, whose extent along the sides of ``box`` is exactly ``w`` by ``h``.
    """
    cx, cy, w, h, angle = box
    return SHAPES[name].outline(w, h) @ rotation(angle).T + [cx, cy]


def fill(polygon: Points, shape: tuple[int, int], subpixels: int = 1) -> NDArray[np.uint8]:
    """Rasterise a polygon.

    Args:
        polygon: `float64[P, 2]`, pixels.
        shape: Rows and columns of the mask.
        subpixels: Samples per pixel and axis; more than one gives soft edges.

    Returns:
        `uint8[shape]`, 255 inside and 0 outside.
    """
    canvas = np.zeros((shape[0] * subpixels, shape[1] * subpixels), np.uint8)
    cv2.fillPoly(canvas, [_fixed_point(polygon, subpixels)], 255, shift=4)
    return canvas if subpixels == 1 else cv2.resize(canvas, shape[::-1], interpolation=cv2.INTER_AREA)


def _fixed_point(polygon: Points, subpixels: int) -> NDArray[np.int32]:
    # OpenCV puts integer coordinates on pixel centres and, with shift=4, reads sixteenths.
    return np.rint((polygon * subpixels - 0.5) * 16).astype(np.int32)
