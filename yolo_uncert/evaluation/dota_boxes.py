"""Oriented detections and objects of a data set as columns, one row a box."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from yolo_uncert.evaluation.polygons import corners


def class_name(name: str) -> str:
    """Class as DOTA writes it: hyphens for spaces, which separate the columns of its files, and for slashes."""
    return "-".join(re.sub(r"[/\\\0]", " ", name).split())


@dataclass(frozen=True)
class DotaDetections:
    """Detections of a data set.

    Attributes:
        images: ``Array[N]`` of names, without suffix.
        classes: ``Array[N]`` of names; spaces become hyphens.
        scores: ``Array[N]``, finite.
        polygons: ``Array[N, 4, 2]`` of ``(x, y)`` in pixels, finite, corners in order along the boundary.

    Raises:
        ValueError: If the columns differ in length, or a number is not finite.
    """

    images: NDArray[np.str_]
    classes: NDArray[np.str_]
    scores: NDArray[np.float64]
    polygons: NDArray[np.float64]

    def __post_init__(self) -> None:
        _set_columns(self, scores=np.asarray(self.scores, dtype=np.float64).reshape(-1))

    @classmethod
    def of_image(cls, image: str, xywhr: ArrayLike, classes: Collection[str], scores: ArrayLike) -> DotaDetections:
        """Detections of one image from oriented boxes.

        Args:
            image: name of the image, without suffix.
            xywhr: ``Array[N, 5]`` in ``(x, y, w, h, theta)`` format, pixels and radians.
            classes: N class names.
            scores: ``Array[N]``.
        """
        return cls(_names([image] * len(classes)), _names(classes), np.asarray(scores), corners(np.asarray(xywhr)))

    @classmethod
    def stack(cls, parts: Iterable[DotaDetections]) -> DotaDetections:
        """All rows of several tables, in their order."""
        tables = [cls(_names(()), _names(()), np.zeros(0), np.zeros((0, 4, 2))), *parts]
        return cls(**_joined(tables, "images", "classes", "scores", "polygons"))


@dataclass(frozen=True)
class DotaTruth:
    """Objects of a data set.

    Attributes:
        images: ``Array[N]`` of names, without suffix.
        classes: ``Array[N]`` of names; spaces become hyphens.
        difficult: ``Array[N]``, whether an object need not be found.
        polygons: ``Array[N, 4, 2]`` of ``(x, y)`` in pixels, finite, corners in order along the boundary.
        empty: names of the images without objects, in which every detection is wrong.

    Raises:
        ValueError: If the columns differ in length, or a number is not finite.
    """

    images: NDArray[np.str_]
    classes: NDArray[np.str_]
    difficult: NDArray[np.bool_]
    polygons: NDArray[np.float64]
    empty: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _set_columns(self, difficult=np.asarray(self.difficult, dtype=np.bool_).reshape(-1))

    @classmethod
    def of_image(
        cls, image: str, xywhr: ArrayLike, classes: Collection[str], difficult: ArrayLike | None = None
    ) -> DotaTruth:
        """Objects of one image from oriented boxes.

        Args:
            image: name of the image, without suffix.
            xywhr: ``Array[N, 5]`` in ``(x, y, w, h, theta)`` format, pixels and radians; N may be zero.
            classes: N class names.
            difficult: ``Array[N]`` of flags; none is set if not given.
        """
        flags = np.zeros(len(classes), dtype=np.bool_) if difficult is None else np.asarray(difficult)
        empty = () if len(classes) else (image,)
        return cls(_names([image] * len(classes)), _names(classes), flags, corners(np.asarray(xywhr)), empty)

    @classmethod
    def stack(cls, parts: Iterable[DotaTruth]) -> DotaTruth:
        """All rows of several tables, in their order."""
        tables = [cls(_names(()), _names(()), np.zeros(0, dtype=np.bool_), np.zeros((0, 4, 2))), *parts]
        columns = _joined(tables, "images", "classes", "difficult", "polygons")
        return cls(**columns, empty=tuple(name for table in tables for name in table.empty))


def _names(values: Iterable[str]) -> NDArray[np.str_]:
    return np.array(list(values), dtype=np.str_)


def _joined(tables: Sequence[Any], *columns: str) -> dict[str, Any]:
    return {column: np.concatenate([getattr(table, column) for table in tables]) for column in columns}


def _set_columns(table: DotaDetections | DotaTruth, **own: NDArray[Any]) -> None:
    classes = np.asarray(table.classes, dtype=np.str_).reshape(-1)
    distinct, index = np.unique(classes, return_inverse=True)
    columns = {
        "images": np.asarray(table.images, dtype=np.str_).reshape(-1),
        "classes": _names(class_name(str(name)) for name in distinct)[index],
        "polygons": np.asarray(table.polygons, dtype=np.float64),
        **own,
    }
    count = len(columns["images"])
    for name, column in columns.items():
        expected = (count, 4, 2) if name == "polygons" else (count,)
        if column.shape != expected:
            raise ValueError(f"{name} of {count} rows must be {list(expected)}; got {list(column.shape)}")
        if column.dtype == np.float64 and not np.isfinite(column).all():
            raise ValueError(f"{name} must be finite")
        object.__setattr__(table, name, column)
