"""Written videos that keep the rate, size and duration of what they show, and stay readable whatever happens."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
from ultralytics.utils import LOGGER

from yolo_uncert.streams.timing import Pace

SUFFIX, CODEC = ".avi", "MJPG"
"""A video of single pictures, without an index that only its end would bring: readable even after a kill."""


class VideoFile:
    """A video of constant rate and size.

    Not a subclass of OpenCV's writer: that would be freed by an allocator other than its own.

    Args:
        path: File to write; its suffix becomes ``.avi``.
        fps: Frames per second.
        size: Width and height in pixels.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self.path, self.size, self.fps = path.with_suffix(SUFFIX), size, fps
        self._pace = Pace(fps)
        self._last: Any = None
        self._scaled = False
        # FFmpeg's writer cuts off an odd column or row. OpenCV's own keeps it, but takes whole frame rates only.
        self._own = bool(size[0] % 2 or size[1] % 2)
        backend = cv2.CAP_OPENCV_MJPEG if self._own else cv2.CAP_ANY
        rate = max(round(fps), 1) if self._own else fps
        self._writer = cv2.VideoWriter(str(self.path), backend, cv2.VideoWriter.fourcc(*CODEC), float(rate), size)
        if not self._writer.isOpened():
            raise OSError(f"cannot write the video {self.path}")

    def catch_up(self, captured: float) -> None:
        """Repeat the last frame for the time that has passed until the next one was captured.

        Args:
            captured: Seconds of a monotonic clock.
        """
        for _ in range(self._pace.repeats(captured)):
            self._writer.write(self._last)

    def write(self, image: Any) -> None:
        """Append a frame, scaled to the size of the video if it has another (a camera that has been switched).

        Args:
            image: Array[H, W, 3] of uint8, BGR.
        """
        if image.shape[1::-1] != self.size:
            if not self._scaled:
                old, new = ("x".join(map(str, size)) for size in (image.shape[1::-1], self.size))
                LOGGER.warning(f"{self.path}: frames have become {old}, they are scaled to {new}")
            self._scaled = True
            image = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
        self._writer.write(image)
        self._last = image

    def release(self) -> None:
        """Finish the file."""
        self._writer.release()
        if self._own:
            self._own = False
            set_rate(self.path, self.fps)


def set_rate(path: Path, fps: float) -> None:
    """Write a fractional frame rate into the header of an AVI file by OpenCV's own writer.

    Reference: Microsoft, AVIMAINHEADER (microseconds per frame) and AVISTREAMHEADER (rate / scale).
    """
    with path.open("r+b") as file:
        head = file.read(136)
        if head[24:28] != b"avih" or head[100:104] != b"strh":
            return
        for offset, fields in ((32, (round(1e6 / fps),)), (128, (1000, round(1000 * fps)))):
            file.seek(offset)
            file.write(struct.pack(f"<{len(fields)}I", *fields))
