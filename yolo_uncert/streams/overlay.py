"""Text in the corner of a frame."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt


def draw_text(image: npt.NDArray[np.uint8], text: str) -> None:
    """Write a line of text on a dark ground into the upper left corner of an image, in place.

    The size of the letters follows that of the image; a line that does not fit is made smaller.

    Args:
        image: Array[H, W, 3] BGR.
        text: Letters, digits and signs of ASCII.
    """
    height, width = image.shape[:2]
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(height / 900, 0.3)
    size = _size(text, font, scale)
    if size[0] > width:
        scale *= width / size[0]
        size = _size(text, font, scale)
    pad = max(size[1] // 3, 1)
    ground = image[: size[1] + 2 * pad, : size[0] + 2 * pad]
    ground //= 3
    cv2.putText(image, text, (pad, size[1] + pad), font, scale, (255, 255, 255), max(round(scale), 1), cv2.LINE_AA)


def _size(text: str, font: int, scale: float) -> Any:
    return cv2.getTextSize(text, font, scale, max(round(scale), 1))[0]
