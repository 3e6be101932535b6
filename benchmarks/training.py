"""Time of one training step on the CPU: ``python benchmarks/training.py [BASE ...] [variant=uncert]``.

Forward, loss and backward of a base of Ultralytics in the usual memory layout, as Ultralytics trains it on a CPU, of
the same model with channels last, as this package does, and of our yaml of a variant with channels last; in turns in
one process, on random images with 13 objects each, as BCCD has. Optimizer and data loading are left out.
"""

from __future__ import annotations

import platform
import sys
import time

import numpy as np
import torch
import ultralytics
from torch import nn
from ultralytics.utils import DEFAULT_CFG

from yolo_uncert import YOLO

RUNS, WARM_UP, BATCH, IMGSZ, OBJECTS = 15, 3, 16, 320, 13


def batch_of(task: str) -> dict[str, torch.Tensor]:
    """Random images with objects of a tenth to a third of their side."""
    generator = torch.Generator().manual_seed(0)
    count = BATCH * OBJECTS
    boxes = torch.rand(count, 5 if task == "obb" else 4, generator=generator)
    boxes[:, :2] = 0.2 + 0.6 * boxes[:, :2]
    boxes[:, 2:4] = 0.1 + 0.2 * boxes[:, 2:4]
    return {
        "img": torch.rand(BATCH, 3, IMGSZ, IMGSZ, generator=generator),
        "batch_idx": torch.arange(BATCH).repeat_interleave(OBJECTS).float(),
        "cls": torch.zeros(count, 1),
        "bboxes": boxes,
    }


def step(model: nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Milliseconds of forward, loss and backward."""
    start = time.perf_counter()
    loss, _ = model(batch)
    loss.sum().backward()
    model.zero_grad()
    return (time.perf_counter() - start) * 1e3


def models_of(base: str, variant: str) -> list[nn.Module]:
    """Stock in both layouts, and ours with channels last."""
    stock, last = (ultralytics.YOLO(f"{base}.yaml").model for _ in range(2))
    models = [stock, last, YOLO(f"{base}-{variant}.yaml").model]
    for model in models:
        model.args = DEFAULT_CFG
        model.train()
    for model in models[1:]:
        model.to(memory_format=torch.channels_last)
    return models


def main(bases: list[str], variant: str) -> None:
    """Print one row per base."""
    print(
        f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, "
        f"ultralytics {ultralytics.__version__}; ms per step, median (p10-p90) of {RUNS}\n"
    )
    print("| model | stock | stock, channels last | ratio | ours, channels last | ratio |\n|---|---|---|---|---|---|")
    for base in bases:
        batch = batch_of("obb" if base.endswith("obb") else "detect")
        models = models_of(base, variant)
        times = np.array([[step(model, batch) for model in models] for _ in range(-WARM_UP, RUNS)])[WARM_UP:]
        low, median, high = np.percentile(times, (10, 50, 90), axis=0)
        cells = [f"{m:.0f} ({a:.0f}-{b:.0f})" for a, m, b in zip(low, median, high, strict=True)]
        ratios = [f"{m / median[0]:.2f}" for m in median[1:]]
        print(f"| {base} | {cells[0]} | {cells[1]} | {ratios[0]} | {cells[2]} | {ratios[1]} |")


if __name__ == "__main__":
    words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    names = [word for word in sys.argv[1:] if "=" not in word]
    main(names or ["yolo11n", "yolov8n", "yolov5n", "yolo11n-obb"], words.get("variant", "uncert"))
