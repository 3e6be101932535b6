"""Suppression and voting on a GPU: all images of a batch in one launch of the kernel in `triton_kernels`.

Candidates that lie on a GPU stay there. The host waits once, at the end, for the number of boxes kept. Results equal
those of the CPU kernels up to float64 rounding.

Shape shorthand: B images with M candidates in all, S = 4 or 5 coordinates per box.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from yolo_uncert.ops import triton_kernels as kernels
from yolo_uncert.ops.candidates import (
    LEAST_SCORE,
    LEAST_VARIANCE,
    Kept,
    check_count,
    check_shapes,
    is_single,
    restore,
    warn_rejected,
)
from yolo_uncert.ops.options import Rules, Suppression

_CHUNKS = (64, 256)
"""Fewest and most candidates per tile, one for each thread: with two, compiled for compute capability 8.0 and 9.0, the
votes of oriented boxes spill several times as many registers."""


class Image(NamedTuple):
    """Candidates of one image as `yolo_uncert.ops.suppression.suppress` takes them."""

    boxes: Any
    scores: Any
    classes: Any
    variances: Any
    ious: Any


class _Batch(NamedTuple):
    """Candidates of all images, one image after the other, on one device; unusable ones are zeros.

    Attributes:
        boxes: ``Tensor[M, S]``, float64.
        scores: ``Tensor[M]``, float64.
        labels: ``Tensor[M]``, int64.
        variances: ``Tensor[M, S]``, or ``Tensor[M, 0]`` where there are none.
        rank: ``Tensor[M]``, what picks go by, minus infinity for candidates that do not take part.
        usable: ``Tensor[M]``.
        rejected: ``Tensor[B]``, how many are not usable.
        starts: First candidate of each image and M.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    variances: Tensor
    rank: Tensor
    usable: Tensor
    rejected: Tensor
    starts: list[int]


class _Picks(NamedTuple):
    """Results of all images, ``Tensor[B, most, ...]`` each, of which the first ``counts[image]`` are filled."""

    positions: Tensor
    scores: Tensor
    boxes: Tensor
    variances: Tensor
    counts: Tensor


def suppress_images(rows: Sequence[tuple[Any, ...]], options: Suppression) -> list[Kept[Any]]:
    """Suppress the duplicates of each image; see `yolo_uncert.ops.suppression.suppress`.

    Args:
        rows: Boxes, scores, classes, variances and predicted IoUs of each image, as `suppress` takes them, arrays or
            tensors; they run on the GPU of the first, or on the current one.
        options: Method, thresholds and vote.

    Raises:
        TypeError: If boxes are neither arrays nor tensors.
        ValueError: If shapes do not fit, or the options need variances and there are none.
        RuntimeError: If there is no GPU and Triton does not interpret its kernels.
    """
    images = [Image(*row) for row in rows]
    for image in images:
        check_shapes(*image[:4])
        if image.ious is not None:
            check_count("ious", image.ious, len(image.boxes))
    kinds = {(image.boxes.shape[1], is_single(image.boxes), image.variances is None) for image in images}
    if len(kinds) > 1:
        return [suppress_images([image], options)[0] for image in images]
    if not images:
        return []
    batch = _batch(images, options)
    sizes = [len(image.boxes) for image in images]
    single, with_variances = is_single(images[0].boxes), images[0].variances is not None
    rules = Rules.of(options, max(sizes), single=single, variances=with_variances)
    picks = _launch(batch, rules, options)
    counts, rejected = torch.stack((picks.counts, batch.rejected)).tolist()
    for size, broken in zip(sizes, rejected, strict=True):
        warn_rejected(broken, size)
    return [_kept(image, batch, picks, options, b, counts[b]) for b, image in enumerate(images)]


def check_device() -> None:
    """Check that there is something to run the kernel on.

    Raises:
        RuntimeError: If there is no GPU and Triton does not interpret its kernels.
    """
    if not (kernels.INTERPRETED or torch.cuda.is_available()):
        raise RuntimeError(
            "backend='triton' needs a GPU, and torch finds none: use backend='auto'. For tests, the environment "
            "variable TRITON_INTERPRET=1 runs it on the CPU, very slowly"
        )


def _batch(images: Sequence[Image], options: Suppression) -> _Batch:
    """Collect and check candidates without waiting for the device."""
    first = images[0].boxes
    on_gpu = isinstance(first, Tensor) and first.is_cuda
    device = first.device if on_gpu else torch.device("cpu" if kernels.INTERPRETED else "cuda")
    sizes = [len(image.boxes) for image in images]
    starts = np.cumsum([0, *sizes]).tolist()
    number = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(device)
    boxes = _join([image.boxes for image in images], device)
    scores = _join([image.scores for image in images], device)
    labels = torch.zeros(len(boxes), dtype=torch.int64, device=device)
    if images[0].classes is not None and not options.agnostic:
        labels = _join([image.classes for image in images], device, torch.int64)
    variances = boxes.new_empty((len(boxes), 0))
    if images[0].variances is not None:
        variances = torch.cat([_sides(image.variances, boxes.shape[1], device) for image in images])
    rank = scores if images[0].ious is None else _join([image.ious for image in images], device)
    usable = _usable(boxes, scores, variances, number, len(sizes)) & rank.isfinite()
    rejected = torch.zeros(len(sizes), dtype=torch.int64, device=device).index_add_(0, number, (~usable).long())
    boxes, variances = (torch.where(usable[:, None], values, 0.0) for values in (boxes, variances))
    scores = torch.where(usable, scores, 0.0)
    mask = usable & (scores >= options.score_threshold)
    for start, end in pairwise(starts):
        if end - start > options.max_nms:
            order = torch.where(mask[start:end], scores[start:end], -1.0).argsort(descending=True, stable=True)
            mask[start:end][order[options.max_nms :]] = False
    return _Batch(boxes, scores, labels, variances, torch.where(mask, rank, -torch.inf), usable, rejected, starts)


