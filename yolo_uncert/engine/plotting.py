"""Drawing of boxes with sigma bands: where each side may lie, within one standard deviation.

Shape shorthand: N boxes; coordinates and standard deviations in pixels of the image that is drawn on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from ultralytics.utils.plotting import Annotator, colors

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.engine.labels import fit_text, place_labels, text_size

Image: TypeAlias = npt.NDArray[np.uint8]
Points: TypeAlias = npt.NDArray[np.floating[Any]]
Color: TypeAlias = tuple[int, int, int]

PLUS_MINUS = "±" if int(cv2.__version__.split(".")[0]) >= 5 else "+-"
"""Older OpenCV draws ASCII only."""

EDGE = 0.7
"""Pixels by which OpenCV's antialiased fill exceeds a polygon on every side."""

_SHIFT = 4  # fractional bits of OpenCV's coordinates
_FAR = 2**15  # pixels; keeps the fixed-point coordinates of an exploded sigma far from the int32 limit


def side_bands(xywhr: Points, sigma: Points) -> Points:
    """Return the four bands of each box: side distance plus and minus its sigma, as long as the box with its bands.

    Args:
        xywhr: Array[N, 5], centre, width and height in pixels, angle in radians; 0 for an axis-aligned box.
        sigma: Array[N, 4], standard deviations in pixels of the left, top, right and bottom side along the box axes.

    Returns:
        Array[N, 4, 4, 2], corner points (x, y) of the left, top, right and bottom band.
    """
    half = xywhr[:, [2, 3, 2, 3]] / 2 * np.array([-1, -1, 1, 1])
    near, far = half - sigma, half + sigma
    (l0, t0, r0, b0), (l1, t1, r1, b1) = near.T, far.T
    u = np.stack([(l0, l1, l1, l0), (l0, r1, r1, l0), (r0, r1, r1, r0), (l0, r1, r1, l0)])
    v = np.stack([(t0, t0, b1, b1), (t0, t0, t1, t1), (t0, t0, b1, b1), (b0, b0, b1, b1)])
    cos, sin = np.cos(xywhr[:, 4]), np.sin(xywhr[:, 4])
    points = np.stack((xywhr[:, 0] + u * cos - v * sin, xywhr[:, 1] + u * sin + v * cos), -1)
    return points.transpose(2, 0, 1, 3)


def draw_bands(image: Image, bands: Points, colors: Sequence[Color], alpha: float = 0.4) -> Image:
    """Blend translucent bands into an image.

    All bands are painted opaque on one layer, the first box on top, and the layer is blended once, inside the
    rectangle around the bands. So overlapping bands do not add up, however many boxes there are.

    Args:
        image: Array[H, W, 3] of uint8; not changed.
        bands: Array[N, K, P, 2], K convex polygons of P points per box, in pixels (0 is the left or upper edge).
        colors: One colour per box, in the channel order of the image.
        alpha: Opacity in [0, 1].

    Returns:
        New Array[H, W, 3].
    """
    out = image.copy()
    if not len(bands):
        return out
    bands = np.clip(bands, -_FAR, _FAR)
    size = np.array(image.shape[1::-1])
    low = np.clip(np.floor(bands.min((0, 1, 2))).astype(int) - 1, 0, size)
    high = np.clip(np.ceil(bands.max((0, 1, 2))).astype(int) + 1, low, size)
    roi = out[low[1] : high[1], low[0] : high[0]]
    if not roi.size:
        return out
    layer = roi.copy()
    # OpenCV's integer coordinates are pixel centres, those of a box are pixel edges
    fixed = np.rint((bands - low - 0.5) * 2**_SHIFT).astype(np.int32, order="C")
    for polygons, color in zip(fixed[::-1], colors[::-1], strict=True):
        for polygon in polygons:
            cv2.fillConvexPoly(layer, polygon, color, cv2.LINE_AA, _SHIFT)
    roi[:] = cv2.addWeighted(layer, alpha, roi, 1 - alpha, 0)
    return out


def draw_detections(
    image: Image, found: UncertBoxes | UncertOBB, names: Mapping[int, str], options: Mapping[str, Any]
) -> Image:
    """Draw boxes with their bands and labels.

    Args:
        image: Array[H, W, 3] BGR of uint8; not changed.
        found: At least one box with ``side_std``, as numpy arrays.
        names: Class names.
        options: Arguments of ``Results.plot`` by name; ``labels=None`` leaves the labels out where they do not fit.
            Labels are above the lines, those of the first boxes on top, each at the corner where it hides least.

    Returns:
        New Array[H, W, 3].
    """
    oriented = isinstance(found, UncertOBB)
    xywhr = found.xywhr if oriented else np.pad(found.xywh, ((0, 0), (0, 1)))
    sigma: Any = found.side_std
    palette = _colors(found, options["color_mode"])
    known = np.flatnonzero(np.isfinite(sigma).all(1))
    bands = side_bands(xywhr[known], np.maximum(sigma[known] - EDGE, 0))
    image = draw_bands(image, bands, [palette[i] for i in known])
    annotator = Annotator(
        image, options["line_width"], options["font_size"], options["font"], options["pil"], example=names
    )
    if options["line_width"] is None:
        annotator.lw = _thin(annotator.lw, xywhr[:, 2:4].min(1))
    texts = _texts(found, sigma.mean(1), names, options)
    if options["labels"] is None and not fit_text(annotator, texts, found.xyxy[:, 2] - found.xyxy[:, 0]):
        texts = [""] * len(texts)
    corners = found.xyxyxyxy if oriented else found.xyxy
    for i in reversed(range(len(found))):
        annotator.box_label(corners[i], "", palette[i])
    if any(texts):
        sizes = np.array([text_size(annotator, text) for text in texts])
        points = corners if oriented else corners[:, [[0, 1], [0, 3], [2, 1], [2, 3]]]
        places = place_labels(sizes, points, image.shape[1::-1])
        for i in reversed(range(len(found))):
            annotator.box_label(places[[i, i]], texts[i], palette[i])  # a box without extent: its label alone
    return np.asarray(annotator.result())


def _thin(line_width: int, sides: Points) -> int:
    """Return a line width that leaves the bands to be seen: half of Ultralytics', less for small boxes."""
    return max(min(line_width // 2, round(float(np.median(sides)) / 30)), 1)


def _colors(found: UncertBoxes | UncertOBB, color_mode: str) -> list[Color]:
    """Return the colours that Ultralytics gives to the boxes: by class, by track, or counted from the last box."""
    instances = found.id if found.is_track else np.arange(len(found))[::-1]
    keys = found.cls if color_mode == "class" else instances
    return [colors(int(key), True) for key in keys]


def _texts(
    found: UncertBoxes | UncertOBB, sigma: Points, names: Mapping[int, str], options: Mapping[str, Any]
) -> list[str]:
    """Return the labels of Ultralytics with the mean sigma of each box at the end, where it is known."""
    named = options["labels"] is None or options["labels"]
    texts = []
    for i, spread in enumerate(sigma):
        parts = [names[int(found.cls[i])]] if named else []
        if named and found.is_track:
            parts.insert(0, f"id:{int(found.id[i])}")
        if options["conf"]:
            parts.append(f"{found.conf[i]:.2f}")
        if named and np.isfinite(spread):
            parts.append(f"{PLUS_MINUS}{spread:.1f}px")
        texts.append(" ".join(parts))
    return texts
