"""Boxes as the dictionaries of COCO's json files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class CocoImage(NamedTuple):
    """An image and its objects.

    Attributes:
        id: Number of the image, unique in the data set.
        height: Height in pixels.
        width: Width in pixels.
        boxes: ``Array[N, 4]`` in ``(x1, y1, x2, y2)`` format, pixels; N may be zero.
        classes: ``Array[N]`` of class indices.
    """

    id: int
    height: int
    width: int
    boxes: ArrayLike
    classes: ArrayLike


def coco_ground_truth(
    images: Iterable[CocoImage], names: Mapping[int, str], category_ids: Sequence[int] | None = None
) -> dict[str, Any]:
    """Ground truth in COCO's format; the area of an object is that of its box, and none is a crowd.

    Args:
        images: every image of the set, those without objects too.
        names: class names by class index.
        category_ids: the category of each class index, where they differ (COCO numbers its 80 classes from 1 to 90).

    Returns:
        Dictionary with ``images``, ``annotations`` and ``categories`` that ``json.dump`` writes.

    Raises:
        ValueError: If an image occurs twice, a class has no name, or the boxes of an image have a wrong shape.
    """
    known: list[dict[str, int]] = []
    annotations: list[dict[str, Any]] = []
    for image in images:
        classes = np.asarray(image.classes, dtype=np.int64).reshape(-1)
        unnamed = sorted(set(classes.tolist()) - set(names))
        if unnamed:
            raise ValueError(f"image {image.id} has objects of class {unnamed[0]}, which names lacks")
        known.append({"id": int(image.id), "height": int(image.height), "width": int(image.width)})
        for box, category in zip(_ltwh(image.boxes, len(classes)), _categories(classes, category_ids), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": int(image.id),
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    if len({image["id"] for image in known}) < len(known):
        raise ValueError("every image must occur once; two have the same id")
    ids = _categories(np.array(list(names), dtype=np.int64), category_ids)
    categories = [{"id": category, "name": name} for category, name in zip(ids, names.values(), strict=True)]
    return {"images": known, "annotations": annotations, "categories": categories}


def coco_detections(
    image_id: int, boxes: ArrayLike, classes: ArrayLike, scores: ArrayLike, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Rows of a COCO results file for the detections of one image.

    Args:
        image_id: number of the image.
        boxes: ``Array[N, 4]`` in ``(x1, y1, x2, y2)`` format, pixels.
        classes: ``Array[N]`` of class indices.
        scores: ``Array[N]``.
        category_ids: as in `coco_ground_truth`.

    Returns:
        One dictionary a detection: ``image_id``, ``category_id``, ``bbox`` as left, top, width, height in pixels, and
        ``score``. Numbers keep all their digits.

    Raises:
        ValueError: If the numbers of boxes, classes and scores differ.
    """
    labels = np.asarray(classes, dtype=np.int64).reshape(-1)
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    if len(labels) != len(values):
        raise ValueError(f"expected one class and one score a box; got {len(labels)} classes, {len(values)} scores")
    rows = zip(_ltwh(boxes, len(labels)), _categories(labels, category_ids), values.tolist(), strict=True)
    return [
        {"image_id": int(image_id), "category_id": category, "bbox": box, "score": score}
        for box, category, score in rows
    ]


def _ltwh(boxes: ArrayLike, count: int) -> list[list[float]]:
    corners = np.asarray(boxes, dtype=np.float64)
    if corners.size == 0 and count == 0:
        return []
    if corners.shape != (count, 4):
        raise ValueError(f"boxes of {count} classes must be [{count}, 4]; got {list(corners.shape)}")
    return np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1).tolist()


def _categories(classes: NDArray[np.int64], category_ids: Sequence[int] | None) -> list[int]:
    return (classes if category_ids is None else np.asarray(category_ids, dtype=np.int64)[classes]).tolist()
