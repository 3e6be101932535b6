"""A thread that reads one stream, so that a slow model sees fresh frames and not a growing queue of old ones."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Condition, Event, Thread
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from ultralytics.utils import LOGGER

from yolo_uncert.streams.capture import FALLBACK_FPS, PUSHED, is_remote, open_capture
from yolo_uncert.streams.files import TOLERANCE

Image: TypeAlias = npt.NDArray[np.uint8]

STABLE = 5.0
"""Seconds after which a connection counts as recovered: the next loss starts again with short delays."""

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds between the attempts to open a stream again."""


@dataclass(frozen=True)
class Rules:
    """How a stream is read.

    Attributes:
        keep: Frames that may wait for the model; the oldest is dropped for a new one, so 1 keeps the newest alone.
        stride: Every how many frames one is kept.
        patience: Seconds for which a lost stream is tried again; infinity: for ever.
        channels: 1 for grey images, else BGR.
    """

    keep: int = 1
    stride: int = 1
    patience: float = 60.0
    channels: int = 3


@dataclass(frozen=True)
class Frame:
    """One frame of a stream.

    Attributes:
        image: Array[H, W, C] of uint8, BGR or grey.
        number: Which of the frames kept by the stride it is, from 0; a dropped frame leaves a gap.
        captured: When it arrived, in seconds of ``time.perf_counter``.
    """

    image: Image
    number: int
    captured: float


def delays() -> Iterator[float]:
    """Yield the seconds to wait before each attempt: doubled every time, and up to half of it taken off at random.

    The random part keeps the readers of one server from coming back all at once.
    """
    random = np.random.default_rng()
    for tries in itertools.count():
        yield min(FIRST_DELAY * 2.0 ** min(tries, 32), LONGEST_DELAY) * float(random.uniform(0.5, 1.0))


def _for(seconds: float) -> str:
    return f"for {seconds:g} s" if math.isfinite(seconds) else "for ever"


