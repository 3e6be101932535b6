"""Suppression of duplicate boxes, and the refinement of those that are kept, for one image."""

from __future__ import annotations

from typing import Any

import numpy as np

from yolo_uncert.ops.backend import Floats, Ints, get_backend, get_device_backend
from yolo_uncert.ops.candidates import Array, CheckedCandidates, Kept, restore, restore_index
from yolo_uncert.ops.options import Rules, Suppression

DEFAULT = Suppression()


def suppress(
    boxes: Array,
    scores: Array,
    classes: Array | None = None,
    variances: Array | None = None,
    options: Suppression = DEFAULT,
    *,
    ious: Array | None = None,
    backend: str = "auto",
) -> Kept[Array]:
    """Suppress the duplicates of one image and, if the options say so, let them vote for the boxes that stay.

    Horizontal boxes overlap by the IoU of torchvision (no pixel added to a side), oriented ones by exact IoU. The
    highest score is picked first, of equal scores the lower index. Suppression uses the boxes as given; voted boxes are
    output only. The result does not depend on the order of candidates with distinct scores, on other classes, on time,
    or on the backend (up to float64 rounding). ``method="hard"`` keeps exactly what ``torchvision.ops.nms`` keeps,
    class by class. All is computed in float64, except for the IoU of horizontal float32 boxes, which is in float32.

    Args:
        boxes: ``Tensor[N, 4]`` in ``(x1, y1, x2, y2)`` format, ``x1 <= x2`` and ``y1 <= y2``, or oriented
            ``Tensor[N, 5]`` in ``(x, y, w, h, theta)`` format, angle in radians; one unit (pixels). Arrays or tensors
            of any device; results have the same type and device.
        scores: ``Tensor[N]``, at least 0.
        classes: ``Tensor[N]`` of integers; None stands for one class.
        variances: ``Tensor[N, 4]`` of the sides l, t, r, b (of horizontal boxes: of x1, y1, x2, y2), in squared pixels.
            Of oriented boxes in their own frame; ``Tensor[N, 5]`` has the angle's, in squared radians, in the last
            column, without which the angle is taken for unknown: it does not vote.
        options: Method, thresholds and vote.
        ious: ``Tensor[N]`` of predicted IoUs, for ``method="iou-guided"`` only.
        backend: ``auto``, ``numba``, ``torch`` or ``triton`` (on a GPU).

    Returns:
        The kept boxes by falling score.

    Raises:
        TypeError: If the boxes are neither an array nor a tensor.
        ValueError: If shapes do not fit, or the method needs what is not there. Candidates that hold numbers that are
            not finite, or negative variances, are no error: they are rejected, with a warning that counts them.
        ImportError: If numba or triton is asked for and not installed.
        RuntimeError: If triton is asked for and there is no GPU.

    Reference:
        Bodla et al., Soft-NMS, ICCV 2017, arXiv 1704.04503; He et al., Bounding Box Regression with Uncertainty, CVPR
        2019, arXiv 1809.08545. `Suppression` cites the other choices.
    """
    check_guided(options, ious)
    if device := get_device_backend(backend):
        return device.suppress_images([(boxes, scores, classes, variances, ious)], options)[0]
    candidates = CheckedCandidates.of(boxes, scores, classes, variances, ious)
    kept = _solve(candidates, options, backend)
    return _as_given(kept, boxes, scores, variances)


def check_guided(options: Suppression, ious: object) -> None:
    """Raise ValueError unless predicted ious are there exactly when the method needs them."""
    if options.guided != (ious is not None):
        raise ValueError("predicted ious belong to method='iou-guided', and that method needs them")


def soft_nms(
    boxes: Array,
    scores: Array,
    classes: Array | None = None,
    *,
    method: str = "soft",
    backend: str = "auto",
    **options: Any,
) -> tuple[Array, Array]:
    """Soft-NMS without voting: which boxes stay, and their decayed scores.

    Args:
        boxes: ``Tensor[N, 4]`` in ``(x1, y1, x2, y2)`` format or oriented ``Tensor[N, 5]`` in ``(x, y, w, h, theta)``
            format, pixels and radians.
        scores: ``Tensor[N]``, at least 0.
        classes: ``Tensor[N]`` of integers; None stands for one class.
        method: ``soft`` (decay by ``exp(-IoU^2 / sigma)``) or ``soft-linear`` (by ``1 - IoU`` above ``iou_threshold``).
        backend: ``auto``, ``numba``, ``torch`` or ``triton`` (on a GPU).
        options: Further fields of `Suppression`: ``sigma``, ``iou_threshold``, ``score_threshold``, ``max_det``,
            ``max_nms``, ``agnostic``.

    Returns:
        Index ``Tensor[K]`` (int64) and decayed scores ``Tensor[K]``, by falling score; of equal ones the lower index
        comes first.

    Raises:
        TypeError: If the boxes are neither an array nor a tensor, or an option is unknown.
        ValueError: If shapes do not fit or an option is out of range.

    Reference:
        Bodla et al., Soft-NMS: Improving Object Detection With One Line of Code, ICCV 2017, arXiv 1704.04503.
    """
    kept = suppress(boxes, scores, classes, None, Suppression(method=method, **options), backend=backend)
    return kept.index, kept.scores


def _solve(candidates: CheckedCandidates, options: Suppression, backend: str) -> tuple[Ints, Floats, Floats, Floats]:
    solver, boxes, scores = get_backend(backend), candidates.boxes, candidates.scores
    rules = Rules.of(options, len(boxes), single=candidates.single, variances=candidates.has_variances)
    labels = candidates.taking_part(options.score_threshold, options.max_nms, agnostic=options.agnostic)
    votes = candidates.votes(options.weight, fused=rules.fused) if rules.vote else (candidates.variances,) * 2
    now = rules._replace(vote=rules.vote and options.vote_pool == "alive")
    index, kept_scores, kept_boxes, variances = solver.suppress(boxes, candidates.rank, scores, labels, votes, now)
    if not rules.vote:
        kept_boxes, variances = boxes[index], candidates.variances[index]
    elif not now.vote:
        kept_boxes, variances = solver.vote(boxes, labels, votes, index, rules)
        alone = kept_scores < rules.vote_share * scores[index]
        kept_boxes[alone], variances[alone] = boxes[index][alone], candidates.variances[index][alone]
    if options.guided:
        best = np.argsort(-kept_scores, kind="stable")[: options.max_det]
        index, kept_scores, kept_boxes, variances = index[best], kept_scores[best], kept_boxes[best], variances[best]
    return index, kept_scores, kept_boxes, variances


def _as_given(
    kept: tuple[Ints, Floats, Floats, Floats], boxes: Array, scores: Array, variances: Array | None
) -> Kept[Array]:
    index, kept_scores, kept_boxes, kept_variances = kept
    return Kept(
        restore_index(index, boxes),
        restore(kept_scores, scores),
        restore(kept_boxes, boxes),
        None if variances is None else restore(kept_variances[:, : variances.shape[1]], variances),
    )
