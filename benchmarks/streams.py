"""Memory over a long video, and latency under a slow consumer: ``python benchmarks/streams.py``.

Memory: resident megabytes after every 1,000 of 5,000 frames of a generated video, through an untrained model whose
boxes are drawn and saved. Latency: a camera on the loopback address sends 25 frames per second, each with its number in
black and white, and the consumer takes 5 per second. Latency is the time from the sending of a frame to the moment
when the consumer holds its result. Beside our two policies: those of stock Ultralytics, and a loop over OpenCV's
``read`` without a thread. Needs psutil, which Ultralytics depends on.
"""

from __future__ import annotations

import argparse
import gc
import logging
import platform
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch
import ultralytics
from ultralytics.utils import LOGGER

from yolo_uncert import YOLO

MODEL = "yolov8n-light.yaml"
OPTIONS = {"imgsz": 64, "verbose": False, "device": "cpu", "conf": 1e-6, "max_det": 10}
BITS, BLOCK = 16, 16


def megabytes() -> float:
    """Return the resident memory of this process."""
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def memory(frames: int, folder: Path) -> list[float]:
    """Return the resident megabytes after the first and every further fifth of a video's frames."""
    file = folder / "long.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (320, 240))
    scene = cv2.resize(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8), (320, 240))
    for shift in range(frames):
        writer.write(np.roll(scene, shift, 1))
    writer.release()
    rows = []
    results = YOLO(MODEL).predict(file, stream=True, save=True, overlay=True, project=folder, name="run", **OPTIONS)
    for seen, _ in enumerate(results, 1):
        if seen % (frames // 5) == 0:
            rows.append(megabytes())
    return rows


class Camera:
    """Sends numbered frames and remembers when."""

    def __init__(self, fps: float) -> None:
        self.sent: dict[int, float] = {}
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                """Stay silent."""

            def do_GET(self) -> None:
                """Send frames until the viewer goes."""
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                start = time.perf_counter()
                with suppress(OSError):
                    for k in range(2**BITS):
                        time.sleep(max(start + k / fps - time.perf_counter(), 0))
                        data = cv2.imencode(".jpg", numbered(k))[1].tobytes()
                        camera.sent[k] = time.perf_counter()
                        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
                        self.wfile.write(head + data + b"\r\n")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def numbered(k: int) -> np.ndarray:
    """Return a noisy image of 640 x 480 with a number in its first rows."""
    image = np.random.default_rng(k % 8).integers(0, 255, (480, 640, 3), dtype=np.uint8) // 4 + 90
    for bit in range(BITS):
        image[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (k >> bit & 1)
    return image


def number(image: np.ndarray) -> int:
    """Return the number in an image."""
    half = BLOCK // 2
    return sum(int(image[half, bit * BLOCK + half].mean() > 127) << bit for bit in range(BITS))


def plain_loop(url: str) -> Iterator[Any]:
    """Yield images as a program without a thread reads them."""
    capture = cv2.VideoCapture(url)
    try:
        while (frame := capture.read())[0]:
            yield frame[1]
    finally:
        capture.release()


def frames_of(reader: str, url: str) -> Iterator[Any]:
    """Yield the images that a consumer gets to see."""
    if reader == "plain loop":
        yield from plain_loop(url)
        return
    facade = YOLO if reader.startswith("ours") else ultralytics.YOLO
    model = facade(MODEL if facade is YOLO else "yolov8n.yaml")
    model.predict(np.zeros((64, 64, 3), np.uint8), **OPTIONS)  # the first frame must not wait for a model
    with closing(model.predict(url, stream=True, stream_buffer="buffer" in reader, **OPTIONS)) as results:
        for result in results:
            yield result.orig_img


def latencies(reader: str, seconds: float, consumer: float) -> tuple[np.ndarray, float]:
    """Return the latency of each frame in seconds, and the growth of memory in megabytes."""
    camera = Camera(25.0)
    rows: list[float] = []
    before, start = megabytes(), 0.0
    with closing(frames_of(reader, camera.url)) as images:
        for image in images:
            now = time.perf_counter()
            start = start or now
            rows.append(now - camera.sent[number(image)])
            if now - start > seconds:
                break
            time.sleep(1 / consumer)
        grown = megabytes() - before
    camera.server.shutdown()
    return np.array(rows), grown


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=5000, help="frames of the long video")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement of latency")
    given = parser.parse_args()
    LOGGER.setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, Ultralytics {ultralytics.__version__}\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = memory(given.frames, Path(folder))
    print(f"| frames | {' | '.join(str(given.frames // 5 * (k + 1)) for k in range(5))} |\n|{'---|' * 6}")
    print(f"| resident, MB | {' | '.join(f'{row:.0f}' for row in rows)} |\n")
    print("| reader | latency p50 | p95 | first second | last second | frames seen | memory |\n|" + "---|" * 7)
    for reader in ("ours, latest", "ours, buffer", "stock, latest", "stock, buffer", "plain loop"):
        times, grown = latencies(reader, given.seconds, 5.0)
        cells = [np.median(times), np.quantile(times, 0.95), np.median(times[:5]), np.median(times[-5:])]
        print(f"| {reader} | {' | '.join(f'{c:.2f} s' for c in cells)} | {len(times)} | {grown:+.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
