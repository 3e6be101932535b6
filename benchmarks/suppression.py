"""Suppression and voting against Ultralytics and torchvision on the CPU: ``python benchmarks/suppression.py``.

Peer and ours run in turns in one process on the same raw head output, after a warm-up; both sides include what turns
that output into candidates. The head output is synthetic: objects surrounded by jittered boxes, plus background noise.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import numba
import numpy as np
import torch
import torchvision  # Ultralytics looks whether it is imported, and else falls back to a slow NMS
import ultralytics
from ultralytics.utils.nms import non_max_suppression

from yolo_uncert.ops import Suppression, above_threshold, batched_suppress, warm_up

ANCHORS, CLASSES, SIZE = 8400, 80, 640
PREDICT, VAL = 0.25, 0.001
Images = list[list[torch.Tensor]]


def head_output(objects: int, batch: int, noise: int, *, oriented: bool = False, seed: int = 0) -> torch.Tensor:
    """``Tensor[batch, 4 + CLASSES (+ 1), ANCHORS]`` of xywh, scores (and angle): 10 anchors see each object.

    Args:
        objects: Objects per image.
        batch: Images.
        noise: Scores of the background above the threshold of a validation, per image.
        oriented: Add angles.
        seed: Of the generator.
    """
    random = torch.Generator().manual_seed(seed)
    output = torch.zeros(batch, 4 + CLASSES + oriented, ANCHORS)
    for image in output:
        size = 20 * torch.exp(2 * torch.rand(objects, 2, generator=random))
        centre, angle = torch.rand(objects, 2, generator=random) * SIZE, torch.rand(objects, generator=random) * 3
        label = torch.randint(CLASSES if not oriented else 15, (objects,), generator=random)
        seen = torch.arange(objects).repeat_interleave(10)
        jitter = 0.08 * torch.randn(ANCHORS, 4, generator=random)
        image[:2] = torch.rand(2, ANCHORS, generator=random) * SIZE
        image[2:4] = 20 * torch.exp(2 * torch.rand(2, ANCHORS, generator=random))
        place = torch.randperm(ANCHORS, generator=random)[: len(seen)]
        image[:2, place] = (centre[seen] + jitter[place, :2] * size[seen]).T
        image[2:4, place] = (size[seen] * torch.exp(jitter[place, 2:])).T
        scores = image[4 : 4 + CLASSES]
        where = torch.randint(scores.numel(), (noise,), generator=random)
        scores.view(-1)[where] = VAL + 0.05 * torch.rand(noise, generator=random) ** 4
        scores[label[seen], place] = 0.3 + 0.65 * torch.rand(len(seen), generator=random)
        if oriented:
            image[-1] = torch.rand(ANCHORS, generator=random) * 3
            image[-1, place] = angle[seen] + 0.05 * jitter[place, 0]
    return output


def candidates(output: torch.Tensor, variances: torch.Tensor, conf: float, *, multi_label: bool, most: int) -> Images:
    """Boxes, scores, classes and variances per image of what lies above the threshold."""
    images: list[list[torch.Tensor]] = [[], [], [], []]
    for image, sides in zip(output, variances, strict=True):
        label, anchor = above_threshold(image[4 : 4 + CLASSES], conf, multi_label=multi_label)
        score = image[4:][label, anchor]
        if len(score) > most:
            score, kept = score.topk(most)
            label, anchor = label[kept], anchor[kept]
        boxes = image[:4, anchor].T
        if image.shape[0] == 4 + CLASSES:
            boxes = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
        else:
            boxes = torch.cat((boxes, image[-1:, anchor].T), 1)
        for column, values in zip(images, (boxes, score, label, sides[:, anchor].T), strict=True):
            column.append(values)
    return images


def measure(first: Callable[[], object], second: Callable[[], object], runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of two functions that run in turns."""
    times = np.empty((2, runs))
    for run in range(-2, runs):
        for row, function in enumerate((first, second)):
            start = time.perf_counter()
            function()
            if run >= 0:
                times[row, run] = (time.perf_counter() - start) * 1e3
    return times[0], times[1]


