"""Text in the corner of a frame."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

SMALLEST = 0.1
"""Size of letters that nobody can read; a line that does not fit even so is cut off."""


def draw_text(image: npt.NDArray[np.uint8], text: str) -> None:
    """Write a line of text on a dark ground into the lower left corner of an image, in place.

    The upper corners are where the labels of large boxes stand. The size of the letters follows that of the image; a
    line that does not fit is made smaller. No text, no ground.

    Args:
        image: Array[H, W, 3] BGR.
        text: Letters, digits and signs of ASCII.
    """
    if not text:
        return
    height, width = image.shape[:2]
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(height / 900, 0.3)
    size = _size(text, font, scale)
    pad = max(size[1] // 3, 1)
    while size[0] + 2 * pad > width and scale > SMALLEST:  # newer OpenCV draws letters in steps of a pixel only
        scale *= 0.9
        size = _size(text, font, scale)
        pad = max(size[1] // 3, 1)
    low = height - pad - max(size[1] // 5, 1)  # room for the part of a p below the line
    ground = image[max(low - size[1] - pad, 0) :, : size[0] + 2 * pad]
    ground //= 4
    cv2.putText(image, text, (pad, low), font, scale, (255, 255, 255), max(round(scale), 1), cv2.LINE_AA)


def _size(text: str, font: int, scale: float) -> Any:
    return cv2.getTextSize(text, font, scale, max(round(scale), 1))[0]
