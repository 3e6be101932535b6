"""Triton kernel of suppression and voting: one program per image loops over its picks, without the host.

A pick is one pass over the candidates of its image, in chunks of one tile: overlap, votes, decay and the next best
candidate. The scores live in a buffer that only the own program touches, so that the number of candidates has no limit.

All is in float64, as in the CPU kernels, because a decay or an overlap that rounds to the other side of a threshold
keeps another box; only the overlap of float32 boxes is in float32, in the order of operations of torchvision. Launch it
with ``enable_fp_fusion=False``: a fused multiply-add rounds differently. Triton passes Python floats in float32, hence
the thresholds come in a float64 tensor.

Shape shorthand: M candidates of all images, C of them in a chunk, S = 4 or 8 sides of a box (l, t, r, b, angle, filled
up to a power of two). Matrices have a row of M numbers per quantity.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from yolo_uncert.ops.options import HARD, SOFT
from yolo_uncert.ops.triton_overlap import overlap

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether the environment variable TRITON_INTERPRET was set, so that kernels run on the CPU, slowly."""

_HARD, _SOFT = tl.constexpr(HARD), tl.constexpr(SOFT)
_OUT = tl.constexpr(-math.inf)
"""Score of what does not take part, is picked or is dropped."""
_LAST = tl.constexpr(2**63 - 1)
_QUARTER = tl.constexpr(math.pi / 2)


@triton.jit(do_not_specialize=["stride", "limit"])
def suppress(
    geometry: tl.tensor,
    factors: tl.tensor,
    terms: tl.tensor,
    labels: tl.tensor,
    scores: tl.tensor,
    rank: tl.tensor,
    current: tl.tensor,
    starts: tl.tensor,
    numbers: tl.tensor,
    index: tl.tensor,
    kept_scores: tl.tensor,
    kept_boxes: tl.tensor,
    kept_variances: tl.tensor,
    counts: tl.tensor,
    stride: tl.tensor,
    limit: tl.tensor,
    oriented: tl.constexpr,
    single: tl.constexpr,
    method: tl.constexpr,
    vote: tl.constexpr,
    everyone: tl.constexpr,
    merged: tl.constexpr,
    fused: tl.constexpr,
    chunk: tl.constexpr,
) -> None:
    """Pick the candidates of one image by falling rank until none is left; `kernels.suppress` does the same.

    Args:
        geometry: ``[5, M]``: x1, y1, x2, y2, area; of oriented boxes ``[9, M]``: x, y, half w, half h, cos, sin,
            half diagonal (minus infinity without area), area, angle.
        factors: ``[4 or 5, M]``, factors of the votes.
        terms: ``[4 or 5, M]``, terms of the merged variance.
        labels: ``[M]``, int64.
        scores: ``[M]``.
        rank: ``[M]``, what picks go by, minus infinity for candidates that do not take part.
        current: ``[M]``, a copy of ``rank`` that is overwritten.
        starts: ``[images + 1]``, int64, first candidate of each image.
        numbers: ``[6]``: IoU threshold, sigma, score threshold, sigma, IoU threshold and least share of the vote.
        index: Receives the picks of each image, ``[images, limit]``, int64, positions among all M.
        kept_scores: Receives their scores, ``[images, limit]``.
        kept_boxes: Receives the voted boxes, ``[images, limit, 4 or 5]``.
        kept_variances: Receives the merged variances, ``[images, limit, 4 or 5]``.
        counts: Receives the number of picks, ``[images]``, int64.
        stride: M.
        limit: Most picks per image.
        oriented: The boxes are xywhr, else xyxy.
        single: The overlap of horizontal boxes is computed in float32.
        method: ``HARD``, ``SOFT`` or ``LINEAR``.
        vote: Picks are voted.
        everyone: All of the class that took part vote, else those alive.
        merged: There are variances to merge.
        fused: Merge by the sum of precisions.
        chunk: Candidates per tile, a power of two.
    """
    sides: tl.constexpr = 8 if oriented else 4
    columns: tl.constexpr = 5 if oriented else 4
    image = tl.program_id(0).to(tl.int64)
    first, last = tl.load(starts + image), tl.load(starts + image + 1)
    best, pick = _best(current, first, last, chunk)
    row, end = image * limit, image * limit + limit
    while (row < end) & (best > _OUT):
        label, score = tl.load(labels + pick), tl.load(scores + pick)
        voted = tl.zeros((chunk,), tl.float64) + best >= tl.load(numbers + 5) * tl.load(rank + pick)
        lead, place = tl.full((chunk,), _OUT, tl.float64), tl.zeros((chunk,), tl.int64)
        strongest = tl.zeros((chunk,), tl.float64) + score
        total, moves = tl.zeros((chunk, sides), tl.float64), tl.zeros((chunk, sides), tl.float64)
        squares, spread = tl.zeros((chunk, sides), tl.float64), tl.zeros((chunk, sides), tl.float64)
        for start in range(first, last, chunk):
            cols = start + tl.arange(0, chunk)
            inside = cols < last
            mates = inside & (tl.load(labels + cols, mask=inside, other=0) == label)
            value = tl.load(current + cols, mask=inside, other=_OUT)
            iou = overlap(geometry, stride, cols, inside, pick, oriented, single)
            if vote:
                pool = mates & (value > _OUT)
                if everyone:
                    pool = mates & (tl.load(rank + cols, mask=inside, other=_OUT) > _OUT)
                pool = pool & (voted | (cols == pick))
                near = _closeness(pool, iou, cols == pick, numbers)[:, None]
                source, offset = _offsets(geometry, stride, cols, pool, pick, oriented, sides)
                voters = pool[:, None] & (tl.arange(0, sides)[None, :] < columns)
                weight = near * tl.load(factors + source, mask=voters, other=0.0)
                total += weight
                moves += weight * offset
                squares += weight * offset * offset
                if merged:
                    spread += (near if fused else weight) * tl.load(terms + source, mask=voters, other=0.0)
            value, dropped = _decay(value, iou, mates, cols == pick, numbers, method)
            if method == _HARD:
                strongest = tl.maximum(strongest, tl.load(scores + cols, mask=dropped, other=0.0))
            tl.store(current + cols, value, mask=inside)
            place = tl.where(value > lead, cols, place)
            lead = tl.maximum(lead, value)
        tl.store(index + row, pick)
        tl.store(kept_scores + row, tl.max(strongest, 0) if method == _HARD else best)
        if vote:
            side = row * columns + tl.arange(0, sides)
            stored = tl.arange(0, sides) < columns
            count, mean = _mean(total, moves)
            box = _moved(geometry, stride, pick, mean, oriented, sides)
            tl.store(kept_boxes + side, box, mask=stored)
            if merged:
                variance = _merged(count, mean, tl.sum(squares, 0), tl.sum(spread, 0), fused)
                tl.store(kept_variances + side, variance, mask=stored)
        # A thread may read scores in the next pass that another one has just written.
        tl.debug_barrier()
        best, pick = _first(lead, place)
        row += 1
    tl.store(counts + image, row - image * limit)


