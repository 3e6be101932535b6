"""Cameras and videos without a camera: an MJPEG server on the loopback address, captures that a test plays by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

PART = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n"


class Camera:
    """A network camera that sends frames of one grey value each; it can be switched off and on again."""

    def __init__(self, fps: float = 50.0, size: tuple[int, int] = (64, 48)) -> None:
        self.fps, self.size = fps, size
        self.port = 0
        self.on()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/video"

    def on(self) -> None:
        self._off = off = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with suppress(OSError):  # the viewer may go
                    camera.send(self.wfile, off)

        class Server(ThreadingHTTPServer):
            daemon_threads, block_on_close, allow_reuse_address = True, False, True

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def send(self, out: Any, off: threading.Event) -> None:
        width, height = self.size
        for number in range(10**6):
            if off.wait(1 / self.fps):
                return
            data = cv2.imencode(".jpg", np.full((height, width, 3), number % 256, np.uint8))[1].tobytes()
            out.write(PART % (len(data), data))

    def off(self) -> None:
        self._off.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def camera() -> Iterator[Callable[..., Camera]]:
    """Maker of cameras, all switched off at the end of the test."""
    made: list[Camera] = []

    def make(**options: Any) -> Camera:
        made.append(Camera(**options))
        return made[-1]

    yield make
    for each in made:
        each.off()


def clip(
    path: Path, frames: int = 10, fps: float = 29.97, size: tuple[int, int] = (64, 48), codec: str = "mp4v"
) -> str:
    """Write a video in which frame k has the grey value 10 k, and return its path."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
    for k in range(frames):
        writer.write(np.full((size[1], size[0], 3), 10 * k % 256, np.uint8))
    writer.release()
    return str(path)


@pytest.fixture(name="clip")
def clip_fixture() -> Callable[..., str]:
    return clip


@pytest.fixture
def look() -> Callable[[Path], tuple[int, float, tuple[int, int]]]:
    """Reader of a video: frames that really decode, rate, and (width, height)."""

    def read(path: Path) -> tuple[int, float, tuple[int, int]]:
        capture = cv2.VideoCapture(str(path))
        sizes = []
        while (frame := capture.read())[0]:
            sizes.append(frame[1].shape[1::-1])
        assert len(set(sizes)) <= 1
        return len(sizes), capture.get(cv2.CAP_PROP_FPS), sizes[0] if sizes else (0, 0)

    return read


class Tape:
    """A capture that delivers the frames a test has put on it, and is lost where it holds None.

    Args:
        fps: Frame rate that it claims.
        total: Number of frames that it claims; -1 for a live stream.
    """

    def __init__(self, fps: float = 25.0, total: float = -1.0) -> None:
        self.fps, self.total = fps, total
        self.frames: list[Any] = []
        self.opened, self.released, self.refused = 0, 0, 0
        self.more = threading.Condition()

    def __call__(self, source: Any) -> Tape:
        self.opened += 1
        return self

    def isOpened(self) -> bool:  # noqa: N802  as in OpenCV
        self.refused -= 1
        return self.refused < 0

    def get(self, key: int) -> float:
        return {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_COUNT: self.total}[key]

    def put(self, *frames: Any) -> None:
        with self.more:
            self.frames += frames
            self.more.notify_all()

    def grab(self) -> bool:
        with self.more:
            self.more.wait_for(lambda: self.frames, 5)
            self.now = self.frames.pop(0) if self.frames else None
        return self.now is not None

    def retrieve(self) -> tuple[bool, Any]:
        return (False, None) if isinstance(self.now, str) else (True, np.full((2, 2, 3), self.now, np.uint8))

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def tape() -> type[Tape]:
    return Tape


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], None]:
    """Wait until something holds, and fail if it never does."""

    def wait(condition: Callable[[], Any]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.005)

    return wait
