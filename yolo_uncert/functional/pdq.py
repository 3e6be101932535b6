"""Probability-based detection quality (PDQ) of horizontal boxes (Hall et al., WACV 2020, arXiv 1811.10800).

A detection is a map of the probability that each pixel lies in the box, its four sides being independent Gaussians: the
outer product of a profile along y and one along x. Against an object that covers the pixel set S, the filled box,

    foreground loss  L_fg = -1/|S| sum over S of ln P(pixel)
    background loss  L_bg = -1/|S| sum over the pixels outside S of ln(1 - P(pixel))
    spatial quality  exp(-(L_fg + L_bg))
    pairwise quality sqrt(spatial quality x label quality)

Detections and objects of an image are paired for the largest sum of pairwise qualities, and
``PDQ = sum of qualities / (TP + FP + FN)``. As in the reference code, a probability below 0.0027 counts as 0, no
logarithm is taken of less than 1e-14, and a spatial quality below 1e-8 counts as 0.

Deviations from the paper: there are no masks, the filled box takes their place; a detection states one score instead of
a distribution over the classes, so its label quality is that score where the classes agree and 0 elsewhere; a pixel is
represented by its centre, where the reference counts every pixel that the box touches; sides beyond the border of the
image are not renormalised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import scipy
from scipy.special import ndtr

from yolo_uncert.functional.records import Floats, Integers
from yolo_uncert.functional.scoring import TINY

SUPPORT = 0.0027
"""Probability below which a pixel is none of the detection's: three standard deviations, the reference's threshold."""

CLIP = 1e-14
"""Smallest number whose logarithm is taken."""

QUALITY_MIN = 1e-8
"""Spatial quality below which a pair is no match."""


@dataclass(frozen=True)
class PdqSums:
    """Sums over one or more images; add those of all images, ``sum(..., PdqSums())``, before reading a quality.

    Attributes:
        quality: Sum of the pairwise qualities.
        spatial: Sum of the spatial qualities of the true positives.
        label: Sum of the label qualities of the true positives.
        tp: Detections paired with an object at a quality above 0.
        fp: Other detections.
        fn: Objects without such a detection.
    """

    quality: float = 0.0
    spatial: float = 0.0
    label: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: PdqSums) -> PdqSums:
        return PdqSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def pdq(self) -> float:
        """PDQ in [0, 1], NaN without detections and objects."""
        pairs = self.tp + self.fp + self.fn
        return self.quality / pairs if pairs else math.nan

    @property
    def spatial_quality(self) -> float:
        """Mean spatial quality of the true positives, NaN without any."""
        return self.spatial / self.tp if self.tp else math.nan

    @property
    def label_quality(self) -> float:
        """Mean label quality of the true positives, NaN without any."""
        return self.label / self.tp if self.tp else math.nan


def image_pdq(
    boxes: Floats,
    sigma: Floats,
    conf: Floats,
    cls: Integers,
    truth_boxes: Floats,
    truth_cls: Integers,
    *,
    shape: tuple[int, int],
) -> PdqSums:
    """Return the sums of one image from which PDQ is computed.

    Args:
        boxes: Array[D, 4] of x1, y1, x2, y2 in pixels.
        sigma: Array[D, 4] standard deviations of these sides in pixels, 0 for a certain one.
        conf: Array[D] scores in [0, 1].
        cls: Array[D] class indices.
        truth_boxes: Array[G, 4] of x1, y1, x2, y2 in pixels; clipped to the image, where they cover at least one pixel.
        truth_cls: Array[G] class indices.
        shape: Height and width of the image.

    Raises:
        ValueError: Shapes do not fit, a number is not finite, a sigma is negative or a score outside [0, 1].
    """
    boxes, sigma, conf, truth_boxes = (np.asarray(x, dtype=float) for x in (boxes, sigma, conf, truth_boxes))
    cls, truth_cls = np.asarray(cls), np.asarray(truth_cls)
    _check(boxes, sigma, conf, cls, truth_boxes, truth_cls)
    spatial = np.zeros((len(boxes), len(truth_boxes)))
    label = np.where(cls[:, None] == truth_cls, conf[:, None], 0.0)
    windows = [_window(box, shape) for box in truth_boxes]
    for detection in np.flatnonzero(label.any(axis=1)):
        objects = np.flatnonzero(label[detection])
        spatial[detection, objects] = _spatial_quality(
            boxes[detection], sigma[detection], [windows[i] for i in objects], shape
        )
    quality = np.sqrt(spatial * label)
    pairs = scipy.optimize.linear_sum_assignment(quality, maximize=True)
    found = quality[pairs] > 0
    tp = int(found.sum())
    return PdqSums(
        quality=float(quality[pairs].sum()),
        spatial=float(spatial[pairs][found].sum()),
        label=float(label[pairs][found].sum()),
        tp=tp,
        fp=len(boxes) - tp,
        fn=len(truth_boxes) - tp,
    )


def _check(boxes: Floats, sigma: Floats, conf: Floats, cls: Integers, truth_boxes: Floats, truth_cls: Integers) -> None:
    for name, array, expected in (
        ("boxes", boxes, (len(boxes), 4)),
        ("standard deviations", sigma, (len(boxes), 4)),
        ("scores", conf, (len(boxes),)),
        ("classes", cls, (len(boxes),)),
        ("boxes of objects", truth_boxes, (len(truth_boxes), 4)),
        ("classes of objects", truth_cls, (len(truth_boxes),)),
    ):
        if array.shape != expected:
            raise ValueError(f"{name} must have shape {expected}, got {array.shape}")
    if not (np.isfinite(boxes).all() and np.isfinite(truth_boxes).all()):
        raise ValueError("boxes must be finite")
    if not (np.isfinite(sigma).all() and (sigma >= 0).all()):
        raise ValueError("standard deviations must be finite and not negative")
    if not ((conf >= 0) & (conf <= 1)).all():
        raise ValueError("scores must lie in [0, 1]")


def _window(box: Floats, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns whose centres lie in the box, the nearest one if none does."""

    def span(low: float, high: float, size: int) -> slice:
        start = min(max(math.ceil(low - 0.5), 0), size - 1)
        return slice(start, max(start + 1, min(math.ceil(high - 0.5), size)))

    x1, y1, x2, y2 = map(float, box)
    return span(y1, y2, shape[0]), span(x1, x2, shape[1])


