"""Variance voting for boxes that any suppression has kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yolo_uncert.ops.backend import get_backend
from yolo_uncert.ops.candidates import Array, CheckedCandidates, integers, restore
from yolo_uncert.ops.options import Rules, Suppression


def var_vote(
    boxes: Array,
    scores: Array,
    kept: Array,
    classes: Array | None = None,
    variances: Array | None = None,
    *,
    backend: str = "auto",
    **options: Any,
) -> tuple[Array, Array | None]:
    """Let all candidates of a class vote for the boxes of it that some suppression has kept.

    A kept box ``b`` collects the votes of the candidates ``i`` of its class, itself included, with ``IoU(b_i, b) > 0``:

        x = sum p_i f_i x_i / sum p_i f_i,    p_i = exp(-(1 - IoU(b_i, b))^2 / vote_sigma),

    for each of its edges on their own, with ``f_i = 1 / var_i``, ``score_i`` or their product. `Suppression` lists the
    options and the merge of the variances; `suppress` votes among those candidates only that are alive at a pick.

    Oriented boxes vote with their edges and their angle. A candidate is first written in the representation whose angle
    is nearest to that of the kept box, which swaps width and height, and moves every side's variance along, with each
    quarter turn. Turned about its own centre to the angle of the kept box, its edges are parallel to those of it: they
    lie off them by ``u - (w_i - w) / 2`` (left), ``v - (h_i - h) / 2`` (top), ``u + (w_i - w) / 2`` (right) and
    ``v + (h_i - h) / 2`` (bottom), where ``(u, v)`` is the distance of the centres along the axes of the kept box. The
    angles differ by at most pi / 4. The means of these four offsets and of the angle's difference move the kept box:
    its edges in its own frame, then its angle about the new centre. With all angles zero this is the horizontal vote.

    Args:
        boxes: ``Tensor[N, 4]`` in ``(x1, y1, x2, y2)`` format or oriented ``Tensor[N, 5]`` in ``(x, y, w, h, theta)``
            format, pixels and radians.
        scores: ``Tensor[N]``, at least 0.
        kept: ``Tensor[K]``, indices of the kept boxes.
        classes: ``Tensor[N]`` of integers; None stands for one class.
        variances: ``Tensor[N, 4]`` of the sides l, t, r, b in squared pixels, of oriented boxes in their own frame;
            ``Tensor[N, 5]`` has the angle's in squared radians besides, else the angle does not vote. Without variances
            the scores are the weights. Variances below 1e-12 weigh as much as 1e-12.
        backend: ``auto``, ``numba`` or ``torch``; with ``triton`` this runs on the CPU as with ``auto``.
        options: Fields of `Suppression` that start with ``vote_``, ``merge``, ``agnostic``, and ``iou_threshold`` for
            ``vote="bayes"``. Not ``vote_share``: every kept box is voted.

    Returns:
        Voted boxes ``Tensor[K, 4]`` or ``Tensor[K, 5]`` in the order of ``kept``, and their merged variances, shaped as
        those of the candidates and in the frame of the voted box, or None. `functional.boxes.rbox_covariance` with an
        offset of zero turns those of an oriented box into the covariance of ``(x, y, w, h, theta)``.

    Raises:
        TypeError: If the boxes are neither an array nor a tensor, or an option is unknown.
        ValueError: If shapes do not fit, an index is out of range, or an option is no allowed one.

    Reference:
        He et al., Bounding Box Regression with Uncertainty for Accurate Object Detection, CVPR 2019, arXiv 1809.08545,
        algorithm 1, for horizontal boxes; the oriented form and the merged variance are additions.
    """
    settings = _settings(options)
    candidates = CheckedCandidates.of(boxes, scores, classes, variances)
    count = len(candidates.boxes)
    index = integers(kept).reshape(-1)
    if len(index) and not (index.min() >= 0 and index.max() < count):
        raise ValueError(f"kept must hold indices from 0 to {count - 1}; got {index.min()} to {index.max()}")
    rules = Rules.of(settings, count, single=candidates.single, variances=candidates.has_variances)
    labels = candidates.taking_part(0.0, count, agnostic=settings.agnostic)
    if len(index) and labels[index].min() < 0:
        raise ValueError("kept holds candidates whose box, score or variance is unusable")
    votes = candidates.votes(settings.weight, fused=rules.fused)
    voted, merged = get_backend(backend).vote(candidates.boxes, labels, votes, index, rules)
    return restore(voted, boxes), None if variances is None else restore(merged[:, : variances.shape[1]], variances)


def _settings(options: Mapping[str, Any]) -> Suppression:
    if "vote_share" in options:
        raise ValueError("var_vote votes for every kept box: it knows no decayed scores; vote_share is for suppress()")
    settings = Suppression(**{"vote": "var", "vote_pool": "all", **options})
    if settings.vote == "off" or settings.vote_pool == "alive":
        raise ValueError("var_vote votes among all candidates; suppress() votes among those alive, or not at all")
    return settings
