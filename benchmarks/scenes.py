"""Memory and time of large scenes: ``python benchmarks/scenes.py best.pt hituav/images/val folder``.

Makes a scene of each size in ``folder``, once: a compressed GeoTIFF of 512 x 512 blocks, filled with rows of the
images, each row shifted against the one before. Then detects in it in a process of its own, files included, and prints
the peak memory of that process, and how much of the time is not the forward pass of the model. With ``--kill`` the
process is killed half-way, and another one goes on. With ``--sahi`` a second row is that of SAHI with the same stock
model; it needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import ultralytics
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import LOGGER

from yolo_uncert.scenes import detect_scene

BLOCK = 512


class Forward:
    """The forward passes of all models of Ultralytics while the context lasts.

    Args:
        clock: What measures them.

    Attributes:
        seconds: Time in them.
        calls: Their number.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock

    def __enter__(self) -> Forward:
        self.seconds, self.calls, original = 0.0, 0, AutoBackend.forward
        self._original = original

        def forward(backend: AutoBackend, *args: Any, **kwargs: Any) -> Any:
            start = self.clock()
            try:
                return original(backend, *args, **kwargs)
            finally:
                self.seconds += self.clock() - start
                self.calls += 1

        AutoBackend.forward = forward
        return self

    def __exit__(self, *_: object) -> None:
        AutoBackend.forward = self._original


def make_scene(images: Path, target: Path, size: int) -> None:
    """Write a square GeoTIFF of a made-up place, unless it is there."""
    import rasterio

    if target.exists():
        return
    files = sorted(images.iterdir())
    stock = [cv2.imread(str(file))[:, :, ::-1].transpose(2, 0, 1) for file in files[:: max(len(files) // 40, 1)]]
    height, per_row = stock[0].shape[1], -(-size // stock[0].shape[2])
    profile = {"driver": "GTiff", "width": size, "height": size, "count": 3, "dtype": "uint8", "bigtiff": "if_safer"}
    blocks = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "zlevel": 1}
    place = {"crs": "EPSG:32651", "transform": rasterio.Affine(0.1, 0, 300000, 0, -0.1, 3501000)}
    part = target.with_suffix(".part")
    with rasterio.open(part, "w", **profile, **blocks, **place) as file:
        for row, top in enumerate(range(0, size, height)):
            strip = np.concatenate([stock[(k + row * 7) % len(stock)] for k in range(per_row + 1)], 2)
            shift, rows = row * 97 % stock[0].shape[2], min(height, size - top)
            window = rasterio.windows.Window(0, top, size, rows)
            file.write(strip[:, :rows, shift : shift + size], window=window)
    part.rename(target)


def detect(model: str, scene: Path, out: Path, options: dict[str, Any], answers: Any) -> None:
    """Detect in a scene and send what it took; runs in a process of its own."""
    LOGGER.setLevel(logging.ERROR)
    torch.set_num_threads(1)
    detect_scene(model, np.full((BLOCK, BLOCK, 3), 128, np.uint8), **options)  # imports and compiles what it uses
    answers.put(measured(lambda: len(detect_scene(model, scene, out=out, **options))))


def detect_with_sahi(model: str, scene: Path, out: Path, options: dict[str, Any], answers: Any) -> None:
    """Detect in tiles with SAHI and send what it took; nothing is written."""
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    torch.set_num_threads(1)
    known = {"image_size": options.get("imgsz", options["tile"]), "confidence_threshold": 0.25, "device": "cpu"}
    loaded = AutoDetectionModel.from_pretrained(model_type="ultralytics", model_path=model, **known)
    tile, share = options["tile"], options["overlap"] / options["tile"]

    def find(image: Any) -> int:
        found = get_sliced_prediction(
            image, loaded, tile, tile, share, share, perform_standard_pred=False, batch_size=options["batch"], verbose=0
        )
        return len(found.object_prediction_list)

    find(np.full((BLOCK, BLOCK, 3), 128, np.uint8))
    answers.put(measured(lambda: find(str(scene))))


def measured(find: Callable[[], int]) -> tuple[Any, ...]:
    """Return boxes, batches, seconds, the share of them outside the forward pass, and peak memory before and after."""
    idle = peak()
    with Forward() as forward:
        start = time.perf_counter()
        boxes = find()
        seconds = time.perf_counter() - start
    return boxes, forward.calls, seconds, 1 - forward.seconds / seconds, idle, peak()


def peak() -> float:
    """Return the largest resident memory that this process has had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def run(given: argparse.Namespace, scene: Path, *, target: Callable[..., None] = detect, kill: bool = False) -> None:
    """Detect in a scene in a new process and print a row; or kill it when half of the rows of tiles are done."""
    context = multiprocessing.get_context("spawn")
    answers, out = context.Queue(), given.folder / f"{scene.stem}-out"
    options = {"tile": given.tile, "overlap": given.overlap, "batch": given.batch, "device": "cpu"}
    options |= {"imgsz": given.imgsz} if given.imgsz else {}
    process = context.Process(target=target, args=(given.model, scene, out, options, answers))
    process.start()
    if kill:
        half, partial = int(scene.stem) // (given.tile - given.overlap) // 2, out / f".{scene.stem}.partial"
        while process.is_alive() and len(list(partial.glob("row-*"))) < half:
            time.sleep(0.05)
        process.kill()
        print(f"killed after {len(list(partial.glob('row-*')))} rows of tiles; again:", flush=True)
    else:
        boxes, calls, seconds, outside, idle, most = answers.get()
        cells = [scene.stem, target.__name__, f"{calls} of up to {given.batch}", boxes, f"{seconds:.0f} s"]
        cells += [f"{100 * outside:.0f} %", f"{idle:.0f} MB", f"{most:.0f} MB"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    process.join()


def main() -> None:
    """Measure and print a row for each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("images", type=Path, help="folder with images of one size")
    parser.add_argument("folder", type=Path, help="for scenes and results")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5000, 20000], help="sides of the scenes in pixels")
    parser.add_argument("--tile", type=int, default=640)
    parser.add_argument("--overlap", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--imgsz", type=int, help="that of the tile unless given")
    parser.add_argument("--kill", action="store_true", help="kill each run half-way and let another one go on")
    parser.add_argument("--sahi", action="store_true", help="the same by SAHI; the model has to be a stock one")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    print(f"{platform.machine()}, torch {torch.__version__}, Ultralytics {ultralytics.__version__}, one thread\n")
    head = ["side, px", "", "batches", "boxes", "time", "outside the forward pass", "peak before", "peak"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for size in given.sizes:
        scene = given.folder / f"{size}.tif"
        make_scene(given.images, scene, size)
        shutil.rmtree(given.folder / f"{size}-out", ignore_errors=True)
        if given.kill:
            run(given, scene, kill=True)
        run(given, scene)
        if given.sahi:
            run(given, scene, target=detect_with_sahi)


if __name__ == "__main__":
    main()
