"""Drawing of textured, blurred objects."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from yolo_uncert.synthetic.shapes import SHAPES, Points, fill, outline, rotation
from yolo_uncert.synthetic.textures import Field, random_colour

_SUBPIXELS = 4


def paint(rng: np.random.Generator, image: Field, name: str, box: tuple[float, ...], blur: float) -> None:
    """Draw a textured object onto an image, in place.

    Colour and coverage are blurred together before they are laid over the image: the object gets soft, what lies
    under it stays sharp.

    Args:
        rng: Source of the colours and of the pattern.
        image: `float32[H, W, 3]`, BGR in [0, 255].
        name: Class name from `SHAPES`.
        box: ``(cx, cy, w, h, angle)``, pixels and radians, its centre inside the image.
        blur: Standard deviation of the Gaussian blur, pixels; 0 draws the object sharp.
    """
    polygon = outline(name, box)
    pad = 3 * blur + 2
    x0, y0 = np.floor(polygon.min(axis=0) - pad).astype(int).tolist()
    x1, y1 = np.ceil(polygon.max(axis=0) + pad).astype(int).tolist()
    left, top = max(-x0, 0), max(-y0, 0)
    view = image[y0 + top : y1, x0 + left : x1]

    local = (box[0] - x0, box[1] - y0, *box[2:])
    alpha = fill(polygon - [x0, y0], (y1 - y0, x1 - x0), _SUBPIXELS).astype(np.float32)[..., None] / 255
    colour = _texture(rng, name, local, alpha.shape[:2], cv2.mean(view)[:3])
    layer = np.concatenate([_outlined(colour, polygon - [x0, y0]) * alpha, alpha], axis=2)
    if blur > 0:
        layer = cv2.GaussianBlur(layer, (0, 0), blur, borderType=cv2.BORDER_CONSTANT)
    layer = layer[top : top + view.shape[0], left : left + view.shape[1]]
    view *= 1 - layer[..., 3:]
    view += layer[..., :3]


def _texture(
    rng: np.random.Generator, name: str, box: tuple[float, ...], shape: tuple[int, int], surroundings: Sequence[float]
) -> Field:
    """Two-colour pattern in the frame of the box, lit from the top left of the image."""
    cx, cy, w, h, angle = box
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32) + np.float32(0.5)
    x, y = x - np.float32(cx), y - np.float32(cy)
    along, across = rotation(angle).T.astype(np.float32)
    u = (along[0] * x + along[1] * y) * np.float32(2 / w)
    v = (across[0] * x + across[1] * y) * np.float32(2 / h)

    candidates = [random_colour(rng, (0.6, 0.95), (0.55, 1.0)) for _ in range(3)]
    base = max(candidates, key=lambda colour: float(np.abs(colour - surroundings).sum()))
    second = random_colour(rng, (0.0, 0.7), (0.1, 0.35) if base.mean() > 120 else (0.8, 1.0))
    mix = np.float32(0.85) * SHAPES[name].pattern(rng, u, v)
    light = 1 - np.float32(0.2 / max(w, h)) * (x + y)
    return cv2.merge([(b + mix * (s - b)) * light for b, s in zip(base, second, strict=True)])


def _outlined(colour: Field, polygon: Points) -> Field:
    """Darken a rim about one and a half pixels wide."""
    rim = np.zeros(colour.shape[:2], np.uint8)
    points = np.rint((polygon - 0.5) * 16).astype(np.int32)
    cv2.polylines(rim, [points], True, 255, 3, cv2.LINE_AA, 4)
    return colour * (1 - rim.astype(np.float32)[..., None] * np.float32(0.5 / 255))
