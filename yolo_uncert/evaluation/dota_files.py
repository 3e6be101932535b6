"""Files of DOTA: results of Task 1 (oriented boxes), one file a class, and labels, one file an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from yolo_uncert.evaluation.dota_boxes import DotaDetections, DotaTruth, class_name
from yolo_uncert.files import replacing

_PREFIX = "Task1_"
_HEADERS = ("imagesource:", "gsd:")
_RESULT = "image score x1 y1 x2 y2 x3 y3 x4 y4"
_LABEL = "x1 y1 x2 y2 x3 y3 x4 y4 class difficult"

Row = TypeVar("Row")


def write_dota(folder: str | Path, detections: DotaDetections, names: Collection[str]) -> list[Path]:
    """Write ``Task1_<class>.txt`` for every class, empty where nothing was detected.

    A line holds ``image score x1 y1 x2 y2 x3 y3 x4 y4``, numbers with nine digits, which float32 survives. A file
    appears under its name when it is complete.

    Args:
        folder: where the files go; made if there is none.
        detections: what was detected.
        names: all classes; spaces become hyphens.

    Returns:
        The files, in the order of ``names``.

    Raises:
        ValueError: If a class is not among the names, two names are one file, or an image's name is empty or holds a
            space.
    """
    classes = [class_name(name) for name in names]
    if len(set(classes)) < len(classes):
        raise ValueError(f"two classes have the same file name: {sorted(classes)}")
    unknown = sorted(set(detections.classes.tolist()) - set(classes))
    if unknown:
        raise ValueError(f"class {unknown[0]!r} is not among the names: {', '.join(classes)}")
    for image in np.unique(detections.images).tolist():
        if len(image.split()) != 1 or image != image.strip():
            raise ValueError(f"the name of an image must be one word; got {image!r}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [_write(Path(folder, f"{_PREFIX}{name}.txt"), detections, detections.classes == name) for name in classes]


def read_dota(folder: str | Path) -> DotaDetections:
    """Read every ``Task1_<class>.txt`` of a folder.

    Raises:
        FileNotFoundError: If the folder has no such file.
        ValueError: If a line is malformed; the message names file and line.
    """
    parts = []
    for file in _files(folder, f"{_PREFIX}*.txt"):
        rows = list(_lines(file, _result, _RESULT))
        images, numbers = [image for image, _ in rows], np.array([row for _, row in rows]).reshape(-1, 9)
        classes = [file.stem.removeprefix(_PREFIX)] * len(rows)
        parts.append(
            DotaDetections(
                np.array(images, str), np.array(classes, str), numbers[:, 0], numbers[:, 1:].reshape(-1, 4, 2)
            )
        )
    return DotaDetections.stack(parts)


def read_dota_labels(folder: str | Path) -> DotaTruth:
    """Read the label files of a folder, ``labelTxt/<image>.txt``, or a single one.

    A line holds ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult``, the last entry optional and 0; lines that begin with
    ``imagesource:`` or ``gsd:`` are skipped.

    Raises:
        FileNotFoundError: If the folder has no text file.
        ValueError: If a line is malformed; the message names file and line.
    """
    images, rows, empty = [], [], []
    for file in _files(folder, "*.txt"):
        found = list(_lines(file, _label, _LABEL))
        images += [file.stem] * len(found)
        rows += found
        empty += [] if found else [file.stem]
    polygons = np.array([polygon for polygon, _, _ in rows]).reshape(-1, 4, 2)
    classes = np.array([name for _, name, _ in rows], str)
    return DotaTruth(
        np.array(images, str), classes, np.array([hard for *_, hard in rows], bool), polygons, tuple(empty)
    )


def _files(folder: str | Path, pattern: str) -> list[Path]:
    if Path(folder).is_file():
        return [Path(folder)]
    files = sorted(Path(folder).glob(pattern))
    if not files:
        raise FileNotFoundError(f"{folder} has no {pattern}")
    return files


def _lines(file: Path, parse: Callable[[list[str]], Row], form: str) -> Iterator[Row]:
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip() and not line.lower().startswith(_HEADERS):
            try:
                yield parse(line.split())
            except ValueError as error:
                raise ValueError(f"{file}, line {number}: expected '{form}', got {line.strip()!r}") from error


def _result(words: list[str]) -> tuple[str, list[float]]:
    image, *numbers = words
    return image, _finite(numbers, 9)


def _label(words: list[str]) -> tuple[list[float], str, bool]:
    name, difficult = words[8:] if len(words) != 9 else (words[8], "0")
    return _finite(words[:8], 8), name, int(difficult) != 0


def _finite(words: list[str], count: int) -> list[float]:
    numbers = [float(word) for word in words]
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(words)
    return numbers


def _write(target: Path, detections: DotaDetections, chosen: np.ndarray) -> Path:
    numbers = np.column_stack((detections.scores[chosen], detections.polygons[chosen].reshape(-1, 8))).tolist()
    names = detections.images[chosen].tolist()
    lines = [f"{name} {' '.join(f'{x:.9g}' for x in row)}\n" for name, row in zip(names, numbers, strict=True)]
    with replacing(target) as part:
        part.write_text("".join(lines), encoding="utf-8")
    return target
