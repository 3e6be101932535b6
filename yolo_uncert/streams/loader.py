"""Several streams at once, as the loader that Ultralytics' predictor iterates over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Condition
from typing import Any

from ultralytics.data.loaders import LoadStreams, SourceTypes

from yolo_uncert.streams.capture import FALLBACK_FPS, open_capture
from yolo_uncert.streams.reader import Frame, Reader, Rules

POLL = 0.2
"""Seconds after which a wait for frames looks up, so that Ctrl-C gets through on every platform."""


class Streams(LoadStreams):
    """Frames of several streams, in batches of whatever has arrived: no stream waits for another.

    It is a :class:`LoadStreams` by name only, which is how Ultralytics recognises a loader. There every batch holds a
    frame of each stream, and the first stream to end ends them all; here ``slots`` tells whose frames a batch holds.

    Args:
        sources: Camera numbers, addresses, or paths of videos.
        names: A name for each, all different.
        rules: How to read them.
        most: Most frames in a batch, for a model that is exported for a fixed batch; None: one of each stream.
        opener: Opens a source; something like ``cv2.VideoCapture``.

    Attributes:
        slots: Stream of each image in the batch, counted from 0.
        captured: When each image arrived, in seconds of ``time.perf_counter``.
        numbers: Number of each image among the frames of its stream.
        readers: One for each stream.
    """

    mode = "stream"

    def __init__(
        self,
        sources: Sequence[str | int],
        names: Sequence[str],
        rules: Rules,
        most: int | None = None,
        opener: Callable[[str | int], Any] = open_capture,
    ) -> None:
        self.source_type = SourceTypes(stream=True)
        self.sources = list(names)
        self.bs = len(self.sources)
        self.count = -1
        self.fps: float | list[float] = FALLBACK_FPS
        self.slots: list[int] = []
        self.captured: list[float] = []
        self.numbers: list[int] = []
        self.live = True
        self._news = Condition()
        self._most = most or self.bs
        self._next = 0
        self.readers = [
            Reader(source, name, rules, self._news, opener) for source, name in zip(sources, names, strict=True)
        ]

    def __iter__(self) -> Streams:
        for reader in self.readers:
            reader.start()
        return self

    def __next__(self) -> tuple[list[str], list[Any], list[str]]:
        """Return names, images and descriptions of the frames that have arrived; wait for one if there is none.

        Raises:
            ConnectionError: All streams have gone, and none ever had a frame.
        """
        frames = self._wait()
        if not frames:
            if not any(reader.frames for reader in self.readers):
                raise ConnectionError(f"no frame from {', '.join(self.sources)}")
            raise StopIteration
        self.count += 1
        self.slots = list(frames)
        self.captured = [frame.captured for frame in frames.values()]
        self.numbers = [frame.number for frame in frames.values()]
        return [self.sources[i] for i in frames], [f.image for f in frames.values()], [""] * len(frames)

    def __len__(self) -> int:
        return self.bs

    @property
    def dropped(self) -> int:
        """Frames of all streams that the model was too slow for."""
        return sum(reader.dropped for reader in self.readers)

    @property
    def reconnects(self) -> int:
        """Times that a lost stream came back."""
        return sum(reader.reconnects for reader in self.readers)

    @property
    def skipped(self) -> dict[str, str]:
        """Recordings of which the end is missing, by name, and what is known of it."""
        return {reader.name: reader.cut for reader in self.readers if reader.cut}

    def close(self) -> None:
        """Stop all readers."""
        for reader in self.readers:
            reader.stop(wait=0)
        for reader in self.readers:
            reader.stop()

    def _wait(self) -> dict[int, Frame]:
        """Return the oldest waiting frame of each stream, or nothing at the end of all.

        Where a batch cannot hold them all, the streams take turns.
        """
        with self._news:
            while True:
                over = all(reader.done for reader in self.readers)
                turn = [(self._next + k) % self.bs for k in range(self.bs)]
                ready = [i for i in turn if self.readers[i].waiting][: self._most]
                if ready or over:
                    break
                self._news.wait(POLL)
        if ready:
            self._next = ready[-1] + 1
        return {i: self.readers[i].take() for i in sorted(ready)}
