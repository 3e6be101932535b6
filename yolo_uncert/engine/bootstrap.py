"""How far results would move on other images: statistics of a validation on resampled images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from ultralytics.utils.metrics import compute_ap

from yolo_uncert.functional.records import Matches, Scored
from yolo_uncert.functional.reliability import LEVELS
from yolo_uncert.functional.residuals import SIGMA_MIN, rank_correlation
from yolo_uncert.functional.scoring import nll

Floats = npt.NDArray[np.floating]
Counts = npt.NDArray[np.integer]

IOU_LEVELS = {"AP50": 0, "AP75": 5, "AP90": 8}
"""Columns of ``Scored.correct`` that are reported beside their mean."""


def resample(images: int, samples: int, seed: int = 0) -> Counts:
    """Draw images with replacement (Efron 1979).

    Args:
        images: Number of images.
        samples: Number of draws, each of as many images.
        seed: Of the generator; equal seeds draw equal images, so that models are compared on the same ones.

    Returns:
        Array[samples + 1, images], how often each image was drawn; the first row is the data set itself.
    """
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / max(images, 1)), samples)
    return np.vstack((np.ones((1, images), drawn.dtype), drawn))


def score_statistics(scored: Scored, counts: Counts) -> dict[str, Floats]:
    """Return the average precision on every draw, in percent, Array[samples] by name: AP, AP50, AP75, AP90.

    Args:
        scored: All detections of the data set.
        counts: Array[samples, images] from `resample`.
    """
    order = np.argsort(-scored.conf, kind="stable")
    classes = np.unique(scored.target_cls)
    values = np.full((len(counts), len(classes), scored.correct.shape[1]), np.nan)
    for k, cls in enumerate(classes):
        rows = order[scored.cls[order] == cls]
        correct, image = scored.correct[rows], scored.image[rows]
        objects = counts[:, scored.target_image[scored.target_cls == cls]].sum(1)
        for draw in np.flatnonzero(objects):
            values[draw, k] = _average_precision(correct, counts[draw, image], objects[draw])
    if not len(classes):
        return {name: np.full(len(counts), np.nan) for name in ("AP", *IOU_LEVELS)}
    mean = 100 * np.nanmean(values, axis=1)
    return {"AP": mean.mean(1), **{name: mean[:, column] for name, column in IOU_LEVELS.items()}}


def sigma_statistics(matches: Matches, counts: Counts) -> dict[str, Floats]:
    """Return what sigma of the sides is worth on every draw, Array[samples] by name.

    ``NLL`` per coordinate, ``cal. error`` over the 19 levels, ``Spearman`` of sigma and error; NaN without a match or
    sigma.

    Args:
        matches: Matched boxes of the data set.
        counts: Array[samples, images] from `resample`.
    """
    residual, sigma = matches.residual[:, :4], matches.sigma[:, :4]
    if not np.isfinite(sigma).all():
        return {name: np.full(len(counts), np.nan) for name in ("NLL", "cal. error", "Spearman")}
    weights = counts[:, matches.image]
    total = weights.sum(1)
    ratio = np.abs(residual) / np.maximum(sigma, SIGMA_MIN)
    gap = np.zeros(len(counts))
    with np.errstate(invalid="ignore"):
        for level, bound in zip(LEVELS, ndtri((1 + LEVELS) / 2), strict=True):
            gap += np.abs(weights @ (ratio <= bound) / total[:, None] - level).mean(1) / len(LEVELS)
        likelihood = weights @ nll(residual, sigma).mean(1) / total
    rank = [
        rank_correlation(sigma[rows], np.abs(residual[rows])) if len(rows) else np.nan
        for rows in (np.repeat(np.arange(len(matches)), draw) for draw in weights)
    ]
    return {"NLL": likelihood, "cal. error": gap, "Spearman": np.array(rank)}


def _average_precision(correct: npt.NDArray[np.bool_], weight: Counts, objects: int) -> Floats:
    """Return AP at each IoU of one class on one draw, as Ultralytics computes it."""
    used = weight > 0
    if not used.any():
        return np.zeros(correct.shape[1])
    hits = (correct[used] * weight[used, None]).cumsum(0)
    recall, precision = hits / objects, hits / weight[used].cumsum()[:, None]
    return np.array([compute_ap(recall[:, j], precision[:, j])[0] for j in range(correct.shape[1])])
