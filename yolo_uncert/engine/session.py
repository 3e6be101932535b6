"""What one run of a predictor has done: rates and latencies while it lasts, a summary at its end."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultralytics.engine.results import Results

from yolo_uncert.streams.loader import Streams
from yolo_uncert.streams.timing import Meter, Quantiles

LISTED = 5
"""Files named in a summary; all of them are in ``Summary.skipped``."""


@dataclass(frozen=True)
class Summary:
    """A finished run, however it finished.

    Attributes:
        frames: Images and frames with a result.
        seconds: From the first frame to the last result.
        fps: Frames per second of all streams together.
        latency_p50: Median milliseconds from the capture of a frame (of a file: from its reading) to its result.
        latency_p95: What 95 percent of the frames do not exceed.
        boxes: Detections.
        dropped: Frames of streams that the model was too slow for.
        reconnects: Times that a lost stream came back.
        skipped: Files that could not be read, wholly or in part, and why.
        saved: Folder with what was written, if anything.
    """

    frames: int
    seconds: float
    fps: float
    latency_p50: float
    latency_p95: float
    boxes: int
    dropped: int = 0
    reconnects: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    saved: Path | None = None

    def __str__(self) -> str:
        parts = [f"{self.frames} frames in {self.seconds:.1f} s"]
        if self.frames:
            parts[0] += f" ({self.fps:.1f} fps)"
            parts += [f"latency p50 {self.latency_p50:.0f} ms p95 {self.latency_p95:.0f} ms", f"{self.boxes} boxes"]
        parts += [f"{n} {what}" for n, what in ((self.dropped, "dropped"), (self.reconnects, "reconnects")) if n]
        lines = [", ".join(parts)]
        if self.skipped:
            lines.append(f"{len(self.skipped)} not (fully) read:")
            lines += [f"  {name}: {why}" for name, why in list(self.skipped.items())[:LISTED]]
            if len(self.skipped) > LISTED:
                lines.append(f"  and {len(self.skipped) - LISTED} more")
        if self.saved:
            lines.append(f"saved in {self.saved}")
        return "\n".join(lines)


def rate_key(dataset: Any, path: str) -> str:
    """Return what the rates of an image go by: which of several streams it is of, ``""`` for all else."""
    return path if isinstance(dataset, Streams) and dataset.bs > 1 else ""


class Session:
    """Counts and clocks of one run."""

    def __init__(self) -> None:
        self.frames = self.boxes = 0
        self.captured: list[float] = []
        self._latencies = Quantiles()
        self._meters: dict[str, Meter] = {}
        self._open: deque[tuple[str, float]] = deque()
        self._first = self._last = math.nan

    def begin(self, dataset: Any, paths: Sequence[str]) -> None:
        """Note a batch whose images have just been read."""
        now = time.perf_counter()
        self.captured = list(dataset.captured) if isinstance(dataset, Streams) else [now] * len(paths)
        self._open = deque((rate_key(dataset, path), at) for path, at in zip(paths, self.captured, strict=True))
        self._first = now if math.isnan(self._first) else self._first

    def done(self, result: Any) -> None:
        """Note the next result of the batch, and put its latency in milliseconds into its ``speed``."""
        if not isinstance(result, Results) or not self._open:  # embeddings have neither boxes nor a clock
            return
        self._last = time.perf_counter()
        name, captured = self._open.popleft()
        latency = self._last - captured
        result.speed["latency"] = latency * 1e3
        self._meters.setdefault(name, Meter()).add(self._last, latency)
        self._latencies.add(latency)
        self.frames += 1
        self.boxes += len(result)

    def text(self, name: str) -> str:
        """Return rate and latency of one of several streams, or of all else (``""``); nothing before two frames."""
        meter = self._meters.get(name)
        if meter is None or math.isnan(meter.fps):
            return ""
        p50, p95 = (meter.latency(q) * 1e3 for q in (0.5, 0.95))
        return f"{meter.fps:.1f} fps  latency p50 {p50:.0f} ms  p95 {p95:.0f} ms"

    def summary(self, dataset: Any, saved: Path | None) -> Summary:
        """Return the summary of the run so far."""
        seconds = self._last - self._first if self.frames else 0.0
        return Summary(
            self.frames,
            seconds,
            self.frames / seconds if seconds > 0 else math.nan,
            self._latencies(0.5) * 1e3,
            self._latencies(0.95) * 1e3,
            self.boxes,
            getattr(dataset, "dropped", 0),
            getattr(dataset, "reconnects", 0),
            getattr(dataset, "skipped", {}),
            saved,
        )


def slot_view(dataset: Any, i: int) -> dict[str, Any]:
    """Return the attributes under which Ultralytics writes image ``i`` of a batch to the files of its own stream.

    Ultralytics keys the outputs of streams by the place in the batch, and gives them all 30 frames per second. It keys
    those of videos by name, with the rate of the loader.
    """
    if not isinstance(dataset, Streams):
        return {}
    reader = dataset.readers[dataset.slots[i]]
    return {"mode": "video", "fps": reader.fps, "count": dataset.numbers[i] + 1, "live": reader.live}


@contextmanager
def own_trackers(predictor: Any) -> Iterator[None]:
    """Let each image of a batch meet the tracker of its own stream; Ultralytics takes the one at its place.

    Yields:
        Nothing; meanwhile ``trackers`` and ``vid_path`` hold one entry for each image of the batch.
    """
    slots = getattr(predictor.dataset, "slots", None)
    trackers = getattr(predictor, "trackers", None)
    if not slots or not trackers or predictor.args.mode != "track":
        yield
        return
    paths = predictor.vid_path
    predictor.trackers, predictor.vid_path = [trackers[k] for k in slots], [paths[k] for k in slots]
    try:
        yield
    finally:
        for k, path in zip(slots, predictor.vid_path, strict=True):
            paths[k] = path
        predictor.trackers, predictor.vid_path = trackers, paths
