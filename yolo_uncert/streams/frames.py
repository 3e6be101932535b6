"""Frames that a program hands over one by one: any iterator of arrays, or arrays on standard input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from ultralytics.data.loaders import LoadPilAndNumpy, SourceTypes
from ultralytics.utils import LOGGER

from yolo_uncert.streams.capture import FALLBACK_FPS
from yolo_uncert.streams.pixels import as_uint8


class Frames(LoadPilAndNumpy):
    """Frames of an iterator as one stream; the next one is asked for when the last one has been dealt with.

    Args:
        source: Images: PIL, or Array[H, W] grey, Array[H, W, 3] BGR, Array[H, W, 4] BGRA; 16-bit and floats are scaled
            as in :func:`as_uint8`. What is no image is reported and left out.
        channels: Channels that the model takes.
        name: Name of the results.
    """

    mode = "stream"
    bs = 1
    fps = FALLBACK_FPS

    def __init__(self, source: Iterable[Any], channels: int = 3, name: str = "frames") -> None:
        self.source_type = SourceTypes(stream=True)
        self.skipped: dict[str, str] = {}
        self.count = -1
        self._source, self._channels, self._name = source, channels, name

    def __iter__(self) -> Frames:
        self._frames = iter(self._source)
        return self

    def __next__(self) -> tuple[list[str], list[Any], list[str]]:
        """Return the name, the next image and its description."""
        for image in self._frames:
            self.count += 1
            try:
                image = as_uint8(image) if isinstance(image, np.ndarray) else image
                return [self._name], [self._single_check(image, self._channels)], [""]
            except (TypeError, ValueError) as error:
                self.skipped[f"{self._name} {self.count}"] = str(error)
                LOGGER.warning(f"{self._name} {self.count}: {error}")
        raise StopIteration

    def __len__(self) -> int:
        return self.bs

    def close(self) -> None:
        """Close the source if it is a generator, so that what it holds is let go."""
        if close := getattr(self._source, "close", None):
            close()


def npy_frames(stream: BinaryIO) -> Iterator[Any]:
    """Yield the frames of a stream of .npy arrays, one after the other, as ``np.save`` writes them.

    Args:
        stream: Array[H, W], Array[H, W, C], or several frames at once as Array[N, H, W, C].

    Raises:
        ValueError: The bytes are no .npy array.
    """
    pipe = _Pipe(stream)
    while start := pipe.read(1):
        pipe.give_back(start)
        try:
            array = np.lib.format.read_array(pipe, allow_pickle=False)  # type: ignore[arg-type]  # reads, no more
        except ValueError as error:
            if pipe.ended:
                LOGGER.warning("standard input: ends in the middle of a frame, which is left out")
                return
            raise ValueError(f"standard input: frames must come as .npy arrays (numpy.save): {error}") from error
        yield from array if array.ndim == 4 else [array]


class _Pipe:
    """A stream that cannot be searched, with one byte of look-ahead; NumPy would take a real file for one that can."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._ahead = stream, b""
        self.ended = False

    def give_back(self, byte: bytes) -> None:
        self._ahead = byte

    def read(self, size: int) -> bytes:
        ahead, self._ahead = self._ahead[:size], self._ahead[size:]
        rest = self._stream.read(size - len(ahead)) if size > len(ahead) else b""
        self.ended = len(ahead) + len(rest) < size
        return ahead + rest
