"""Write the rows of a run while its results pass by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from ultralytics.utils import LOGGER

from yolo_uncert.engine.results import UncertResults
from yolo_uncert.options import OptionError
from yolo_uncert.output.rows import rows_of
from yolo_uncert.output.writers import WRITERS, ParquetWriter, RowWriter
from yolo_uncert.streams.loader import Streams

STEM = "predictions"


class Position(NamedTuple):
    """Where a frame belongs.

    Attributes:
        frame: Number from 1 in its video or stream, where a dropped frame leaves a gap; of images, in the run.
        time_s: Seconds from the start of the video; of a live stream, from the arrival of the run's first frame; None
            for images.
        stream: Index of the stream; None for files.
    """

    frame: int
    time_s: float | None
    stream: int | None


class Positions:
    """Tell the position of each result that a predictor yields, at the time when it is yielded.

    Args:
        predictor: A predictor of ours; while it yields ``results[i]``, its ``dataset`` is at the batch they are of.
    """

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor
        self._count = 0
        self._start: float | None = None

    def of(self, result: Any) -> Position:
        """Return the position of the result that was yielded last.

        Args:
            result: One of ``predictor.results``.
        """
        results, dataset = self._predictor.results, self._predictor.dataset
        index = next(i for i, other in enumerate(results) if other is result)
        self._count += 1
        if isinstance(dataset, Streams):
            stream, frame = dataset.slots[index], dataset.numbers[index] + 1
            reader = dataset.readers[stream]
            return Position(frame, self._arrival(index) if reader.live else self._shown(frame, reader.fps), stream)
        if dataset.mode == "video":
            # The frame counter is that of the batch's last frame; a batch never spans two videos.
            frame = dataset.frame - (len(results) - 1 - index)
            return Position(frame, self._shown(frame, dataset.fps), None)
        if dataset.mode == "stream":
            return Position(self._count, self._arrival(index), 0)
        return Position(self._count, None, None)

    def _shown(self, frame: int, fps: float) -> float:
        """Return the time at which a video shows the frame."""
        # With vid_stride the n-th frame that is seen is the (n * stride)-th of the file.
        shown: float = (frame * self._predictor.args.vid_stride - 1) / fps
        return shown

    def _arrival(self, index: int) -> float:
        """Return the seconds from the arrival of the first frame to that of a frame of this batch."""
        captured = self._predictor.session.captured
        self._start = min(captured) if self._start is None else self._start
        return float(captured[index] - self._start)


def record(results: Iterator[Any], predictor: Any, formats: str, level: float) -> Iterator[UncertResults]:
    """Pass results on, each after its rows have been written.

    The files are ``predictions.jsonl``, ``.csv`` and ``.parquet`` in the predictor's ``save_dir``. They are made with
    the first result, also when it has no box, and completed when the results end, by themselves, by an error or because
    nobody asks for more. A file that is there already stays; the new ones are then called ``predictions-2`` and so on.

    Args:
        results: What the predictor yields.
        predictor: The predictor.
        formats: Keys of ``WRITERS``, separated by commas.
        level: Probability in (0, 1) of the intervals.

    Yields:
        The results, unchanged.

    Raises:
        OptionError: These results are not those of a detect or obb model.
        ValueError: The level is above the largest that the model's calibration set supports.
    """
    with closing(results), ExitStack() as stack:  # type: ignore[type-var]  # a generator, hence closable
        first = next(results, None)
        if first is None:
            return
        if not isinstance(first, UncertResults):
            raise OptionError(f"rows: only detect and obb models have rows of boxes, not {type(first).__name__}")
        folder, task = Path(predictor.save_dir), "detect" if first.obb is None else "obb"
        positions = Positions(predictor)
        writers: list[RowWriter] = []
        for result in chain([first], results):
            rows = rows_of(result, **positions.of(result)._asdict(), level=level)
            if not writers:
                writers = [stack.enter_context(writer) for writer in open_writers(folder, task, formats)]
            for writer in writers:
                writer.write(rows)
            yield result


def open_writers(folder: Path, task: str, formats: str) -> list[RowWriter]:
    """Make files for rows under a name that none of them has yet.

    Args:
        folder: Folder of the files; it is made.
        task: ``detect`` or ``obb``.
        formats: Keys of ``WRITERS``, separated by commas.
    """
    names = sorted({name.strip() for name in formats.split(",")})
    folder.mkdir(parents=True, exist_ok=True)
    stems = chain([STEM], (f"{STEM}-{number}" for number in count(2)))
    stem = next(stem for stem in stems if not any((folder / f"{stem}.{name}").exists() for name in WRITERS))
    paths = {name: folder / f"{stem}.{name}" for name in names}
    LOGGER.info(f"Writing boxes to {', '.join(map(str, paths.values()))}")
    # The lines that a parquet file is made of are the JSON lines themselves.
    make = {**WRITERS, "parquet": partial(ParquetWriter, keep_lines="jsonl" in names)}
    return [make[name](path, task) for name, path in paths.items() if name != "jsonl" or "parquet" not in names]
