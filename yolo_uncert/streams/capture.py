"""Open videos, cameras and network streams with OpenCV, with limits on how long a network may keep silent."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import cv2
from ultralytics.data.loaders import get_best_youtube_url

TIMEOUT_MS = 10_000
"""Milliseconds after which a network stream that neither opens nor sends anything is taken for lost."""

FALLBACK_FPS = 30.0
PUSHED = ("rtsp", "rtmp", "udp", "rtp", "srt", "tcp")
"""Schemes whose frames come at their own pace, recorded or live."""


def open_capture(source: str | int) -> Any:
    """Return an OpenCV capture of a stream, which may have failed to open.

    Args:
        source: Camera number, stream address, or path of a video.
    """
    if isinstance(source, int) or not is_remote(source):
        return cv2.VideoCapture(source)
    if urlsplit(source).hostname in {"www.youtube.com", "youtube.com", "youtu.be"}:
        source = get_best_youtube_url(source) or source
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)


def is_remote(source: str | int) -> bool:
    """Return whether a source is an address, or standard input, rather than a camera number or a path."""
    return isinstance(source, str) and ("://" in source or source.startswith("pipe:"))
