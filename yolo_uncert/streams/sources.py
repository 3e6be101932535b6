"""What a source is: chooses the loader for it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from ultralytics.data.build import check_source
from ultralytics.data.loaders import LoadScreenshots, SourceTypes
from ultralytics.data.utils import IMG_FORMATS, VID_FORMATS

from yolo_uncert.options import OptionError
from yolo_uncert.streams.capture import PUSHED
from yolo_uncert.streams.files import Files
from yolo_uncert.streams.frames import Frames, npy_frames
from yolo_uncert.streams.loader import Streams
from yolo_uncert.streams.pixels import as_uint8
from yolo_uncert.streams.reader import Rules

BUFFER = 30
"""Frames per stream that may wait for the model when none is to be missed."""


@dataclass(frozen=True)
class Loading:
    """How sources are loaded.

    Attributes:
        batch: Images per batch, of files; see :class:`Files` on lists.
        channels: Channels that the model takes.
        stride: Every how many frames of a video or stream one is taken.
        buffer: Let up to ``BUFFER`` frames of a stream wait for the model, instead of the newest alone.
        patience: Seconds for which a lost stream is tried again.
        most: Most streams in a batch, if the model is exported for a fixed batch.
    """

    batch: int = 1
    channels: int = 3
    stride: int = 1
    buffer: bool = False
    patience: float = 60.0
    most: int | None = None


def open_source(source: Any, how: Loading) -> Any:
    """Return a loader for a source, or the source itself, arrays in 8 bits, where Ultralytics' own loader will do.

    Args:
        source: File, folder, pattern, list of files (a Python list, .txt or .csv); stream address or camera number, a
            list of them (a Python list or a .streams file), videos among them; ``screen``; ``-`` for .npy frames and
            ``pipe:0`` for a video on standard input; an iterator of images; anything else that Ultralytics takes.
        how: How to load it.

    Raises:
        FileNotFoundError: No such file, or nothing in it.
        OSError: There is no screen.
        OptionError: A list holds streams beside images.
    """
    if isinstance(source, (list, tuple)) and source:
        if live := [item for item in source if _is_stream(item)]:
            if not all(_is_stream(item) or _is_video(item) for item in source):
                raise OptionError(
                    f"source: in a list, streams such as {stream_name(live[0])} go with streams and videos, not with "
                    "images or folders"
                )
            return _streams(source, how)
        if all(isinstance(item, Path) or (isinstance(item, str) and "://" not in item) for item in source):
            return Files(source, how.batch, how.stride, how.channels)
        return [as_uint8(item) if isinstance(item, np.ndarray) else item for item in source]
    if isinstance(source, Iterator):
        return Frames(source, how.channels)
    if isinstance(source, np.ndarray):
        return as_uint8(source)
    return _open_named(str(source), how) if isinstance(source, (str, int, Path)) else source


def stream_name(source: str | int) -> str:
    """Return a name for messages and files, without the user name and password that an address may hold."""
    # As in FFmpeg the last @ before the path ends them: a password may hold others.
    address = re.sub(r"//[^/?#]*@", "//", str(source)).partition("?")[0]
    name = re.sub(r"[^\w-]+", "_", address).strip("_")
    return f"camera{name}" if name.isnumeric() else name or "stream"


def _open_named(text: str, how: Loading) -> Any:
    if text == "-":
        return Frames(npy_frames(sys.stdin.buffer), how.channels, "stdin")
    if text.lower().endswith(".streams"):
        return _streams(_read_list(Path(text)), how)
    if _scheme(text) in (*PUSHED, "pipe"):
        return _streams([text], how)
    checked, stream, screen, images, *_ = check_source(text)
    if stream:
        return _streams([text], how)
    if screen:
        return _screen(text, how.channels)
    return checked if images else Files(checked, how.batch, how.stride, how.channels)


def _streams(sources: Sequence[Any], how: Loading) -> Streams:
    sources = [int(s) if str(s).isnumeric() else str(s) for s in sources]
    names: list[str] = []
    for source in sources:
        name = stream_name(source)
        names.append(next(free for free in chain([name], (f"{name}-{k}" for k in count(2))) if free not in names))
    keep = BUFFER if how.buffer else 1
    return Streams(sources, names, Rules(keep, how.stride, how.patience, how.channels), how.most)


def _read_list(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise FileNotFoundError(f"{file}: no stream in it")
    return found


def _screen(source: str, channels: int) -> LoadScreenshots:
    try:
        loader = LoadScreenshots(source, channels=channels)
    except ImportError as error:
        raise ImportError(f"source={source} needs mss: pip install 'yolo-uncert[screen]'") from error
    except (ValueError, IndexError):
        raise
    except Exception as error:
        # The errors of the capture library have no base class but Exception.
        raise OSError(f"source={source}: there is no screen to capture: {error}") from error
    loader.source_type = SourceTypes(screenshot=True)
    return loader


def _scheme(source: str) -> str:
    return source.partition(":")[0].lower() if re.match(r"[a-zA-Z]\w+:", source) else ""


def _is_stream(item: Any) -> bool:
    """Return whether an item of a list is a stream, or a video on a web server, by its looks alone."""
    if isinstance(item, bool) or not isinstance(item, (int, str)):
        return False
    text, scheme = str(item), _scheme(str(item))
    web = scheme in ("http", "https") and urlsplit(text.lower()).path.rpartition(".")[-1] not in IMG_FORMATS
    return text.isnumeric() or scheme in PUSHED or web


def _is_video(item: Any) -> bool:
    """Return whether an item of a list is the path of a video, by its looks alone."""
    return isinstance(item, (str, Path)) and Path(item).suffix.lower().lstrip(".") in VID_FORMATS
