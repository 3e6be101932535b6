"""Write rows until somebody ends this process: ``writing.py FOLDER``. Says after each frame that it is written."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from yolo_uncert.output import WRITERS, columns


def row(frame):
    """A row of which every value can be told from the frame."""
    values = {str: f"frame {frame}", int: frame, float: frame / 8, list: [[frame + 0.5, 0.0], [0.0, 1.0]]}
    return {name: values[kind] for name, kind in columns("detect").items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    # Parquet by itself, because its JSON lines take the name of the JSON lines.
    writers = [writer(folder / f"{name}.{name}", "detect") for name, writer in WRITERS.items()]
    for frame in count(1):
        for writer in writers:
            writer.write([row(frame)] * 3)
        print(frame, flush=True)
