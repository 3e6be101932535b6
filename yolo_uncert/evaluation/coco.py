"""The twelve numbers of COCO's box evaluation, by pycocotools or by hotcoco, which computes the same ones faster."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MODULES = {"pycocotools": ("pycocotools.coco", "pycocotools.cocoeval"), "hotcoco": ("hotcoco", "hotcoco")}
_AREAS = {"small": 1, "medium": 2, "large": 3}
"""Position of an area range in COCO's table; 0 is that of all areas."""
_THRESHOLDS = {"AP50": 0, "AP75": 5}
"""Position of an IoU threshold among 0.50, 0.55, ..., 0.95."""


def evaluate_coco(
    truth: Mapping[str, Any] | str | Path,
    detections: Sequence[Mapping[str, Any]] | str | Path,
    backend: str = "auto",
    max_dets: Sequence[int] = (1, 10, 100),
    image_ids: Collection[int] | None = None,
) -> dict[str, float]:
    """Average precision and recall of horizontal boxes as COCO defines them.

    AP averages over the IoU thresholds 0.50, 0.55, ..., 0.95, over the classes that have objects and over 101 levels of
    recall; AR is the recall averaged over thresholds and classes. Small objects have an area of at most 32^2 pixels,
    medium ones of at most 96^2. Nothing is printed, and neither argument is changed.

    Args:
        truth: ground truth in COCO's format, see `coco_ground_truth`, or its json file. An annotation without ``area``
            has the area of its box, one without ``iscrowd`` is no crowd.
        detections: rows of `coco_detections`, or their json file; may be empty.
        backend: ``"pycocotools"``, ``"hotcoco"`` (the extra ``coco``) or ``"auto"``, hotcoco where it is installed.
        max_dets: ascending numbers of detections per image and class that count, those with the highest scores. There
            is one AR for each; the last one holds for all other rows.
        image_ids: images to evaluate, where they are not all of the ground truth.

    Returns:
        ``AP``, ``AP50``, ``AP75``, ``AP_small``, ``AP_medium``, ``AP_large``, then ``AR_1``, ``AR_10``, ``AR_100``,
        named after ``max_dets``, and ``AR_small``, ``AR_medium``, ``AR_large``, all in ``[0, 1]``; NaN, where COCO
        prints -1, if there are no objects of that size.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If the backend asked for is not installed.
        ValueError: If the ground truth has no annotations, a row lacks an entry or a number, a detection belongs to an
            image or category that the ground truth lacks, or an option is out of its range.
    """
    coco, evaluator_type = _backend(backend)
    if not max_dets or min(max_dets) < 1 or sorted(set(max_dets)) != list(max_dets):
        raise ValueError(f"max_dets must be ascending positive numbers; got {tuple(max_dets)}")
    expected, found = _dataset(truth), _rows(_load(detections), "detection")
    _check_known(found, expected)
    with redirect_stdout(io.StringIO()):
        detected = {**expected, "annotations": found}
        evaluator = evaluator_type(_indexed(coco, expected), _indexed(coco, detected), "bbox")
        evaluator.params.maxDets = list(max_dets)
        evaluator.params.imgIds = _selected(expected, image_ids)
        evaluator.evaluate()
        evaluator.accumulate()
    return _summary(evaluator.eval["precision"], evaluator.eval["recall"], max_dets)


def _backend(name: str) -> tuple[Any, Any]:
    """Classes of the data set and of the evaluation."""
    if name == "auto":
        name = "hotcoco" if find_spec("hotcoco") else "pycocotools"
    if name not in _MODULES:
        raise ValueError(f"backend must be one of auto, {', '.join(_MODULES)}; got {name!r}")
    if not find_spec(name):
        raise ModuleNotFoundError(f"backend={name!r} is not installed: pip install {name}", name=name)
    dataset, evaluation = (import_module(module) for module in _MODULES[name])
    return dataset.COCO, evaluation.COCOeval


