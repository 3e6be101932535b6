"""Average precision of PASCAL VOC from flags of true and false positives in descending order of score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The levels of the devkits, rounding included: 0.3, 0.6 and 0.7 lie one rounding above the decimal, so that a recall of
# exactly 3 / 10 does not reach the fourth level. Comparable numbers matter more than the definition here.
_VOC07_LEVELS = np.arange(0.0, 1.1, 0.1)


def precision_recall(
    tp: NDArray[np.bool_], fp: NDArray[np.bool_], positives: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision after each detection.

    Args:
        tp: ``Array[N]``, whether a detection is a true positive, in descending order of score.
        fp: ``Array[N]``, likewise for false positives. A detection that is neither is ignored.
        positives: number of objects to be found, at least one.

    Returns:
        ``Array[N]`` of recall and ``Array[N]`` of precision, both in ``[0, 1]``; the precision is zero before the first
        detection that counts.

    Raises:
        ValueError: If the shapes differ or there is nothing to be found.
    """
    if tp.shape != fp.shape or tp.ndim != 1:
        raise ValueError(f"tp and fp must both be [N]; got {list(tp.shape)} and {list(fp.shape)}")
    if positives < 1:
        raise ValueError(f"recall needs at least one object; got positives={positives}")
    hits = np.cumsum(tp, dtype=np.float64)
    counted = hits + np.cumsum(fp, dtype=np.float64)
    return hits / positives, hits / np.maximum(counted, 1)


def average_precision(recall: ArrayLike, precision: ArrayLike, method: str = "area") -> float:
    """Average precision of one class at one IoU threshold.

    With the envelope ``p(r) = max of the precision at a recall of at least r`` (zero beyond the last recall),

        area:   AP = integral of p(r) dr over [0, 1]
        voc07:  AP = mean of p(r) over r = 0, 0.1, ..., 1

    Args:
        recall: ``Array[N]``, ascending, in ``[0, 1]``, see `precision_recall`.
        precision: ``Array[N]``, in ``[0, 1]``.
        method: ``"area"`` (PASCAL VOC 2010 and later) or ``"voc07"`` (PASCAL VOC 2007, DOTA).

    Returns:
        The average precision in ``[0, 1]``; zero without detections.

    Raises:
        ValueError: If the method is unknown or the shapes differ.

    Reference:
        Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015, section 2.2.
    """
    reached, quality = np.asarray(recall, dtype=np.float64), np.asarray(precision, dtype=np.float64)
    if reached.shape != quality.shape or reached.ndim != 1:
        raise ValueError(f"recall and precision must both be [N]; got {list(reached.shape)} and {list(quality.shape)}")
    check_method(method)
    return _METHODS[method](reached, np.maximum.accumulate(quality[::-1])[::-1])


def check_method(method: str) -> None:
    """Refuse an unknown way of averaging.

    Raises:
        ValueError: If ``method`` is none of `average_precision`.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}; got {method!r}")


def _area(recall: NDArray[Any], envelope: NDArray[Any]) -> float:
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _voc07(recall: NDArray[Any], envelope: NDArray[Any]) -> float:
    return float(np.append(envelope, 0.0)[np.searchsorted(recall, _VOC07_LEVELS)].mean())


_METHODS: dict[str, Callable[[NDArray[Any], NDArray[Any]], float]] = {"voc07": _voc07, "area": _area}
