"""Parameters and forward time of uncertainty heads: ``python benchmarks/forward.py [BASE ...] [variant=uncert]``.

Each base of Ultralytics (yolo11n, yolov8n-obb, ...) against our yaml of it (``-uncert``, ``-light``), both fused as
for prediction, in turns in one process. Weights are random: they do not change the work.
"""

from __future__ import annotations

import platform
import sys
import time

import numpy as np
import torch
import ultralytics
from torch import nn

from yolo_uncert import YOLO

RUNS, WARM_UP = 40, 5


def timed(models: tuple[nn.Module, nn.Module], batch: int, imgsz: int) -> np.ndarray:
    """Milliseconds of the two models in turns, array[2, RUNS]."""
    times = np.empty((2, RUNS))
    images = torch.rand(batch, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for run in range(-WARM_UP, RUNS):
            for row, model in enumerate(models):
                start = time.perf_counter()
                model(images)
                if run >= 0:
                    times[row, run] = (time.perf_counter() - start) * 1e3
    return times


def main(bases: list[str], variant: str = "uncert") -> None:
    """Print one row per base and input."""
    print(
        f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, "
        f"ultralytics {ultralytics.__version__}\n"
    )
    print("| model | parameters | input | stock, ms | ours, ms | ratio |\n|---|---|---|---|---|---|")
    for base in bases:
        facades = ultralytics.YOLO(f"{base}.yaml"), YOLO(f"{base}-{variant}.yaml")
        stock, ours = (sum(p.numel() for p in facade.model.parameters()) for facade in facades)
        fused = tuple(facade.model.eval().fuse(verbose=False) for facade in facades)
        for batch, imgsz in ((1, 320), (1, 640), (8, 320)):
            low, median, high = np.percentile(timed(fused, batch, imgsz), (10, 50, 90), axis=1)
            cells = [f"{m:.1f} ({a:.1f}-{b:.1f})" for a, m, b in zip(low, median, high, strict=True)]
            growth = f"{100 * (ours / stock - 1):+.2f} %"
            print(f"| {base} | {growth} | {batch} x {imgsz} | {cells[0]} | {cells[1]} | {median[1] / median[0]:.3f} |")


if __name__ == "__main__":
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    main(
        [word for word in sys.argv[1:] if "=" not in word] or ["yolo11n", "yolov8n", "yolov5n", "yolo11n-obb"],
        **options,
    )