def _spatial_quality(
    box: Floats, sigma: Floats, windows: list[tuple[slice, slice]], shape: tuple[int, int]
) -> list[float]:
    (x1, y1, x2, y2), (sx1, sy1, sx2, sy2) = box, sigma
    along_y, along_x = _profile(y1, sy1, y2, sy2, shape[0]), _profile(x1, sx1, x2, sx2, shape[1])
    _, outside = _log_sums(along_y, along_x)
    qualities = []
    for rows, columns in windows:
        if not (along_y[rows].any() and along_x[columns].any()):
            qualities.append(0.0)  # nothing in common, the usual case
            continue
        inside, covered = _log_sums(along_y[rows], along_x[columns])
        pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
        quality = math.exp(min(0.0, (inside + outside - covered) / pixels))
        qualities.append(quality if quality >= QUALITY_MIN else 0.0)
    return qualities


def _profile(low: float, sigma_low: float, high: float, sigma_high: float, size: int) -> Floats:
    """Return Array[size], the probability that each pixel centre lies between two uncertain sides."""
    centre = np.arange(size) + 0.5
    profile: Floats = _passed(low, sigma_low, centre) * (1 - _passed(high, sigma_high, centre))
    profile[profile < SUPPORT] = 0.0  # no product with it could be more; fewer distinct values to sum over
    return profile


def _passed(side: float, sigma: float, centre: Floats) -> Floats:
    if sigma == 0:
        return (centre >= side).astype(float)
    passed: Floats = ndtr((centre - side) / max(sigma, TINY))
    return passed


def _log_sums(along_y: Floats, along_x: Floats) -> tuple[float, float]:
    """Return the sums of ln P and ln(1 - P) over the outer product P of two profiles.

    Far from its sides a profile is constant, so that equal values are taken together: the work depends on sigma and not
    on the size of the box.
    """
    (y, count_y), (x, count_x) = (np.unique(profile, return_counts=True) for profile in (along_y, along_x))
    p = np.outer(y, x)
    p[p < SUPPORT] = 0.0
    within, without = (float(count_y @ np.log(np.maximum(q, CLIP)) @ count_x) for q in (p, 1 - p))
    return within, without
