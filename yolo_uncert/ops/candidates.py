"""Candidates as the backends take them, and results as the caller gave the candidates: arrays or tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolo_uncert.ops.backend import LOGGER, Floats, Ints

Array = TypeVar("Array", NDArray[Any], Tensor)

LEAST_VARIANCE = 1e-12
"""Variances below this one weigh as much as this one, so that a variance of zero does not divide by zero."""
LEAST_SCORE = 1e-100
"""Scores below this one weigh as much as this one, so that votes always have a mean."""
_MOST_LABELS = 1 << 12
"""Classes above this one are renumbered, so that a table of all classes stays small."""


@dataclass(frozen=True)
class Kept(Generic[Array]):
    """What suppression leaves of one image, by falling score; arrays or tensors like the boxes that went in.

    Attributes:
        index: ``Tensor[K]``, int64, positions among the candidates; picks other inputs, such as ``classes[index]``.
        scores: ``Tensor[K]`` after decay.
        boxes: ``Tensor[K, 4]`` xyxy or ``Tensor[K, 5]`` xywhr, voted if voting is on.
        variances: ``Tensor[K, 4]`` or ``Tensor[K, 5]`` of the boxes (squared pixels, squared radians), merged if voting
            is on; None if the candidates have none.
    """

    index: Array
    scores: Array
    boxes: Array
    variances: Array | None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class CheckedCandidates:
    """Checked candidates of one image in float64, without those that hold numbers that cannot be used.

    Attributes:
        boxes: ``[N, 4]`` xyxy or ``[N, 5]`` xywhr.
        scores: ``[N]``.
        labels: ``[N]``, small non-negative numbers that stand for the classes.
        variances: ``[N, 4]`` or ``[N, 5]`` as the boxes, or ``[N, 0]``. An infinite angle variance is an unknown one.
        usable: ``[N]``, false for rejected candidates.
        single: The boxes come in float32 or less.
        rank: ``[N]``, what picks go by: predicted IoUs, or the scores.
    """

    boxes: Floats
    scores: Floats
    labels: Ints
    variances: Floats
    usable: NDArray[np.bool_]
    single: bool
    rank: Floats

    @classmethod
    def of(
        cls, boxes: Array, scores: Array, classes: Array | None, variances: Array | None, ious: Array | None = None
    ) -> CheckedCandidates:
        """Check and convert candidates; a warning counts those that are not finite.

        Raises:
            TypeError: If the boxes are neither an array nor a tensor.
            ValueError: If the shapes do not fit.
        """
        check_shapes(boxes, scores, classes, variances)
        box, score, variance = floats(boxes), floats(scores), _variances(variances, boxes)
        rank = score if ious is None else column("ious", ious, len(box))
        return cls(
            boxes=box,
            scores=score,
            labels=np.zeros(len(box), np.int64) if classes is None else label("classes", classes, len(box)),
            variances=variance,
            usable=_usable(box, score, variance, rank),
            single=is_single(boxes),
            rank=rank,
        )

    @property
    def has_variances(self) -> bool:
        """Whether the candidates carry variances."""
        return self.variances.shape[1] > 0

    def taking_part(self, threshold: float, most: int, *, agnostic: bool = False) -> Ints:
        """``[N]``: the labels of the candidates that take part, -1 for the others.

        Args:
            threshold: Smallest score that takes part.
            most: Number of candidates, by falling score and then rising index, that take part.
            agnostic: All take part under one label.
        """
        mask = self.usable & (self.scores >= threshold)
        if len(mask) > most and (surplus := int(mask.sum()) - most) > 0:
            last = np.partition(self.scores[mask], surplus)[surplus]
            equal = np.flatnonzero(mask & (self.scores == last))
            mask &= self.scores > last
            mask[equal[: most - int(mask.sum())]] = True
        return np.where(mask, 0 if agnostic else self.labels, -1)

    def votes(self, weight: str, *, fused: bool) -> tuple[Floats, Floats]:
        """What each side of each candidate adds to a vote: its factor, and its term in the merged variance.

        Args:
            weight: ``variance``, ``score`` or ``both``; without variances the factor is the score.
            fused: The terms are precisions, else variances.

        Returns:
            Factors and terms, ``[N, 4]`` or ``[N, 5]``, zero where the variance is infinite; terms ``[N, 0]`` where
            there are no variances.
        """
        scores = np.where(self.usable, np.maximum(self.scores, LEAST_SCORE), 0.0)[:, None]
        if not self.has_variances:
            return np.repeat(scores, self.boxes.shape[1], axis=1), self.variances
        precisions, known = 1 / np.maximum(self.variances, LEAST_VARIANCE), self.variances < np.inf
        factors = precisions if weight == "variance" else scores * (precisions if weight == "both" else known)
        terms = precisions if fused else np.where(known, self.variances, 0.0)
        return floats(factors), floats(terms)


def check_shapes(boxes: Any, scores: Any, classes: Any, variances: Any) -> None:
    """Check candidates of one image before they are converted.

    Raises:
        TypeError: If the boxes are neither an array nor a tensor.
        ValueError: If the shapes do not fit.
    """
    if not isinstance(boxes, (np.ndarray, Tensor)):
        raise TypeError(f"boxes must be a numpy array or a torch tensor, not {type(boxes).__name__}")
    sides = boxes.shape[1] if boxes.ndim == 2 else 0
    if sides not in (4, 5):
        raise ValueError(f"boxes must be [N, 4] (xyxy) or [N, 5] (xywhr); got {list(boxes.shape)}")
    count = len(boxes)
    check_count("scores", scores, count)
    if classes is not None:
        check_count("classes", classes, count)
    if variances is not None and tuple(variances.shape) not in {(count, 4), (count, sides)}:
        allowed = f"[{count}, 4]" + (f" or [{count}, 5]" if sides == 5 else "")
        raise ValueError(f"variances must be {allowed}, one per side of a box; got {list(variances.shape)}")


def floats(values: Any) -> Floats:
    """Convert an array or a tensor on any device to a contiguous float64 array that must not be written to."""
    return _convert(values, torch.float64, np.float64)


def integers(values: Any) -> Ints:
    """Convert an array or a tensor on any device to a contiguous int64 array that must not be written to."""
    return _convert(values, torch.int64, np.int64)


def column(name: str, values: Any, count: int) -> Floats:
    """Convert one number per candidate.

    Raises:
        ValueError: If the shape is not ``[count]``.
    """
    check_count(name, values, count)
    return floats(values)


def label(name: str, classes: Any, count: int) -> Ints:
    """Number classes (or images) from zero, such that equal classes and only those have equal numbers.

    Raises:
        ValueError: If the shape is not ``[count]``.
    """
    check_count(name, classes, count)
    labels = integers(classes)
    if count and (labels.min() < 0 or labels.max() >= _MOST_LABELS):
        return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return labels


def restore(values: NDArray[Any], like: Array) -> Array:
    """Give a result the type, device and floating dtype of an input; results for integers are float64."""
    if isinstance(like, Tensor):
        return torch.from_numpy(values).to(like.device, like.dtype if like.is_floating_point() else torch.float64)
    return values.astype(like.dtype if like.dtype.kind == "f" else np.float64, copy=False)


def restore_index(index: Ints, like: Array) -> Array:
    """Give an int64 result the type and device of an input."""
    return torch.from_numpy(index).to(like.device) if isinstance(like, Tensor) else index


def is_single(boxes: Any) -> bool:
    """Whether boxes come in float32 or less."""
    if isinstance(boxes, Tensor):
        return boxes.is_floating_point() and boxes.dtype != torch.float64
    return boxes.dtype.kind == "f" and boxes.dtype.itemsize < 8


def check_count(name: str, values: Any, count: int) -> None:
    """Check that there is one number per candidate.

    Raises:
        TypeError: If the values are neither an array nor a tensor.
        ValueError: If the shape is not ``[count]``.
    """
    if not isinstance(values, (np.ndarray, Tensor)):
        raise TypeError(f"{name} must be a numpy array or a torch tensor, not {type(values).__name__}")
    if tuple(values.shape) != (count,):
        raise ValueError(f"{name} must be [{count}], one per box; got {list(values.shape)}")


def warn_rejected(rejected: int, count: int) -> None:
    """Log a warning that counts the rejected candidates of an image, if there are any."""
    if rejected:
        LOGGER.warning(
            "rejected %d of %d candidates: box, score, variance or IoU is not finite, or a variance is negative",
            rejected,
            count,
        )


def _convert(values: Any, tensor_dtype: torch.dtype, dtype: Any) -> Any:
    if isinstance(values, Tensor):
        values = values.detach().cpu().to(tensor_dtype).numpy()  # in this order: Apple's GPUs have no float64
    values = np.ascontiguousarray(values, dtype)
    return values if values.flags.aligned else values.copy()


def _variances(variances: Any, boxes: Any) -> Floats:
    if variances is None:
        return np.empty((len(boxes), 0))
    values = floats(variances)
    return values if variances.shape == boxes.shape else np.column_stack((values, np.full(len(boxes), np.inf)))


def _usable(boxes: Floats, scores: Floats, variances: Floats, rank: Floats) -> NDArray[np.bool_]:
    """``[N]``: whether all numbers of a candidate are finite and no variance is negative."""
    known = variances
    # The infinite angle variances that stand for unknown ones are no broken numbers.
    if variances.shape[1] == 5 and (unknown := np.isposinf(variances[:, 4])).any():
        known = variances.copy()
        known[unknown, 4] = 0
    fine = all(_fine(values) for values in (boxes, scores, known) + ((rank,) if rank is not scores else ()))
    if not (fine and np.minimum.reduce(known, axis=None, initial=0) >= 0):
        usable = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & np.isfinite(rank)
        usable &= (np.isfinite(known) & (known >= 0)).all(axis=1)
        warn_rejected(len(usable) - int(usable.sum()), len(usable))
        return usable
    return np.ones(len(boxes), np.bool_)


def _fine(values: Floats) -> bool:
    return bool(np.logical_and.reduce(np.isfinite(values), axis=None))