class Reader:
    """Reads one stream in a thread of its own until it ends, is lost for too long, or :meth:`stop` is called.

    A live stream (camera, network) never waits: when ``rules.keep`` frames are waiting, the oldest is dropped. What has
    an end (a file, a recording on a web server) is not live: nothing of it is dropped, the thread waits.

    Attributes:
        cut: What is missing of a recording that ended before its time, or nothing.

    Args:
        source: Camera number, stream address, or path of a video.
        name: Name in messages.
        rules: How to read.
        news: Notified of every frame and of the end; shared by the readers of several streams.
        opener: Opens a source; something like ``cv2.VideoCapture``.
    """

    def __init__(
        self,
        source: str | int,
        name: str,
        rules: Rules,
        news: Condition | None = None,
        opener: Callable[[str | int], Any] = open_capture,
    ) -> None:
        self.name = name
        self.fps = FALLBACK_FPS
        self.dropped = self.reconnects = 0
        self.done = False
        self.cut = ""
        self._source, self._rules, self._open = source, rules, opener
        self._piped = str(source).startswith("pipe:")
        self._news = news or Condition()
        self._queue: deque[Frame] = deque()
        self._stopped = Event()
        self._count = 0
        self.live, self._ends = True, False
        self._local: Any = None
        self._tried = False
        self._alive = math.nan
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start to read, if it has not been started."""
        if self._thread.ident or self.done:
            return
        # Some platforms give a camera to the main thread alone, and one that is not there will not turn up.
        local = None if is_remote(self._source) else self._open(self._source)
        if local is not None and not local.isOpened():
            LOGGER.warning(f"{self.name}: cannot be opened")
            self.done = True
            return
        self._local, self._tried, self._alive = local, local is not None, time.monotonic()
        self._thread.start()

    def stop(self, wait: float = 2.0) -> None:
        """Stop to read, and wait some seconds for it; a read that hangs is left to its own time limit."""
        self._stopped.set()
        with self._news:
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join(wait)

    @property
    def waiting(self) -> bool:
        """Whether there is a frame to take."""
        return bool(self._queue)

    @property
    def frames(self) -> int:
        """Number of frames that have arrived, dropped ones included."""
        return self._count

    def take(self) -> Frame:
        """Return the oldest frame that waits.

        Raises:
            IndexError: None does.
        """
        with self._news:
            frame = self._queue.popleft()
            self._news.notify_all()
        return frame

    def _run(self) -> None:
        try:
            self._keep_reading()
        except Exception as error:
            LOGGER.warning(f"{self.name}: {type(error).__name__}: {error}")
        finally:
            with self._news:
                self.done = True
                self._news.notify_all()

    def _keep_reading(self) -> None:
        capture, pauses = self._local, delays()
        while not self._stopped.is_set():
            capture = capture or self._connect(pauses)
            if capture is None:
                return
            began = time.monotonic()
            try:
                total = self._describe(capture)
                grabbed = self._read(capture)
            finally:
                capture.release()
            if self._stopped.is_set():
                return
            if self._ends:
                self._check_length(grabbed, total)
                return
            pauses = delays() if time.monotonic() - began > STABLE else pauses
            capture = None

    def _connect(self, pauses: Iterator[float]) -> Any:
        """Return an open capture, or None if it takes too long since the last frame."""
        again, seen, patience = self._tried, self._count, self._rules.patience
        self._tried = True
        for tries in itertools.count():
            if again or tries:  # the very first attempt has nothing to wait for
                if not again and self._piped:
                    LOGGER.warning(f"{self.name}: is no video")  # and what was read of it is gone
                    return None
                if tries == (0 if again else 1):
                    state = f"lost after {seen} frames" if again else "no connection"
                    LOGGER.warning(f"{self.name}: {state}, trying again {_for(patience)}")
                left = patience - (time.monotonic() - self._alive)
                if left <= 0:
                    LOGGER.warning(f"{self.name}: given up, no frame {_for(patience)}")
                    return None
                self._stopped.wait(min(next(pauses), left))
            if self._stopped.is_set():
                return None
            capture = self._open(self._source)
            if capture.isOpened():
                if again:
                    self.reconnects += 1
                    LOGGER.info(f"{self.name}: back after {time.monotonic() - self._alive:.1f} s")
                return capture
            capture.release()
        return None

    def _check_length(self, grabbed: int, total: int) -> None:
        """Report a recording that ended before its time; from its start it would come twice."""
        if total - grabbed > max(TOLERANCE * total, 1):
            self.cut = f"is damaged, cut off or lost: {grabbed} of {total} frames were read"
            LOGGER.warning(f"{self.name}: {self.cut}")

    def _describe(self, capture: Any) -> int:
        """Learn the rate of the stream, and whether it is live and has an end; return its frames, 0 if it has none."""
        fps, total = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0 < fps < 1000 else FALLBACK_FPS  # a 90 kHz clock is no rate, and NaN fails both
        # FFmpeg reports a huge negative number where there is no end, V4L2 reports -1.
        self._ends = self._piped or (math.isfinite(total) and total > 0)
        self.live = not self._ends or str(self._source).startswith(tuple(f"{scheme}://" for scheme in PUSHED))
        return int(total) if math.isfinite(total) and total > 0 else 0

    def _read(self, capture: Any) -> int:
        """Read until there is no more, and return how many frames there were."""
        grabbed = 0
        while not self._stopped.is_set():
            for _ in range(self._rules.stride):
                if not capture.grab():
                    return grabbed
                grabbed += 1
            captured, self._alive = time.perf_counter(), time.monotonic()
            read, image = capture.retrieve()
            if not read or image is None:
                continue  # one frame that cannot be decoded; a lost stream shows in grab()
            if self._rules.channels == 1:
                image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
            self._put(Frame(image, self._count, captured))
        return grabbed

    def _put(self, frame: Frame) -> None:
        with self._news:
            self._count += 1
            while not self.live and len(self._queue) >= self._rules.keep and not self._stopped.is_set():
                self._news.wait()
            if not self.live and self._stopped.is_set():
                return  # nobody wants it any more, so it is not dropped either
            while len(self._queue) >= self._rules.keep:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(frame)
            self._news.notify_all()