@triton.jit
def _best(current: tl.tensor, first: tl.tensor, last: tl.tensor, chunk: tl.constexpr) -> tl.tensor:
    """Highest score of an image, minus infinity where there is none, and its position."""
    lead, place = tl.full((chunk,), _OUT, tl.float64), tl.zeros((chunk,), tl.int64)
    for start in range(first, last, chunk):
        cols = start + tl.arange(0, chunk)
        value = tl.load(current + cols, mask=cols < last, other=_OUT)
        place = tl.where(value > lead, cols, place)
        lead = tl.maximum(lead, value)
    return _first(lead, place)


@triton.jit
def _first(lead: tl.tensor, place: tl.tensor) -> tl.tensor:
    """Highest of the leading scores, of equal ones that with the lower position; and the position."""
    best = tl.max(lead, 0)
    return best, tl.min(tl.where(lead == best, place, _LAST), 0)


@triton.jit
def _decay(
    value: tl.tensor, iou: tl.tensor, mates: tl.tensor, itself: tl.tensor, numbers: tl.tensor, method: tl.constexpr
) -> tl.tensor:
    """Scores ``[C]`` after a pick, and which candidates it suppresses."""
    hit = mates & (value > _OUT) & (iou > 0) & (itself == 0)
    if method != _SOFT:
        hit = hit & (iou > tl.load(numbers))
    decayed = tl.where(hit, value, 0.0)
    if method == _HARD:
        dropped = hit
    else:
        decayed = decayed * (tl.exp(-iou * iou / tl.load(numbers + 1)) if method == _SOFT else 1.0 - iou)
        dropped = hit & (decayed < tl.load(numbers + 2))
    value = tl.where(hit, decayed, value)
    return tl.where(dropped | itself, _OUT, value), dropped


@triton.jit
def _closeness(pool: tl.tensor, iou: tl.tensor, itself: tl.tensor, numbers: tl.tensor) -> tl.tensor:
    """How much each candidate ``[C]`` votes by its overlap; the pick counts as IoU 1, also when it has no area."""
    near = pool & (itself | (iou > tl.load(numbers + 4)))
    apart = tl.where(itself, 0.0, 1.0 - iou)
    return tl.where(near, tl.exp(-apart * apart / tl.load(numbers + 3)), 0.0)


