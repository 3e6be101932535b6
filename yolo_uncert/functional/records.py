"""What a validation remembers of a data set: matched boxes with their errors, and every detection with its score."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Matches:
    """Detections that were matched with an object, one row each, in pixels of the original images.

    Coordinates are x1, y1, x2, y2 of horizontal boxes, or x, y, w, h and the angle in radians of oriented ones.

    Attributes:
        residual: Array[N, 4 or 5], object minus detection; the angle wrapped.
        sigma: Array[N, 4 or 5], predicted standard deviations; NaN of a model that predicts none.
        boxes: Array[N, 4 or 5], the detections.
        iou: Array[N], overlap of detection and object.
        conf: Array[N], scores.
        cls: Array[N], class indices.
        image: Array[N], rows of ``shapes``.
        shapes: Array[I, 2], height and width of the images.
        files: Names of the images.
    """

    residual: Floats
    sigma: Floats
    boxes: Floats
    iou: Floats
    conf: Floats
    cls: Integers
    image: Integers
    shapes: Floats
    files: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of matched detections."""
        return len(self.residual)

    @property
    def oriented(self) -> bool:
        """Whether the boxes are oriented."""
        return self.boxes.shape[1] == 5

    def take(self, rows: npt.NDArray[np.generic]) -> Matches:
        """Return the matches of these rows, indices or a mask; the images stay."""
        images = ("shapes", "files")
        return Matches(
            **{f.name: getattr(self, f.name) if f.name in images else getattr(self, f.name)[rows] for f in fields(self)}
        )


@dataclass(frozen=True)
class Scored:
    """Every detection of a data set, matched or not, and how many objects there were.

    Attributes:
        conf: Array[M], scores in [0, 1].
        cls: Array[M], class indices.
        correct: Array[M, 10] of bool, whether it counts as found at IoU 0.50, 0.55 ... 0.95, as Ultralytics decides.
        matched: Array[M] of bool, whether it found an object by the overlap of its kind, at 0.5; of oriented boxes that
            is the exact one, where Ultralytics decides by probIoU.
        iou: Array[M], overlap with the object of its class that it was matched with, however small, greedily by score;
            0 without one.
        image: Array[M], index of its image.
        target_cls: Array[T], classes of the objects.
        target_image: Array[T], images of the objects.
        boxes: Array[M, 4 or 5], the detections in pixels of the original images; no rows while training.
        target_boxes: Array[T, 4 or 5], the objects; no rows while training.
    """

    conf: Floats
    cls: Integers
    correct: npt.NDArray[np.bool_]
    matched: npt.NDArray[np.bool_]
    iou: Floats
    image: Integers
    target_cls: Integers
    target_image: Integers
    boxes: Floats = field(default_factory=lambda: np.zeros((0, 4)))
    target_boxes: Floats = field(default_factory=lambda: np.zeros((0, 4)))
