"""One rule for images that are not 8-bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def as_uint8(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return an image in 8 bits by its type, of floats also by whether any exceeds 1; none is stretched to its range.

    16-bit values keep their high byte (65535 becomes 255), as Ultralytics reads them for training. Floats are taken for
    0 to 1 if none of the image exceeds 1, else for 0 to 255. Everything else is clipped to 0 to 255. NaN becomes 0.

    Args:
        image: Array[H, W] or Array[H, W, C].
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return (image >> 8).astype(np.uint8)
    if image.dtype == np.bool_:
        return image.astype(np.uint8) * np.uint8(255)
    if image.dtype.kind == "f":
        image = np.nan_to_num(image, nan=0.0)
        image = image * 255 if image.size and image.max() <= 1 else image
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