def report(name: str, goal: float, peer: Callable[[], object], ours: Callable[[], object], runs: int) -> None:
    """Print one row: medians with their 10th to 90th percentile, and the ratio of the medians."""
    columns = []
    medians = []
    for times in measure(peer, ours, runs):
        low, median, high = np.percentile(times, (10, 50, 90))
        medians.append(median)
        columns.append(f"{median:.3f} ({low:.3f}-{high:.3f})")
    ratio = medians[1] / medians[0]
    print(f"| {name} | {columns[0]} | {columns[1]} | {ratio:.3f} | {goal} | {runs} |", flush=True)


class Case:
    """One kind of head output, and what peer and ours do with it."""

    def __init__(
        self, objects: int, batch: int, noise: int, conf: float, *, oriented: bool = False, most: int = 30000
    ) -> None:
        self.output = head_output(objects, batch, noise, oriented=oriented)
        self.variances = (
            torch.rand(batch, 5 if oriented else 4, ANCHORS, generator=torch.Generator().manual_seed(1)) + 0.1
        )
        self.conf, self.multi_label, self.oriented, self.most = conf, conf == VAL, oriented, most

    def ultralytics(self) -> object:
        """Hard NMS of the peer."""
        return non_max_suppression(
            self.output,
            self.conf,
            0.7,
            multi_label=self.multi_label,
            nc=CLASSES,
            rotated=self.oriented,
            max_nms=self.most,
        )

    def candidates(self) -> Images:
        """Candidates of all images."""
        return candidates(self.output, self.variances, self.conf, multi_label=self.multi_label, most=self.most)

    def torchvision(self) -> object:
        """Hard NMS class by class."""
        boxes, scores, labels, _ = self.candidates()
        rows = zip(boxes, scores, labels, strict=True)
        return [torchvision.ops.batched_nms(*row, 0.7)[:300] for row in rows]

    def soft(self) -> object:
        """Soft-NMS without voting."""
        boxes, scores, labels, _ = self.candidates()
        return batched_suppress(boxes, scores, labels, None, Suppression(score_threshold=self.conf))

    def soft_and_vote(self) -> object:
        """Soft-NMS with voting."""
        return batched_suppress(*self.candidates(), Suppression(score_threshold=self.conf, vote="var"))


def main() -> None:
    """Print the table of the goals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--slow-runs", type=int, default=5, help="runs of rows whose peer takes seconds")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warm_up()
    versions = {"torch": torch, "torchvision": torchvision, "ultralytics": ultralytics, "numba": numba}
    print(", ".join(f"{name} {module.__version__}" for name, module in versions.items()))
    print(f"{platform.machine()} {platform.system()}, {args.threads} thread(s), python {platform.python_version()}\n")
    print("| case | peer, ms | ours, ms | ratio | goal | runs |\n|---|---|---|---|---|---|")

    runs, slow = args.runs, args.slow_runs
    one, many = Case(7, 1, 300, PREDICT), Case(60, 16, 300, PREDICT)
    report(
        "1. predict, batch 1, 7 objects: Ultralytics hard / soft + vote", 0.5, one.ultralytics, one.soft_and_vote, runs
    )
    report("1. predict, batch 16, 60 objects: the same", 0.5, many.ultralytics, many.soft_and_vote, runs)
    val16, cut = Case(60, 16, 8000, VAL), Case(60, 16, 8000, VAL, most=1000)
    report("2. val, batch 16: the same", 0.03, val16.ultralytics, val16.soft_and_vote, slow)
    report("2. val, batch 16, max_nms=1000: the same", 0.4, cut.ultralytics, cut.soft_and_vote, runs)
    val = Case(60, 1, 8000, VAL)
    report("3. val, batch 1: torchvision hard / soft + vote", 0.3, val.torchvision, val.soft_and_vote, runs)
    dense = Case(300, 1, 8000, VAL, oriented=True, most=3000)
    report(
        "4. oriented, 300 objects: Ultralytics hard / soft + vote", 0.02, dense.ultralytics, dense.soft_and_vote, slow
    )
    for name, case in {"predict, batch 1": one, "val, batch 1": val, "oriented": dense}.items():
        report(f"5. {name}: soft / soft + vote", 1.25, case.soft, case.soft_and_vote, runs)


if __name__ == "__main__":
    main()