def _load(content: Any) -> Any:
    return json.loads(Path(content).read_text(encoding="utf-8")) if isinstance(content, (str, Path)) else content


def _dataset(truth: Any) -> dict[str, Any]:
    """Copy of the ground truth that holds what box evaluation reads."""
    content = _load(truth)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, Mapping) or not content.get(key):
            raise ValueError(f"the ground truth has no {key}")
    images = [{"id": image["id"]} for image in content["images"]]
    # hotcoco prints a notice about every category without a name.
    categories = [{"id": c["id"], "name": str(c.get("name", c["id"]))} for c in content["categories"]]
    dataset = {"images": images, "annotations": _rows(content["annotations"], "annotation"), "categories": categories}
    _check_known(dataset["annotations"], dataset)
    return dataset


def _rows(rows: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Copies of annotations or detections, numbered from 1: pycocotools takes an object of number 0 for no match."""
    try:
        boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(len(rows), 4)
        scores = np.array([row["score"] if kind == "detection" else 1.0 for row in rows], dtype=np.float64)
        keys = [(row["image_id"], row["category_id"]) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        needed = "image_id, category_id, bbox of four numbers" + (" and score" if kind == "detection" else "")
        raise ValueError(f"every {kind} needs {needed}: {error!r}") from error
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(f"every {kind} needs finite numbers")
    columns = zip(rows, keys, boxes.tolist(), scores.tolist(), strict=True)
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3] if kind == "detection" else float(row.get("area", box[2] * box[3])),
            "iscrowd": 0 if kind == "detection" else int(row.get("iscrowd", 0)),
            "score": score,
        }
        for number, (row, (image, category), box, score) in enumerate(columns, start=1)
    ]


def _check_known(rows: Iterable[Mapping[str, Any]], truth: Mapping[str, Any]) -> None:
    for key, table in (("image_id", "images"), ("category_id", "categories")):
        unknown = {row[key] for row in rows} - {entry["id"] for entry in truth[table]}
        if unknown:
            shown = ", ".join(map(repr, sorted(unknown, key=str)[:3]))
            raise ValueError(f"{len(unknown)} {key} are not among the {table} of the ground truth: {shown}")


def _selected(truth: Mapping[str, Any], image_ids: Collection[int] | None) -> list[int]:
    every = {image["id"] for image in truth["images"]}
    chosen = every if image_ids is None else set(image_ids)
    if not chosen or not chosen <= every:
        raise ValueError(f"image_ids must name images of the ground truth; got {sorted(chosen - every)[:3]}")
    if not any(row["image_id"] in chosen for row in truth["annotations"]):
        raise ValueError("the ground truth has no annotations in the images of image_ids")
    return sorted(chosen)


def _indexed(coco: Any, content: dict[str, Any]) -> Any:
    dataset = coco()
    dataset.dataset = content
    dataset.createIndex()
    return dataset


def _summary(precision: NDArray[Any], recall: NDArray[Any], max_dets: Sequence[int]) -> dict[str, float]:
    """The rows from precision ``[T, R, K, A, M]`` and recall ``[T, K, A, M]``.

    Upstream's own summary has no value for AP when the last of ``max_dets`` is not 100.
    """
    rows = {"AP": _mean(precision[..., 0, -1])}
    rows |= {name: _mean(precision[index, ..., 0, -1]) for name, index in _THRESHOLDS.items()}
    rows |= {f"AP_{name}": _mean(precision[..., index, -1]) for name, index in _AREAS.items()}
    rows |= {f"AR_{count}": _mean(recall[..., 0, index]) for index, count in enumerate(max_dets)}
    return rows | {f"AR_{name}": _mean(recall[..., index, -1]) for name, index in _AREAS.items()}


def _mean(values: NDArray[Any]) -> float:
    """Mean over the classes that have objects; the others hold -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else math.nan
