"""Images and videos on disk: what cannot be read is reported and left out, the rest goes on."""

from __future__ import annotations

import csv
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ultralytics.data.loaders import LoadImagesAndVideos, SourceTypes
from ultralytics.utils import LOGGER
from ultralytics.utils.patches import imread

from yolo_uncert.streams.capture import FALLBACK_FPS
from yolo_uncert.streams.pixels import as_uint8

LISTS = (".txt", ".csv")
WHOLE = 64
"""Images of a list in Python that make one batch, as any number of them does in Ultralytics, at any ``batch``."""

TOLERANCE = 0.02
"""Share of a video's frames by which its header may be wrong without a message."""


class Files(LoadImagesAndVideos):
    """Ultralytics' loader of images and videos, to which no single file is fatal.

    Args:
        path: File, folder, pattern, list of them, or a .txt or .csv file that lists them. A list of images keeps its
            order; videos come after images.
        batch: Images per batch; a list of images in Python is one batch up to ``WHOLE``, if that is more.
        stride: Every how many frames of a video one is read.
        channels: Channels that the model takes.

    Raises:
        FileNotFoundError: There is no image or video at all.
        ValueError: A list is not in UTF-8.
    """

    files: list[str]
    bs: int
    ni: int
    frame: int
    frames: int
    fps: float
    _video: str | None = None

    def __init__(
        self, path: str | Path | Sequence[str | Path], batch: int = 1, stride: int = 1, channels: int = 3
    ) -> None:
        self.source_type = SourceTypes()
        self.skipped: dict[str, str] = {}
        whole = not isinstance(path, (str, Path))
        if isinstance(path, (str, Path)) and Path(path).suffix.lower() in LISTS and Path(path).is_file():
            path = _listed(Path(path))
        if not isinstance(path, (str, Path)):
            given = [str(p) for p in path]
            path = [p for p in given if "*" in p or Path(p).exists()]
            for missing in sorted(set(given) - set(path)):
                self._skip(missing, "does not exist")
            if not path:
                raise FileNotFoundError(f"None of these exists: {', '.join(given[:3]) or 'an empty list'}")
        super().__init__(path, batch, stride, channels)
        if not isinstance(path, (str, Path)) and all(Path(p).is_file() for p in path):
            self._keep_order(path)
            if whole and self.ni == self.nf:
                self.bs = max(self.bs, min(self.ni, WHOLE))

    def __next__(self) -> tuple[list[str], list[Any], list[str]]:
        """Return paths, images and descriptions of the next batch."""
        start = self.count
        try:
            return super().__next__()
        except (OSError, cv2.error):
            return self._one_by_one(start)
        except StopIteration:
            self._check_length()
            raise

    def _one_by_one(self, start: int) -> tuple[list[str], list[Any], list[str]]:
        """Return the next image alone, from where a batch failed, so that only the culprit is left out."""
        batch, self.bs, self.count = self.bs, 1, start
        try:
            while True:
                try:
                    return super().__next__()
                except (OSError, cv2.error) as error:
                    self._skip(self.files[self.count], str(error))
                    self.count += 1
        finally:
            self.bs = batch

    def _append_image(self, paths: list[str], imgs: list[Any], info: list[str], path: str, im0: Any, idx: int) -> None:
        im0 = self._of_floats(path) if im0 is None else im0
        if im0 is None:
            self._skip(path, "is no image, or damaged")
            return
        # A model for other than 1 or 3 channels gets its bands as they are, as in training.
        im0 = as_uint8(im0) if im0.shape[2] in (1, 3) else im0
        super()._append_image(paths, imgs, info, path, im0, idx)

    def _of_floats(self, path: str) -> Any:
        """Return an image that OpenCV decodes only as it is, floats of one band say, in the channels of the model."""
        wanted = {cv2.IMREAD_COLOR: 3, cv2.IMREAD_GRAYSCALE: 1}.get(self.cv2_flag)
        found = imread(path, flags=cv2.IMREAD_UNCHANGED) if wanted else None
        if found is None:
            return None
        found = as_uint8(found.reshape(*found.shape[:2], -1))
        if (found.shape[2], wanted) == (1, 3):
            return np.repeat(found, 3, 2)
        if (found.shape[2], wanted) == (3, 1):
            return cv2.cvtColor(found, cv2.COLOR_BGR2GRAY)[..., None]
        return found if found.shape[2] == wanted else None

    def _new_video(self, path: str) -> None:
        self._check_length()
        try:
            super()._new_video(path)
        except FileNotFoundError:
            self.frames = 0
            self._skip(path, "is no video, damaged, or cut off before its index")
        self._video = path
        self.fps = self.fps if 0 < self.fps < 1000 else FALLBACK_FPS

    def _check_length(self) -> None:
        """Report a video that ended before its time."""
        path, self._video = self._video, None
        if path and self.frames > 0 and self.frames - self.frame > max(TOLERANCE * self.frames, 1):
            self._skip(path, f"is damaged or cut off: {self.frame} of {self.frames} frames were read")

    def _keep_order(self, given: Sequence[str | Path]) -> None:
        """Put the files into the order and spelling in which they were given."""
        known = set(self.files)
        named = [(str(p), str(Path(p).absolute())) for p in given]
        videos = set(self.files[self.ni :])
        images = [p for p, full in named if full in known and full not in videos]
        self.files = [*images, *(p for p, full in named if full in videos)]

    def _skip(self, path: str, reason: str) -> None:
        """Report a file once."""
        if path not in self.skipped:
            reason = " ".join(reason.split())
            self.skipped[path] = reason
            LOGGER.warning(f"{path}: {reason}")


def _listed(file: Path) -> list[str]:
    """Return the entries of a .txt or .csv file, which are relative to the working folder, or else to the file.

    Raises:
        ValueError: It is not in UTF-8.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no list in UTF-8: {error}") from error
    if file.suffix.lower() == ".csv":
        rows = list(csv.reader(lines))
        lines = [cell for row in rows[rows[:1] == [["source"]] :] for cell in row]
    return [_beside(line.strip(), file.parent) for line in lines if line.strip()]


def _beside(entry: str, folder: Path) -> str:
    """Return an entry of a list, or the same below the folder if only that is there."""
    here, there = (_exists(path) for path in (entry, str(folder / entry)))
    return str(folder / entry) if there and not here else entry


def _exists(path: str) -> bool:
    """Return whether there is such a file; of a pattern, as Ultralytics tells one, whether there is any."""
    return bool(glob.glob(path, recursive=True)) if "*" in path else Path(path).exists()
