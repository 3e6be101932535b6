"""Rates and latencies of a run that may last for days: every object here has a bounded size."""

from __future__ import annotations

import math
from collections import Counter, deque

import numpy as np


class Meter:
    """Frames per second and latencies of the most recent frames.

    Args:
        window: Number of frames that are looked back on.
    """

    def __init__(self, window: int = 100) -> None:
        self._ends: deque[float] = deque(maxlen=window)
        self._latencies: deque[float] = deque(maxlen=window)

    def add(self, end: float, latency: float) -> None:
        """Note a frame: when it was done, in seconds of a monotonic clock, and how long after its capture."""
        self._ends.append(end)
        self._latencies.append(latency)

    @property
    def fps(self) -> float:
        """Frames per second, NaN before the second frame."""
        span = self._ends[-1] - self._ends[0] if self._ends else 0.0
        return (len(self._ends) - 1) / span if span > 0 else math.nan

    def latency(self, q: float) -> float:
        """Return the quantile ``q`` in [0, 1] of the latencies in seconds, NaN before the first frame."""
        return float(np.quantile(self._latencies, q)) if self._latencies else math.nan


class Quantiles:
    """Quantiles of any number of positive values, from a histogram whose bins are one percent wide."""

    _WIDTH = math.log(1.01)

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Count a value; those below 1e-9 count as 1e-9."""
        self._bins[math.floor(math.log(max(value, 1e-9)) / self._WIDTH)] += 1

    def __call__(self, q: float) -> float:
        """Return the quantile ``q`` in [0, 1], at most half a percent off, NaN without values."""
        rank = q * sum(self._bins.values())
        for index in sorted(self._bins):
            rank -= self._bins[index]
            if rank <= 0:
                return math.exp((index + 0.5) * self._WIDTH)
        return math.nan


class Pace:
    """How often a frame has to be repeated for a video of constant rate to last as long as what it shows.

    Args:
        fps: Frames per second of the video.
        limit: Longest gap in seconds that is filled; a longer one is shortened to it.
    """

    def __init__(self, fps: float, limit: float = 2.0) -> None:
        self.fps = fps
        self._limit = limit
        self._start = 0.0
        self._written = 0

    def repeats(self, captured: float) -> int:
        """Return how many repeats of the frame before belong in front of a frame, and count both.

        Frames that come faster than the video's rate are all kept, none is repeated until time has caught up.

        Args:
            captured: Time of the frame in seconds of a monotonic clock.
        """
        if not self._written:
            self._start = captured
        missing = max(round((captured - self._start) * self.fps) - self._written, 0)
        filled = min(missing, int(self._limit * self.fps)) if self._written else 0
        self._start += (missing - filled) / self.fps
        self._written += filled + 1
        return filled
