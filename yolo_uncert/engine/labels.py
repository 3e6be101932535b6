"""Where labels of drawn boxes go, and how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from ultralytics.utils.plotting import Annotator

Points: TypeAlias = npt.NDArray[np.floating[Any]]

MAX_LABELS = 40
"""Number of boxes above which labels would hide the picture."""

MIN_TEXT_SCALE = 0.55
"""Smallest automatic text size, relative to Ultralytics' own: below it the letters of a 640-pixel image blur."""


def fit_text(annotator: Annotator, texts: Sequence[str], widths: Points) -> bool:
    """Shrink the text of an annotator until the median label is not wider than the median box.

    Text that PIL draws (non-Latin class names, ``pil=True``) keeps its size.

    Args:
        annotator: Annotator of Ultralytics; its text size is changed.
        texts: The labels.
        widths: Array[N], widths of the boxes in pixels.

    Returns:
        False when the labels would hide the picture: too many boxes, or boxes too small for readable letters.
    """
    if len(texts) > MAX_LABELS:
        return False
    scale = float(np.median(widths) / np.median([text_size(annotator, text)[0] for text in texts]))
    if scale >= 1:
        return True
    if annotator.pil or scale < MIN_TEXT_SCALE:
        return False
    annotator.sf *= scale
    annotator.tf = max(round(annotator.tf * scale), 1)
    return True


def text_size(annotator: Annotator, text: str) -> tuple[int, int]:
    """Return width and height in pixels of the field that an annotator draws behind a label."""
    if annotator.pil:
        width, height = annotator.font.getsize(text)
        return int(width), int(height)
    (width, height), _ = cv2.getTextSize(text, 0, annotator.sf, annotator.tf)
    return width, height + 3  # Ultralytics pads it so


def place_labels(sizes: Points, corners: Points, image: tuple[int, int]) -> npt.NDArray[np.intp]:
    """Choose for each label a place at one of the corners of its box where it hides as little of the others as can be.

    The first choice is Ultralytics': above the first corner, to the right. Labels are placed in their order, so that of
    the first box has its first choice.

    Args:
        sizes: Array[N, 2], width and height of the labels in pixels.
        corners: Array[N, 4, 2], corners of the boxes in pixels.
        image: Width and height of the image.

    Returns:
        Array[N, 2], the lower left corner of each label, inside the image where the label fits into it.
    """
    limits = np.maximum(np.array(image) - sizes, 0)
    taken = np.empty((0, 4))
    for size, points, limit in zip(sizes, corners, limits, strict=True):
        # Above or below each corner, to its right or to its left.
        shifts = size * [(0, -1), (0, 0), (-1, -1), (-1, 0)]
        low = np.clip(points[:, None] + shifts, 0, limit).transpose(1, 0, 2).reshape(-1, 2)
        fields = np.concatenate((low, low + size), 1)
        shared = np.minimum(fields[:, None, 2:], taken[:, 2:]) - np.maximum(fields[:, None, :2], taken[:, :2])
        hidden = np.maximum(shared, 0).prod(2).sum(1)
        taken = np.concatenate((taken, fields[None, hidden.argmin()]))
    return np.rint(taken[:, [0, 3]]).astype(int)