@triton.jit
def _offsets(
    geometry: tl.tensor,
    stride: tl.tensor,
    cols: tl.tensor,
    pool: tl.tensor,
    pick: tl.tensor,
    oriented: tl.constexpr,
    sides: tl.constexpr,
) -> tl.tensor:
    """Where the factors of the sides ``[C, S]`` stand once aligned with the pick, and how far the sides lie off it.

    `yolo_uncert.ops.voting.var_vote` defines the offsets of oriented boxes.
    """
    side, column = tl.arange(0, sides)[None, :], cols[:, None]
    if oriented:
        shift_x, shift_y, wide, high = _apart(geometry, stride, cols, pool, pick)
        cos, sin = tl.load(geometry + 4 * stride + pick), tl.load(geometry + 5 * stride + pick)
        angle = tl.load(geometry + 8 * stride + cols, mask=pool, other=0.0) - tl.load(geometry + 8 * stride + pick)
        turns = tl.floor(angle / _QUARTER + 0.5)
        angle -= turns * _QUARTER
        turn = turns.to(tl.int64)
        swapped = (turn & 1) == 1
        grow_w = tl.where(swapped, high, wide) - tl.load(geometry + 2 * stride + pick)
        grow_h = tl.where(swapped, wide, high) - tl.load(geometry + 3 * stride + pick)
        along_w, along_h = shift_x * cos + shift_y * sin, shift_y * cos - shift_x * sin
        upright = (side & 1) == 0
        grow = tl.where(upright, grow_w[:, None], grow_h[:, None])
        along = tl.where(upright, along_w[:, None], along_h[:, None])
        offset = tl.where(side < 2, along - grow, along + grow)
        offset = tl.where(side < 4, offset, angle[:, None])
        source = tl.where(side < 4, (side - turn[:, None]) & 3, side) * stride + column
    else:
        source = side * stride + column
        offset = tl.load(geometry + source, mask=pool[:, None], other=0.0)
        offset -= tl.load(geometry + side * stride + pick)
    return source, offset


@triton.jit
def _apart(geometry: tl.tensor, stride: tl.tensor, cols: tl.tensor, inside: tl.tensor, pick: tl.tensor) -> tl.tensor:
    """Distance of the centres of oriented boxes from that of the pick, and their half sides, ``[C]`` each."""
    shift_x = tl.load(geometry + cols, mask=inside, other=0.0) - tl.load(geometry + pick)
    shift_y = tl.load(geometry + stride + cols, mask=inside, other=0.0) - tl.load(geometry + stride + pick)
    wide = tl.load(geometry + 2 * stride + cols, mask=inside, other=0.0)
    high = tl.load(geometry + 3 * stride + cols, mask=inside, other=0.0)
    return shift_x, shift_y, wide, high


@triton.jit
def _mean(weights: tl.tensor, moves: tl.tensor) -> tl.tensor:
    """Sum of the weights ``[S]`` and mean offset, zero for a coordinate without votes."""
    total = tl.sum(weights, 0)
    return total, tl.where(total > 0, tl.sum(moves, 0) / tl.where(total > 0, total, 1.0), 0.0)


@triton.jit
def _moved(
    geometry: tl.tensor,
    stride: tl.tensor,
    pick: tl.tensor,
    mean: tl.tensor,
    oriented: tl.constexpr,
    sides: tl.constexpr,
) -> tl.tensor:
    """The pick ``[S]`` with its sides (and angle) moved by the mean of the votes."""
    side = tl.arange(0, sides)
    if oriented:
        cos, sin = tl.load(geometry + 4 * stride + pick), tl.load(geometry + 5 * stride + pick)
        left, right = tl.sum(tl.where(side == 0, mean, 0.0), 0), tl.sum(tl.where(side == 2, mean, 0.0), 0)
        top, bottom = tl.sum(tl.where(side == 1, mean, 0.0), 0), tl.sum(tl.where(side == 3, mean, 0.0), 0)
        along_w, along_h = (left + right) / 2, (top + bottom) / 2
        x = tl.load(geometry + pick) + (along_w * cos - along_h * sin)
        y = tl.load(geometry + stride + pick) + (along_w * sin + along_h * cos)
        w = tl.load(geometry + 2 * stride + pick) * 2 + (right - left)
        h = tl.load(geometry + 3 * stride + pick) * 2 + (bottom - top)
        angle = tl.load(geometry + 8 * stride + pick) + mean
        box = tl.where(side == 0, x, tl.where(side == 1, y, tl.where(side == 2, w, tl.where(side == 3, h, angle))))
    else:
        box = tl.load(geometry + side * stride + pick) + mean
    return box


@triton.jit
def _merged(total: tl.tensor, mean: tl.tensor, squares: tl.tensor, spread: tl.tensor, fused: tl.constexpr) -> tl.tensor:
    """Variance of each coordinate ``[S]``, infinite where nothing is known."""
    known = total > 0
    if fused:
        variance = 1.0 / tl.where(known, spread, 1.0)
    else:
        total = tl.where(known, total, 1.0)
        variance = spread / total + tl.maximum(squares / total - mean * mean, 0.0)
    return tl.where(known, variance, -_OUT)
