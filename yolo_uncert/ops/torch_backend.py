"""Suppression and voting in plain torch, for places without numba: the same results from a loop over the picks.

Shape shorthand: N candidates, M of them in the class of a pick, S = 4 or 5 coordinates per box, K picks. The two public
functions take and return the arrays that `kernels` documents.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolo_uncert.ops.backend import Floats, Ints, Votes
from yolo_uncert.ops.options import HARD, SOFT, Rules
from yolo_uncert.ops.rotated_iou import pairwise_rotated_iou

_QUARTER = math.pi / 2


class _Pool(NamedTuple):
    """Candidates as tensors: boxes, factors of their votes, terms of the merged variance."""

    boxes: Tensor
    factors: Tensor
    terms: Tensor

    @classmethod
    def of(cls, boxes: Floats, votes: Votes) -> _Pool:
        return cls(torch.tensor(boxes), *map(torch.tensor, votes))


def suppress(
    boxes: Floats, rank: Floats, scores: Floats, labels: Ints, votes: Votes, rules: Rules
) -> tuple[Ints, Floats, Floats, Floats]:
    """Pick candidates by falling rank until none is left; see `kernels.suppress`."""
    pool, groups = _Pool.of(boxes, votes), _groups(labels)
    current = torch.tensor(np.where(labels >= 0, rank, -np.inf))
    index: list[int] = []
    kept_scores: list[float] = []
    voted: list[tuple[Tensor, Tensor]] = []
    while len(index) < rules.limit and groups:
        i = int(current.argmax())  # of equal ones, the first
        score = float(current[i])
        if score == -math.inf:
            break
        members = groups[int(labels[i])]
        iou = _overlap(pool.boxes, i, members, rules.single)
        if rules.vote:
            alone = score < rules.vote_share * rank[i]
            voters = members == i if alone else slice(None)
            voted.append(_vote(pool, i, members[voters], iou[voters], rules))
        decayed, alive = _decay(current[members], iou, rules)
        alive &= members != i
        if rules.method == HARD:
            score = float(scores[members[~alive].numpy()].max())
        current[members] = torch.where(alive, decayed, -math.inf)
        groups[int(labels[i])] = members[alive]
        index.append(i)
        kept_scores.append(score)
    return np.array(index, np.int64), np.array(kept_scores, np.float64), *_stack(voted, pool)


def vote(boxes: Floats, labels: Ints, votes: Votes, kept: Ints, rules: Rules) -> tuple[Floats, Floats]:
    """Let all candidates of the class vote for given boxes; see `kernels.vote`."""
    pool, groups = _Pool.of(boxes, votes), _groups(labels)
    voted = []
    for i in kept.tolist():
        members = groups[int(labels[i])]
        voted.append(_vote(pool, i, members, _overlap(pool.boxes, i, members, rules.single), rules))
    return _stack(voted, pool)


def match(iou: Floats, threshold: float) -> Ints:
    """Object of each detection, or -1, from overlaps ``[T, N]``; see `kernels.match`."""
    matched, left = np.full(iou.shape[1], -1), np.where((iou >= threshold) & (iou > 0), iou, 0.0)
    for j in np.flatnonzero(left.any(0)):
        best = left[:, j].argmax()
        if left[best, j] > 0:
            matched[j] = best
            left[best] = 0
    return matched


def above(scores: NDArray[np.float32], threshold: float, every: bool) -> tuple[Ints, Ints]:
    """Class and anchor of the scores ``[C, A]`` above a threshold; see `kernels.above`."""
    values = torch.from_numpy(scores).nan_to_num(-torch.inf, torch.inf, -torch.inf)  # NaN is never above
    if every:
        anchor, label = (values > threshold).T.nonzero(as_tuple=True)
        return label.numpy(), anchor.numpy()
    best, label = values.max(0)
    hit = best > threshold
    return label[hit].numpy(), hit.nonzero()[:, 0].numpy()


def _groups(labels: Ints) -> dict[int, Tensor]:
    """Indices of the candidates of each label that takes part."""
    return {int(label): torch.from_numpy(np.flatnonzero(labels == label)) for label in np.unique(labels[labels >= 0])}


def _stack(voted: list[tuple[Tensor, Tensor]], pool: _Pool) -> tuple[Floats, Floats]:
    """Boxes and variances as arrays, also when there are none."""
    if not voted:
        return np.empty((0, pool.boxes.shape[1])), np.empty((0, pool.terms.shape[1]))
    boxes, variances = (torch.stack(column).numpy() for column in zip(*voted, strict=True))
    return boxes, variances


def _overlap(boxes: Tensor, i: int, members: Tensor, single: bool) -> Tensor:
    """``Tensor[M]``: IoU of box i with the members of its class, zero where it is no positive number."""
    if boxes.shape[1] == 5:
        return pairwise_rotated_iou(boxes[i : i + 1], boxes[members])[0]
    rows = boxes[members].to(torch.float32 if single else torch.float64)
    box = boxes[i].to(rows.dtype)
    # The order of operations of torchvision.ops.nms, for equality to the last bit.
    size = (torch.minimum(box[2:], rows[:, 2:]) - torch.maximum(box[:2], rows[:, :2])).clamp(min=0)
    both = size[:, 0] * size[:, 1]
    area = (box[2] - box[0]) * (box[3] - box[1])
    areas = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    iou = both / (area + areas - both)
    return torch.where(iou > 0, iou, 0.0).double()


def _decay(values: Tensor, iou: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """Scores after the decay, and which candidates stay."""
    over = iou > rules.iou
    if rules.method == HARD:
        return values, ~over
    if rules.method == SOFT:
        decayed = values * torch.exp(-iou * iou / rules.sigma)
    else:
        decayed = torch.where(over, values * (1 - iou), values)
    return decayed, decayed >= rules.floor


def _vote(pool: _Pool, i: int, members: Tensor, iou: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """Voted box ``Tensor[S]`` and its merged variances ``Tensor[S]``, or ``Tensor[0]`` where there are none."""
    # The pick itself counts as IoU 1, also when it has no area.
    iou = torch.where(members == i, 1.0, iou)
    votes = (iou > rules.vote_iou) | (members == i)
    members, closeness = members[votes], torch.exp(-((1 - iou[votes]) ** 2) / rules.vote_sigma)[:, None]
    offsets, turns = _offsets(pool.boxes[members], pool.boxes[i])
    weights = closeness * _aligned(pool.factors[members], turns)
    total = weights.sum(0)
    # A coordinate without votes, an unknown angle, stays as it is.
    move = torch.where(total > 0, (weights * offsets).sum(0) / total, 0.0)
    box = _moved(pool.boxes[i], move)
    if not pool.terms.shape[1]:
        return box, box.new_empty(0)
    terms = _aligned(pool.terms[members], turns)
    if rules.fused:
        return box, torch.where(total > 0, 1 / (closeness * terms).sum(0), math.inf)
    spread = ((weights * offsets**2).sum(0) / total - move**2).clamp(min=0)
    return box, torch.where(total > 0, (weights * terms).sum(0) / total + spread, math.inf)


def _offsets(boxes: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """``Tensor[M, S]`` of how far edges lie from those of the kept box, and ``Tensor[M]`` of quarter turns to align."""
    if boxes.shape[1] == 4:
        return boxes - kept, torch.zeros(len(boxes), dtype=torch.int64)
    angle = boxes[:, 4] - kept[4]
    turns = torch.floor(angle / _QUARTER + 0.5)
    size = torch.where((turns % 2 == 1)[:, None], boxes[:, 2:4].flip(1), boxes[:, 2:4])
    grow = size / 2 - kept[2:4] / 2
    shift = boxes[:, :2] - kept[:2]
    cos, sin = kept[4].cos(), kept[4].sin()
    along = torch.stack((shift[:, 0] * cos + shift[:, 1] * sin, shift[:, 1] * cos - shift[:, 0] * sin), 1)
    return torch.cat((along - grow, along + grow, (angle - turns * _QUARTER)[:, None]), 1), turns.long()


def _aligned(sides: Tensor, turns: Tensor) -> Tensor:
    """Values ``Tensor[M, S]`` for l, t, r, b (and angle) after quarter turns of the representation."""
    source = (torch.arange(4) - turns[:, None]) % 4
    return torch.cat((sides[:, :4].gather(1, source), sides[:, 4:]), 1)


def _moved(box: Tensor, move: Tensor) -> Tensor:
    """The box with its edges (and angle) moved."""
    if len(box) == 4:
        return box + move
    along = (move[:2] + move[2:4]) / 2
    cos, sin = box[4].cos(), box[4].sin()
    centre = torch.stack((along[0] * cos - along[1] * sin, along[0] * sin + along[1] * cos))
    return torch.cat((box[:2] + centre, box[2:4] + move[2:4] - move[:2], box[4:] + move[4:]))
