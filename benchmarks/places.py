"""Forward time where few anchors count: ``python benchmarks/places.py STOCK.pt OURS.pt IMAGES [IMGSZ] [conf=0.25]``.

On a CPU ``predict`` runs boxes and branches only at anchors that can become detections above ``conf``. STOCK is a plain
detector of Ultralytics, OURS the same layers with an uncertainty head; both are trained, since it depends on how many
objects they see. On each image of a folder (40 at most) or on frames of a video, in random order: STOCK, OURS
everywhere, OURS where it counts.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
import ultralytics
from ultralytics.data.augment import LetterBox

from yolo_uncert import YOLO
from yolo_uncert.engine.candidates import least_class_score
from yolo_uncert.run_options import RunOptions

IMAGES, ROUNDS = 40, 3


def pictures(source: str) -> Iterator[np.ndarray]:
    """Yield the first images of a folder, or frames from all over a video."""
    path = Path(source)
    if path.is_dir():
        yield from (image for file in sorted(path.iterdir())[:IMAGES] if (image := cv2.imread(str(file))) is not None)
        return
    video = cv2.VideoCapture(source)
    for frame in np.linspace(0, video.get(cv2.CAP_PROP_FRAME_COUNT) - 1, IMAGES).astype(int):
        video.set(cv2.CAP_PROP_POS_FRAMES, int(frame))
        found, image = video.read()
        if found:
            yield image


def network_input(image: np.ndarray, imgsz: int) -> torch.Tensor:
    """Return the image as prediction gives it to the model."""
    boxed = LetterBox((imgsz, imgsz), auto=True, stride=32)(image=image)
    return torch.from_numpy(np.ascontiguousarray(boxed[..., ::-1].transpose(2, 0, 1)))[None].float() / 255


def measure(stock: str, ours: str, inputs: list[torch.Tensor], conf: float) -> tuple[np.ndarray, list[int]]:
    """Return milliseconds array[rounds * images, 3] of the three, and the anchors that counted in each image."""
    plain, model = (
        facade(path).model.eval().fuse(verbose=False) for facade, path in ((ultralytics.YOLO, stock), (YOLO, ours))
    )
    head = model.model[-1]
    if getattr(head, "end2end", False):
        sys.exit("an end-to-end model selects its detections itself: this measures others")
    least = least_class_score(head.schema, SimpleNamespace(**asdict(RunOptions()), conf=conf))
    works = ((plain, 0.0), (model, 0.0), (model, least))
    order, times = np.random.default_rng(0), []
    with torch.inference_mode():
        counts = [int((model(x)[0][:, 4 : 4 + head.nc].amax(1) > least).sum()) for x in inputs]
        for _ in range(ROUNDS + 1):
            for x in inputs:
                row = np.empty(len(works))
                for work in order.permutation(len(works)):  # what comes first finds the caches cold
                    network, head.least_score = works[work]
                    start = time.perf_counter()
                    network(x)
                    row[work] = (time.perf_counter() - start) * 1e3
                times.append(row)
    return np.array(times)[len(inputs) :], counts  # the first round warms up


def main(stock: str, ours: str, source: str, imgsz: str = "640", conf: float = 0.25) -> None:
    """Print a row."""
    inputs = [network_input(image, int(imgsz)) for image in pictures(source)]
    times, counts = measure(stock, ours, inputs, conf)
    print(f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    print("| source | anchors that count | stock, ms | everywhere, ms | ratio | where it counts, ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    low, median, high = np.percentile(times, (10, 50, 90), axis=0)
    cells = [f"{m:.1f} ({a:.1f}-{b:.1f})" for a, m, b in zip(low, median, high, strict=True)]
    ratios = np.median(times / times[:, :1], axis=0)  # by image: their sizes differ
    anchors = np.median([sum(x[0, 0].numel() // stride**2 for stride in (8, 16, 32)) for x in inputs])
    print(
        f"| {Path(source).name} | {np.median(counts):.0f} of {anchors:.0f} | {cells[0]} | {cells[1]} | {ratios[1]:.3f} "
        f"| {cells[2]} | {ratios[2]:.3f} |"
    )


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("conf=")]
    conf = [float(word[5:]) for word in sys.argv[1:] if word.startswith("conf=")]
    if len(words) not in (3, 4):
        sys.exit(__doc__)
    main(*words, conf=conf[0] if conf else 0.25)
