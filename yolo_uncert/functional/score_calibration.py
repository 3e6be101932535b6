"""Whether a score of 0.8 is right in 80 % of the cases, or the box overlaps its object by 80 %."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yolo_uncert.functional.records import Floats, Integers


@dataclass(frozen=True)
class ScoreBins:
    """Detections grouped by their score into bins of equal width, what a reliability diagram shows.

    Attributes:
        edges: Array[B + 1] from 0 to 1; a bin holds its upper edge but not its lower one, the first bin both.
        count: Array[B], detections per bin.
        mean_conf: Array[B], mean score, NaN in an empty bin.
        mean_target: Array[B], mean of what the score should predict, NaN in an empty bin.
    """

    edges: Floats
    count: Integers
    mean_conf: Floats
    mean_target: Floats

    @property
    def expected_error(self) -> float:
        """Mean absolute gap of mean score and mean target, weighted by the detections; NaN without any."""
        if not self.count.any():
            return math.nan
        gap = np.abs(self.mean_conf - self.mean_target)
        return float(np.average(gap[self.count > 0], weights=self.count[self.count > 0]))


def reliability_bins(conf: Floats, target: Floats | npt.NDArray[np.bool_], bins: int) -> ScoreBins:
    """Group detections by their score.

    Args:
        conf: Array[M] scores in [0, 1].
        target: Array[M] in [0, 1] or of bool, what a score should predict on average.
        bins: Number of bins, at least 1.

    Returns:
        The bins, all of them, the empty ones included.

    Raises:
        ValueError: Shapes differ or are not [M], a number lies outside [0, 1], or bins is below 1.
    """
    conf, targets = np.asarray(conf, dtype=float), np.asarray(target, dtype=float)
    if conf.shape != targets.shape or conf.ndim != 1:
        raise ValueError(f"scores {conf.shape} and targets {targets.shape} must be lists of one length")
    for name, values in (("scores", conf), ("targets", targets)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} must lie in [0, 1]")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    edges = np.linspace(0, 1, bins + 1)
    rows = np.maximum(np.searchsorted(edges, conf) - 1, 0)
    count = np.bincount(rows, minlength=bins)
    mean_conf, mean_target = (
        np.divide(np.bincount(rows, values, bins), count, out=np.full(bins, np.nan), where=count > 0)
        for values in (conf, targets)
    )
    return ScoreBins(edges, count, mean_conf, mean_target)


def d_ece(conf: Floats, correct: npt.NDArray[np.bool_], bins: int = 20) -> float:
    """Return the detection expected calibration error, of the score alone (Kueppers et al., CVPRW 2020).

    The gap of mean score and precision per bin, weighted by the detections of the bin. Missed objects do not enter, so
    the value is one of the score threshold as well; compare at equal thresholds only.

    Args:
        conf: Array[M] scores in [0, 1].
        correct: Array[M] of bool, whether the detection is a true positive.
        bins: Number of bins.

    Returns:
        The error in [0, 1], NaN without detections.

    Raises:
        ValueError: See ``reliability_bins``.
    """
    return reliability_bins(conf, correct, bins).expected_error


def la_ece(conf: Floats, iou: Floats, cls: Integers, bins: int = 25) -> float:
    """Return the localisation-aware calibration error LaECE_0 (Kuzucu et al., ECCV 2024, arXiv 2405.20459).

    A score is to predict the IoU with the matched object, 0 for a false positive. Per class the gap of mean score and
    mean IoU of each bin, weighted by the detections of the bin; then the mean over the classes that have detections.
    The authors' code leaves two kinds of class out of that mean which count here: those without an object (every
    detection is false, which is miscalibrated) and those with an error of exactly 0.

    Args:
        conf: Array[M] scores in [0, 1].
        iou: Array[M] in [0, 1], overlap with the object that the detection was matched with, 0 without one.
        cls: Array[M] class indices.
        bins: Number of bins.

    Returns:
        The error in [0, 1], NaN without detections.

    Raises:
        ValueError: Another number of classes than of scores, or see ``reliability_bins``.
    """
    conf, iou, cls = np.asarray(conf), np.asarray(iou), np.asarray(cls)
    if not conf.shape == iou.shape == cls.shape:
        raise ValueError(f"scores {conf.shape}, overlaps {iou.shape} and classes {cls.shape} must be of one length")
    errors = [reliability_bins(conf[cls == c], iou[cls == c], bins).expected_error for c in np.unique(cls)]
    return float(np.mean(errors)) if errors else math.nan