def _join(parts: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.cat([_tensor(part) for part in parts]).to(device, dtype)


def _sides(variances: Any, sides: int, device: torch.device) -> Tensor:
    """Variances with a column for the angle, infinite where it is not given."""
    values = _tensor(variances).to(device, torch.float64)
    return pad(values, (0, sides - values.shape[1]), value=torch.inf)


def _tensor(values: Any) -> Tensor:
    # A copy of arrays: torch takes neither read-only ones nor negative strides.
    return values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _usable(boxes: Tensor, scores: Tensor, variances: Tensor, number: Tensor, images: int) -> Tensor:
    """``Tensor[M]``: whether all numbers of a candidate are finite and no variance is negative."""
    usable = boxes.isfinite().all(1) & scores.isfinite()
    sides, angle = variances[:, :4], variances[:, 4:]
    usable &= (sides.isfinite() & (sides >= 0)).all(1)
    # Angle variances that are infinite throughout an image stand for unknown ones and are no broken numbers.
    stated = torch.zeros(images, angle.shape[1], dtype=torch.int64, device=boxes.device)
    stated.index_add_(0, number, (angle != torch.inf).long())
    return usable & ((angle.isfinite() & (angle >= 0)) | (stated[number] == 0)).all(1)


def _geometry(boxes: Tensor, single: bool) -> Tensor:
    """The matrix that `triton_kernels.suppress` describes."""
    if boxes.shape[1] == 4:
        real = boxes.float() if single else boxes
        area = (real[:, 2] - real[:, 0]) * (real[:, 3] - real[:, 1])
        return torch.cat((boxes.T, area.double()[None]))
    x, y, w, h, angle = boxes.T
    # A radius below all distances takes a box without area out of every overlap.
    radius = torch.where((w > 0) & (h > 0), torch.hypot(w / 2, h / 2), -torch.inf)
    return torch.stack((x, y, w / 2, h / 2, angle.cos(), angle.sin(), radius, w * h, angle))


def _votes(batch: _Batch, weight: str, *, fused: bool) -> tuple[Tensor, Tensor]:
    """Factors and terms ``Tensor[S, M]`` as of `CheckedCandidates.votes`."""
    scores = torch.where(batch.usable, batch.scores.clamp(min=LEAST_SCORE), 0.0)
    sides = batch.variances.T
    if not len(sides):
        return scores.expand(batch.boxes.shape[1], -1).contiguous(), sides
    precisions, known = 1 / sides.clamp(min=LEAST_VARIANCE), sides < torch.inf
    factors = precisions if weight == "variance" else scores * (precisions if weight == "both" else known)
    terms = precisions if fused else torch.where(known, sides, 0.0)
    return factors.contiguous(), terms.contiguous()


def _launch(batch: _Batch, rules: Rules, options: Suppression) -> _Picks:
    images, (total, sides) = len(batch.starts) - 1, batch.boxes.shape
    factors, terms = _votes(batch, options.weight, fused=rules.fused) if rules.vote else (batch.scores, batch.scores)
    new, voters = batch.boxes.new_empty, rules.limit if rules.vote else 0
    index, counts = (batch.labels.new_empty(shape) for shape in ((images, rules.limit), (images,)))
    shapes = (images, voters, sides), (images, voters, batch.variances.shape[1])
    picks = _Picks(index, new(images, rules.limit), new(shapes[0]), new(shapes[1]), counts)
    numbers = (rules.iou, rules.sigma, rules.floor, rules.vote_sigma, rules.vote_iou, rules.vote_share)
    longest = max(end - start for start, end in pairwise(batch.starts))
    chunk = min(max(1 << max(longest - 1, 0).bit_length(), _CHUNKS[0]), _CHUNKS[1])
    with torch.cuda.device_of(batch.boxes):
        kernels.suppress[(images,)](
            _geometry(batch.boxes, rules.single),
            factors,
            terms,
            batch.labels,
            batch.scores,
            batch.rank,
            batch.rank.clone(),
            batch.labels.new_tensor(batch.starts),
            new(0).new_tensor(numbers),
            *picks,
            total,
            rules.limit,
            oriented=sides == 5,
            single=rules.single,
            method=rules.method,
            vote=rules.vote,
            everyone=options.vote_pool == "all",
            merged=batch.variances.shape[1] > 0,
            fused=rules.fused,
            chunk=chunk,
            num_warps=chunk // 32,
            enable_fp_fusion=False,
        )
    return picks


def _kept(image: Image, batch: _Batch, picks: _Picks, options: Suppression, number: int, count: int) -> Kept[Any]:
    """Results of one image, as the caller gave its candidates."""
    index, scores, boxes, variances = (values[number, :count] for values in picks[:4])
    if options.vote == "off":
        boxes, variances = batch.boxes[index], batch.variances[index]
    if options.guided:
        best = scores.argsort(descending=True, stable=True)[: options.max_det]
        index, scores, boxes, variances = index[best], scores[best], boxes[best], variances[best]
    index = index - batch.starts[number]
    return Kept(
        index.to(image.boxes.device) if isinstance(image.boxes, Tensor) else index.cpu().numpy(),
        _restore(scores, image.scores),
        _restore(boxes, image.boxes),
        None if image.variances is None else _restore(variances[:, : image.variances.shape[1]], image.variances),
    )


def _restore(values: Tensor, like: Any) -> Any:
    """Give a result the type, device and floating dtype of an input; results for integers are float64."""
    if isinstance(like, Tensor):
        return values.to(like.device, like.dtype if like.is_floating_point() else torch.float64)
    return restore(values.cpu().numpy(), like)
