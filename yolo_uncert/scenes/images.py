"""Read a plain image as a whole, upright as its camera was held, and not one whose end is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy.typing as npt
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from ultralytics.utils import LOGGER


class SceneError(OSError):
    """A scene cannot be read, or holds nothing to look at."""


def read_whole(name: str) -> npt.NDArray[Any]:
    """Read an image with OpenCV."""
    LOGGER.info(
        f"{name} is read as a whole and without georeference, because rasterio is not installed: "
        "pip install 'yolo-uncert[geo]'"
    )
    try:
        image = read_upright(name) if is_turned(name) else cv2.imread(name, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise SceneError(f"{name} cannot be read as a whole; pip install 'yolo-uncert[geo]': {error}") from error
    if image is None:
        raise SceneError(f"{name} is no image that OpenCV reads, or damaged; pip install 'yolo-uncert[geo]' reads more")
    check_end(name)
    return image


def is_turned(name: str) -> bool:
    """Return whether a file is a JPEG whose camera was turned: its pixels are stored as the sensor lay (EXIF)."""
    try:
        with Path(name).open("rb") as file:
            if file.read(2) != b"\xff\xd8":
                return False
            file.seek(0)
            return bool(JpegImageFile(file).getexif().get(Base.Orientation, 1) != 1)
    except (OSError, SyntaxError):  # no file, or a damaged one: whoever reads it says so
        return False


def read_upright(name: str) -> npt.NDArray[Any]:
    """Read a JPEG as predict, val and prepare see it.

    Raises:
        SceneError: It is cut off, damaged or of a kind that OpenCV does not read.
    """
    check_end(name)
    image: npt.NDArray[Any] | None = cv2.imread(name, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    if image is None:
        raise SceneError(f"{name} is a JPEG that OpenCV does not read")
    return image


def check_end(name: str) -> None:
    """Refuse a PNG or JPEG whose end is missing: GDAL fills the one with noise, OpenCV the other with grey.

    Raises:
        SceneError: It is cut off or damaged.
    """
    with Path(name).open("rb") as file:
        start = file.read(2)
        file.seek(0)
        try:
            if start == b"\x89P":
                PngImageFile(file).verify()
            elif start == b"\xff\xd8":
                JpegImageFile(file).load()
        except (OSError, SyntaxError) as error:
            raise SceneError(f"{name} is damaged or cut off: {error}") from error
