"""One row per detected box: the columns of every table of detections, and the values of one result."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from yolo_uncert.engine.boxes import BOXES, UncertBoxes, UncertOBB
from yolo_uncert.engine.results import UncertResults
from yolo_uncert.functional.boxes import rbox_covariance

CORNERS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")

TINY = 1e-30
"""A standard deviation that stands for zero, as a divisor."""


def columns(task: str) -> dict[str, type]:
    """Return the columns of a table and the type of their values, any of which may be missing.

    They depend on the task alone, not on the model's branches nor on what is found, so that tables of several runs fit
    together. Class, score, track and corners have the names of Ultralytics' ``summary()``. The type ``list`` stands for
    a matrix.

    Args:
        task: ``detect`` or ``obb``.
    """
    box = BOXES[task].coordinates
    return {
        **{"path": str, "stream": int, "frame": int, "time_s": float},
        **{"class": int, "name": str, "confidence": float, "track_id": int},
        **dict.fromkeys(box, float),
        **dict.fromkeys(CORNERS if task == "obb" else (), float),
        **{f"std_{name}": float for name in box},
        **{"covariance": list, "iou": float, "quality": float, "interval_level": float},
        **{f"{end}_{name}": float for name in box for end in ("low", "high")},
        **{"track_covariance": list},
    }


def rows_of(
    result: UncertResults,
    *,
    frame: int | None = None,
    time_s: float | None = None,
    stream: int | None = None,
    level: float = 0.9,
) -> list[dict[str, Any]]:
    """Return one dictionary per box of a result, with the columns of :func:`columns` in their order.

    Values are plain Python; what a model or a run does not provide is None, and so is what is not finite (the
    uncertainty of a track without a detection of its own). Numbers that the model computed have the fewest digits that
    read back as the same float32.

    Args:
        result: Detections of one image.
        frame: Number of the image or frame.
        time_s: Time of the frame in seconds.
        stream: Index of the stream that the frame came from.
        level: Probability in (0, 1) of the intervals, see ``UncertBoxes.interval``.

    Raises:
        ValueError: The level is not in (0, 1), or above the largest that the model's calibration set supports.
    """
    detections = result.boxes if result.obb is None else result.obb
    if detections is None:
        return []
    found: Any = detections.cpu().numpy()
    oriented = isinstance(found, UncertOBB)
    box, count = found.data[:, : len(found.coordinates)], len(found)
    classes = found.cls.astype(int).tolist()
    interval = found.interval(level)
    table = [
        *([value] * count for value in (result.path, stream, frame, time_s)),
        classes,
        [result.names[index] for index in classes],
        _plain(found.conf),
        [None] * count if found.id is None else found.id.astype(int).tolist(),
        *_plain(box.T),
        *(_plain(found.xyxyxyxy.reshape(count, 8).T) if oriented else ()),
        *_per_coordinate(found.std, box),
        _matrices(covariance(found), count),
        *(_per_coordinate(found.fields.get(name), box[:, :1])[0] for name in ("iou", "quality")),
        [None if interval is None else level] * count,
        *_per_coordinate(None if interval is None else interval.reshape(count, 2 * box.shape[1]), box.repeat(2, 1)),
        _matrices(found.fields.get("track_cov"), count),
    ]
    names = columns("obb" if oriented else "detect")
    return [dict(zip(names, values, strict=True)) for values in zip(*table, strict=True)]


def covariance(boxes: UncertBoxes | UncertOBB) -> npt.NDArray[np.float64] | None:
    """Return the covariances of box coordinates.

    The sides of a horizontal box are independent: a diagonal of variances. Centre and size of an oriented box derive
    from independent sides and angle, which correlates them, see ``functional.boxes.rbox_covariance``. The diagonal is
    always the square of ``std``: a calibration corrects every coordinate by itself, and their correlation stays.

    Args:
        boxes: Boxes of one image.

    Returns:
        Array[N, 4, 4] over (x1, y1, x2, y2) in pixels, or Array[N, 5, 5] over (x, y, w, h, angle) in pixels and
        radians, symmetric and positive semidefinite. NaN for a track without a detection of its own. None without
        ``std``, and for oriented boxes without the field ``sides``.
    """
    oriented = isinstance(boxes, UncertOBB)
    if boxes.std is None or (oriented and "sides" not in boxes.fields):
        return None
    boxes = boxes.cpu().to(torch.float64)
    std: Any = boxes.std
    variances: Any = std[:, :, None] * std[:, None, :]
    if not oriented:
        return (variances * torch.eye(4)).numpy()
    sides: Any = boxes.fields["sides"]
    derived = rbox_covariance(sides[:, :4], sides[:, 4], sides[:, 5:], boxes.data[:, 4])
    spread = derived.diagonal(dim1=1, dim2=2).sqrt().clamp_min(TINY)
    return (variances * derived / (spread[:, :, None] * spread[:, None, :])).numpy()


def _plain(values: npt.NDArray[np.floating]) -> list[Any]:
    """Return nested lists of floats, None where they are not finite."""
    # The text of a float32 is the shortest that reads back as it; float() alone appends the digits of a double.
    short = values.astype(np.float32).astype(str).astype(np.float64)
    return np.where(np.isfinite(short), short, None).tolist()  # type: ignore[call-overload]  # None makes objects


def _per_coordinate(values: npt.NDArray[np.floating] | None, like: npt.NDArray[np.floating]) -> list[list[Any]]:
    """Return the columns of an array as lists; without one, columns of None as many as another array has."""
    if values is None:
        return [[None] * len(like) for _ in range(like.shape[1])]
    return _plain(values.reshape(like.shape).T)


def _matrices(values: npt.NDArray[np.floating] | None, count: int) -> list[Any]:
    """Return one matrix per box, None where a value of it is not known."""
    if values is None:
        return [None] * count
    known = np.isfinite(values).all((1, 2)).tolist()
    return [matrix if there else None for matrix, there in zip(_plain(values), known, strict=True)]
