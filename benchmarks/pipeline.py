"""Whole pipelines against stock Ultralytics: ``python benchmarks/pipeline.py STOCK.pt OURS.pt DATA VIDEO [IMGSZ]``.

Frames per second of ``predict`` on a video (loader, model, post-processing, results) and seconds of ``val`` on a data
set (with metrics), both programs in turns in one process. STOCK is a plain detector of Ultralytics, OURS the same
backbone with an uncertainty head, trained alike, or STOCK again. Ours runs with soft-NMS and variance voting. With
``-`` for VIDEO only ``val`` is measured, with ``-`` for DATA only ``predict``.
"""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  without it Ultralytics falls back to a slow NMS
import ultralytics
from ultralytics.utils import LOGGER

from yolo_uncert import YOLO
from yolo_uncert.data import resolve_data

RULE = {"suppress": "soft", "var_vote": True}
ROUNDS = 7


def in_turns(first: Callable[[], float], second: Callable[[], float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the measurements of both, after one round that does not count."""
    rows = [(first(), second()) for _ in range(ROUNDS + 1)][1:]
    return np.array(rows)[:, 0], np.array(rows)[:, 1]


def frame_rate(model: Any, video: str, imgsz: int, **rule: Any) -> float:
    """Return frames per second over a whole video."""
    start, frames = time.perf_counter(), 0
    for _ in model.predict(video, imgsz=imgsz, stream=True, verbose=False, vid_stride=4, **rule):
        frames += 1
    return frames / (time.perf_counter() - start)


def seconds(path: str, facade: Any, data: str, imgsz: int, **rule: Any) -> float:
    """Return the seconds of a validation, the loading of the model not counted."""
    model = facade(path)
    start = time.perf_counter()
    model.val(data=data, imgsz=imgsz, plots=False, verbose=False, workers=0, **rule)
    return time.perf_counter() - start


def show(name: str, stock: np.ndarray, ours: np.ndarray) -> None:
    """Print medians with p10 and p90 and the ratio of the medians."""
    cells = [f"{np.median(x):.2f} ({np.quantile(x, 0.1):.2f}-{np.quantile(x, 0.9):.2f})" for x in (stock, ours)]
    print(f"| {name} | {cells[0]} | {cells[1]} | {np.median(ours) / np.median(stock):.2f} |", flush=True)


def main(stock: str, ours: str, data: str, video: str, imgsz: str = "640") -> None:
    """Measure and print both tables."""
    LOGGER.setLevel(logging.ERROR)
    print(f"{platform.machine()}, torch {torch.__version__}, Ultralytics {ultralytics.__version__}, {RULE}\n")
    print("| median (p10-p90) | stock | ours | ours / stock |\n|---|---|---|---|")
    size = int(imgsz)
    if video != "-":
        models = ultralytics.YOLO(stock), YOLO(ours)
        show(
            "predict, frames per second",
            *in_turns(lambda: frame_rate(models[0], video, size), lambda: frame_rate(models[1], video, size, **RULE)),
        )
    if data != "-":
        data = resolve_data(data)
        show(
            "val, seconds",
            *in_turns(
                lambda: seconds(stock, ultralytics.YOLO, data, size), lambda: seconds(ours, YOLO, data, size, **RULE)
            ),
        )


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
