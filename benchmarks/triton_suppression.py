"""Suppression by Triton on a GPU against the CPU with transfers: ``python benchmarks/triton_suppression.py``.

The candidates lie on the GPU, where a detector leaves them, and the results end there. Both sides run in turns in one
process, after a warm-up that compiles; a time ends when the device is idle. Candidates are synthetic: objects with ten
jittered boxes each, plus weak ones at random places.
"""

from __future__ import annotations

import argparse
import platform
import time

import numpy as np
import torch

from yolo_uncert.ops import Suppression, batched_suppress, warm_up

CLASSES, SIZE = 80, 640
CASES = {
    "predict, 7 objects": (7, 0, False, 0.25),
    "predict, 60 objects": (60, 0, False, 0.25),
    "val, 60 objects": (60, 7800, False, 0.001),
    "oriented predict, 300 objects": (300, 0, True, 0.25),
    "oriented val, 300 objects": (300, 5000, True, 0.001),
}
"""Objects and weak candidates per image, whether boxes are oriented, and the score threshold."""
METHODS = {
    "hard": Suppression("hard"),
    "soft": Suppression("soft"),
    "soft + vote": Suppression("soft", vote="var"),
}
Images = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]


def candidates(objects: int, weak: int, oriented: bool, batch: int, device: str) -> Images:
    """Boxes, scores, classes and variances of each image.

    Args:
        objects: Objects per image.
        weak: Candidates of the background per image.
        oriented: The boxes are xywhr, else xyxy.
        batch: Images.
        device: Where they lie.
    """
    random = torch.Generator().manual_seed(0)
    images: Images = ([], [], [], [])
    for _ in range(batch):
        row = torch.cat((torch.arange(objects).repeat_interleave(10), torch.arange(objects, objects + weak)))
        count = objects + weak
        centre, size = (
            torch.rand(count, 2, generator=random) * SIZE,
            20 * torch.exp(2 * torch.rand(count, 2, generator=random))[row],
        )
        centre = centre[row] + 0.08 * size * torch.randn(len(row), 2, generator=random)
        angle = 3 * torch.rand(count, 1, generator=random)[row]
        boxes = torch.cat((centre, size, angle) if oriented else (centre - size / 2, centre + size / 2), 1)
        scores = torch.where(row < objects, 0.3, 0.002) + 0.05 * torch.rand(len(row), generator=random)
        labels = torch.randint(15 if oriented else CLASSES, (count,), generator=random)[row]
        variances = 0.1 + torch.rand(len(row), boxes.shape[1], generator=random)
        for column, values in zip(images, (boxes, scores, labels, variances), strict=True):
            column.append(values.to(device))
    return images


def measure(images: Images, options: Suppression, runs: int, device: str) -> np.ndarray:
    """Milliseconds ``[2, runs]`` of the CPU kernels and of Triton, in turns."""
    times = np.empty((2, runs))
    for run in range(-3, runs):
        for row, backend in enumerate(("auto", "triton")):
            if device != "cpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
            batched_suppress(*images, options, backend=backend)
            if device != "cpu":
                torch.cuda.synchronize()
            if run >= 0:
                times[row, run] = (time.perf_counter() - start) * 1e3
    return times


def cell(times: np.ndarray) -> str:
    """Median with 10th to 90th percentile."""
    low, median, high = np.percentile(times, (10, 50, 90))
    return f"{median:.3f} ({low:.3f}-{high:.3f})"


def main() -> None:
    """Print one row per kind of candidates, method and batch size, with the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU: there is nothing to compare")
    torch.set_num_threads(args.threads)
    for backend in ("auto", "triton"):
        warm_up(backend)
    import triton

    print(f"torch {torch.__version__}, triton {triton.__version__}, {torch.cuda.get_device_name()}")
    print(f"{platform.machine()} {platform.system()}, {args.threads} thread(s), python {platform.python_version()}\n")
    print("| case | method | batch | CPU with transfers, ms | Triton, ms | Triton / CPU |\n|---|---|---|---|---|---|")
    for (name, (objects, weak, oriented, threshold)), batch in (
        (case, batch) for case in CASES.items() for batch in args.batch
    ):
        images = candidates(objects, weak, oriented, batch, "cuda")
        for method, options in METHODS.items():
            chosen = Suppression(**(vars(options) | {"score_threshold": threshold}))
            times = measure(images, chosen, args.runs, "cuda")
            ratio = np.median(times[1]) / np.median(times[0])
            print(f"| {name} | {method} | {batch} | {cell(times[0])} | {cell(times[1])} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
