"""CPU kernels of suppression and voting (numba). Importing this module compiles them, or loads them from the cache.

What an entry calls stands in its file: numba's cache notices changes of that file only. No fast-math, so that results
follow the order of operations that is written here.

Shape shorthand: N candidates, n of them in play and grouped by class (a group is a *segment*), K picks. ``geometry``
holds a row per quantity and a column per grouped candidate, so that the loop over a segment reads consecutive numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types

from yolo_uncert.ops.backend import Floats, Ints
from yolo_uncert.ops.compiling import FLAGS, array, entry, named_tuple
from yolo_uncert.ops.matching_kernel import match
from yolo_uncert.ops.options import HARD, SOFT, Rules
from yolo_uncert.ops.threshold_kernel import above

__all__ = ["above", "match", "suppress", "vote"]

_QUARTER = math.pi / 2
_NOISE = 64 * np.finfo(np.float64).eps
"""What rounding leaves as the overlap of oriented boxes that are apart, see `rotated_iou`."""

_Box = tuple[float, float, float, float, float, float]
_Sides = tuple[float, float, float, float, float]
_VECTOR, _MATRIX, _INDEX = array(types.float64, 1), array(types.float64, 2), array(types.int64, 1)
_VOTES, _RULES = types.UniTuple(_MATRIX, 2), named_tuple(Rules)


@njit(**FLAGS)
def _segments(labels: Ints) -> tuple[Ints, Ints]:
    """Indices of the candidates in play, grouped by label in their order, and the start of each group."""
    count = 0
    for i in range(len(labels)):
        count = max(count, labels[i] + 1)
    starts = np.zeros(count + 1, np.int64)
    for i in range(len(labels)):
        if labels[i] >= 0:
            starts[labels[i] + 1] += 1
    starts = np.cumsum(starts)
    order, free = np.empty(starts[-1], np.int64), starts.copy()
    for i in range(len(labels)):
        if labels[i] >= 0:
            order[free[labels[i]]] = i
            free[labels[i]] += 1
    return order, starts


@njit(**FLAGS)
def _geometry(boxes: Floats, order: Ints, single: bool) -> Floats:
    """Rows x1, y1, x2, y2, area; of oriented boxes x, y, half w, half h, cos, sin, half diagonal, area."""
    oriented = boxes.shape[1] == 5
    geometry = np.empty((8 if oriented else 5, len(order)))
    for j in range(len(order)):
        box = boxes[order[j]]
        if oriented:
            half_w, half_h = box[2] / 2, box[3] / 2
            geometry[0, j], geometry[1, j], geometry[2, j], geometry[3, j] = box[0], box[1], half_w, half_h
            geometry[4, j], geometry[5, j] = math.cos(box[4]), math.sin(box[4])
            # A radius below all distances takes a box without area out of every overlap.
            geometry[6, j] = math.hypot(half_w, half_h) if half_w > 0 and half_h > 0 else -np.inf
            geometry[7, j] = box[2] * box[3]
        else:
            for side in range(4):
                geometry[side, j] = box[side]
            geometry[4, j] = (box[2] - box[0]) * (box[3] - box[1])
            if single:
                w, h = np.float32(box[2]) - np.float32(box[0]), np.float32(box[3]) - np.float32(box[1])
                geometry[4, j] = w * h
    return geometry


@njit(**FLAGS)
def _overlap(geometry: Floats, pick: int, start: int, end: int, row: Floats, single: bool) -> None:
    """Write the IoU of the pick with each candidate of its segment to the front of ``row``."""
    if len(geometry) == 8:
        _oriented_row(geometry, pick, start, end, row)
    elif single:
        _horizontal_row(geometry, pick, start, end, row, np.float32)
    else:
        _horizontal_row(geometry, pick, start, end, row, np.float64)


@njit(**FLAGS)
def _horizontal_row(geometry: Floats, pick: int, start: int, end: int, row: Floats, real: Any) -> None:
    # The order of operations of torchvision.ops.nms, in the precision of the boxes, for equality to the last bit.
    x1, y1, x2 = real(geometry[0, pick]), real(geometry[1, pick]), real(geometry[2, pick])
    y2, area = real(geometry[3, pick]), real(geometry[4, pick])
    left, top, right = geometry[0, start:end], geometry[1, start:end], geometry[2, start:end]
    bottom, areas = geometry[3, start:end], geometry[4, start:end]
    for j in range(end - start):
        w = max(real(0), min(x2, real(right[j])) - max(x1, real(left[j])))
        h = max(real(0), min(y2, real(bottom[j])) - max(y1, real(top[j])))
        both = w * h
        iou = both / (area + real(areas[j]) - both)
        row[j] = iou if iou > 0 else 0.0


@njit(**FLAGS)
def _oriented_row(geometry: Floats, pick: int, start: int, end: int, row: Floats) -> None:
    frame = _box(geometry, pick)
    x, y, radius = geometry[0, pick], geometry[1, pick], geometry[6, pick]
    for j in range(start, end):
        away_x, away_y, reach = geometry[0, j] - x, geometry[1, j] - y, geometry[6, j] + radius
        if reach < 0 or away_x * away_x + away_y * away_y > reach * reach:
            row[j - start] = 0.0
            continue
        both = _intersection(_box(geometry, j), frame)
        iou = both / (geometry[7, j] + geometry[7, pick] - both)
        row[j - start] = min(iou, 1.0) if iou > _NOISE else 0.0


@njit(**FLAGS)
def _box(geometry: Floats, j: int) -> _Box:
    return geometry[0, j], geometry[1, j], geometry[2, j], geometry[3, j], geometry[4, j], geometry[5, j]


@njit(**FLAGS)
def _intersection(box: _Box, frame: _Box) -> float:
    """Area that two oriented boxes share, by the boundary integral that `rotated_iou` explains."""
    cos, sin = frame[4], frame[5]
    shift_x, shift_y = box[0] - frame[0], box[1] - frame[1]
    centre_x, centre_y = shift_x * cos + shift_y * sin, shift_y * cos - shift_x * sin
    turn_cos, turn_sin = box[4] * cos + box[5] * sin, box[5] * cos - box[4] * sin
    wx, wy, hx, hy = box[2] * turn_cos, box[2] * turn_sin, -box[3] * turn_sin, box[3] * turn_cos
    start_x, start_y = centre_x + wx - hx, centre_y + wy - hy
    area = 0.0
    for edge in range(4):
        # Corners with increasing polar angle: (+w, +h), (-w, +h), (-w, -h), (+w, -h).
        sign_w, sign_h = (1.0 if edge in (0, 3) else -1.0), (1.0 if edge < 2 else -1.0)
        end_x, end_y = centre_x + sign_w * wx + sign_h * hx, centre_y + sign_w * wy + sign_h * hy
        area += _edge_integral(start_x, start_y, end_x, end_y, frame[2], frame[3])
        start_x, start_y = end_x, end_y
    return area


@njit(**FLAGS)
def _edge_integral(start_x: float, start_y: float, end_x: float, end_y: float, half_w: float, half_h: float) -> float:
    """Integral of clamp(x) d clamp(y) along one edge."""
    enter, leave = _crossings(start_y, end_y, half_h)
    low, high = _crossings(start_x, end_x, half_w)
    area = 0.0
    last_x, last_y = _clamp(_lerp(start_x, end_x, enter), half_w), _clamp(_lerp(start_y, end_y, enter), half_h)
    for t in (min(max(low, enter), leave), min(max(high, enter), leave), leave):
        x, y = _clamp(_lerp(start_x, end_x, t), half_w), _clamp(_lerp(start_y, end_y, t), half_h)
        area += (x + last_x) * (y - last_y) / 2
        last_x, last_y = x, y
    return area


@njit(**FLAGS)
def _crossings(start: float, end: float, half: float) -> tuple[float, float]:
    step = end - start
    if step == 0:
        step = 1.0
    first, second = min(max((-half - start) / step, 0.0), 1.0), min(max((half - start) / step, 0.0), 1.0)
    return min(first, second), max(first, second)


@njit(**FLAGS)
def _lerp(start: float, end: float, t: float) -> float:
    # Exact at both ends, so that the path closes without a gap.
    return start + t * (end - start) if t < 0.5 else end - (1 - t) * (end - start)


@njit(**FLAGS)
def _clamp(value: float, half: float) -> float:
    return min(max(value, -half), half)


@njit(**FLAGS)
def _before(value: float, index: int, other_value: float, other_index: int) -> bool:
    """Whether one candidate is picked before another one: the higher rank, then the lower index."""
    # Scalars, because arrays that are handed over in the inner loop cost a reference count each.
    return value > other_value or (value == other_value and index < other_index)


@njit(**FLAGS)
def _best(current: Floats, order: Ints, start: int, end: int) -> int:
    best = start
    for j in range(start + 1, end):
        if _before(current[j], order[j], current[best], order[best]):
            best = j
    return best if start < end else -1


@njit(**FLAGS)
def _best_label(heads: Ints, current: Floats, order: Ints) -> int:
    best, best_head = -1, -1
    for label in range(len(heads)):
        head = heads[label]
        if head >= 0 and (best < 0 or _before(current[head], order[head], current[best_head], order[best_head])):
            best, best_head = label, head
    return best


@njit(**FLAGS)
def _decay(
    columns: tuple[Floats, Floats, Ints], scores: Floats, row: Floats, span: tuple[int, int], pick: int, rules: Rules
) -> tuple[int, int, float]:
    """Take the pick and what it suppresses out of its segment: new end, new head, best score among those taken out.

    What leaves is overwritten by the last candidate of the segment. The loop runs downwards, so that this one has
    already been visited.
    """
    geometry, current, order = columns
    start, end = span
    head, best = -1, scores[order[pick]]
    for j in range(end - 1, start - 1, -1):
        value, overlap, alive = current[j], row[j - start], j != pick
        if alive and overlap > 0:
            value, alive = _suppressed(value, overlap, rules)
            if not alive:
                best = max(best, scores[order[j]])
        if alive:
            current[j] = value
            if head < 0 or _before(value, order[j], current[head], order[head]):
                head = j
            continue
        end -= 1
        if j != end:
            current[j], order[j] = current[end], order[end]
            for k in range(len(geometry)):
                geometry[k, j] = geometry[k, end]
            if head == end:
                head = j
    return end, head, best


@njit(**FLAGS)
def _suppressed(value: float, overlap: float, rules: Rules) -> tuple[float, bool]:
    """What an overlap with a pick leaves of a score, and whether the candidate stays."""
    if rules.method == SOFT:
        value *= math.exp(-overlap * overlap / rules.sigma)
        return value, value >= rules.floor
    if overlap <= rules.iou:
        return value, True
    if rules.method == HARD:
        return value, False
    value *= 1 - overlap
    return value, value >= rules.floor


@njit(**FLAGS)
def _vote(i: int, members: Ints, row: Floats, pool: tuple[Floats, Floats, Floats], rules: Rules, sums: Floats) -> None:
    """Sum the votes of a segment for box i, per coordinate.

    Rows of ``sums``: weights, weighted offsets, weighted squared offsets, terms of the merged variance.
    """
    boxes, factors, terms = pool
    sums[:] = 0.0
    sides = boxes.shape[1]
    cos, sin = (math.cos(boxes[i, 4]), math.sin(boxes[i, 4])) if sides == 5 else (1.0, 0.0)
    for m in range(len(members)):
        j = members[m]
        if j != i and not row[m] > rules.vote_iou:
            continue
        # The pick itself counts as IoU 1, also when it has no area.
        apart = 0.0 if j == i else 1 - row[m]
        closeness = math.exp(-apart * apart / rules.vote_sigma)
        turns, offsets = _offsets(boxes, j, i, cos, sin)
        for side in range(sides):
            source = (side - turns) & 3 if side < 4 else 4
            weight, offset = closeness * factors[j, source], offsets[side]
            sums[0, side] += weight
            sums[1, side] += weight * offset
            sums[2, side] += weight * offset * offset
            if terms.shape[1]:
                sums[3, side] += (closeness if rules.fused else weight) * terms[j, source]


# Inlined, because arrays that are handed over in the inner loop cost a reference count each.
@njit(inline="always", **FLAGS)
def _offsets(boxes: Floats, j: int, i: int, cos: float, sin: float) -> tuple[int, _Sides]:
    """Quarter turns that align box j with box i, and how far its edges (and its angle) then lie off those of box i.

    `yolo_uncert.ops.voting.var_vote` defines the offsets of oriented boxes.
    """
    d0, d1 = boxes[j, 0] - boxes[i, 0], boxes[j, 1] - boxes[i, 1]
    d2, d3 = boxes[j, 2] - boxes[i, 2], boxes[j, 3] - boxes[i, 3]
    turns, angle = 0, 0.0
    if boxes.shape[1] == 5:
        angle = boxes[j, 4] - boxes[i, 4]
        turns = math.floor(angle / _QUARTER + 0.5)
        angle -= turns * _QUARTER
        w, h = (boxes[j, 2], boxes[j, 3]) if turns % 2 == 0 else (boxes[j, 3], boxes[j, 2])
        grow_w, grow_h = (w - boxes[i, 2]) / 2, (h - boxes[i, 3]) / 2
        along_w, along_h = d0 * cos + d1 * sin, d1 * cos - d0 * sin
        d0, d1, d2, d3 = along_w - grow_w, along_h - grow_h, along_w + grow_w, along_h + grow_h
    return turns, (d0, d1, d2, d3, angle)


@njit(**FLAGS)
def _move(boxes: Floats, i: int, sums: Floats, box: Floats) -> None:
    """Write box i moved by the mean of its votes; a coordinate without votes stays as it is."""
    for side in range(len(box)):
        # From here on the row of weighted offsets holds their mean.
        sums[1, side] = sums[1, side] / sums[0, side] if sums[0, side] > 0 else 0.0
        box[side] = boxes[i, side] + (sums[1, side] if len(box) == 4 else 0.0)
    if len(box) == 4:
        return
    cos, sin = math.cos(boxes[i, 4]), math.sin(boxes[i, 4])
    along_w, along_h = (sums[1, 0] + sums[1, 2]) / 2, (sums[1, 1] + sums[1, 3]) / 2
    box[0] += along_w * cos - along_h * sin
    box[1] += along_w * sin + along_h * cos
    box[2] += sums[1, 2] - sums[1, 0]
    box[3] += sums[1, 3] - sums[1, 1]
    box[4] += sums[1, 4]


@njit(**FLAGS)
def _merge(sums: Floats, rules: Rules, variance: Floats) -> None:
    """Write the variance of each coordinate, infinite where nothing is known; after `_move`."""
    for side in range(len(variance)):
        total, mean = sums[0, side], sums[1, side]
        if not total > 0:
            variance[side] = np.inf
        elif rules.fused:
            variance[side] = 1 / sums[3, side]
        else:
            variance[side] = sums[3, side] / total + max(sums[2, side] / total - mean * mean, 0.0)


@entry(_MATRIX, _VECTOR, _VECTOR, _INDEX, _VOTES, _RULES)
def suppress(
    boxes: Floats, rank: Floats, scores: Floats, labels: Ints, votes: tuple[Floats, Floats], rules: Rules
) -> tuple[Ints, Floats, Floats, Floats]:
    """Pick candidates by falling rank until none is left; see `yolo_uncert.ops.suppression.suppress`.

    Scores only decay, so that the picks come in their final order; a pick changes its own segment only, hence one pass
    over one segment per pick yields overlap, votes, decay and the segment's next best candidate.

    Args:
        boxes: ``[N, 4]`` xyxy or ``[N, 5]`` xywhr.
        rank: ``[N]``, what picks go by: the scores, or the predicted IoU.
        scores: ``[N]``.
        labels: ``[N]`` classes, small numbers; candidates with a negative one do not take part.
        votes: Factors ``[N, 4]`` or ``[N, 5]`` of the votes, and terms of the merged variance of the same shape or
            ``[N, 0]``, as `CheckedCandidates.votes` makes them; without vote they do not matter.
        rules: Method and thresholds.

    Returns:
        Index ``[K]`` and score ``[K]`` of the picks, and with vote their boxes and variances (else those are empty).
    """
    order, starts = _segments(labels)
    geometry, current, ends = _geometry(boxes, order, rules.single), rank[order], starts[1:].copy()
    columns, pool = (geometry, current, order), (boxes, votes[0], votes[1])
    row, sums = np.empty(len(order)), np.empty((4, 5))
    heads = np.empty(len(ends), np.int64)
    for label in range(len(heads)):
        heads[label] = _best(current, order, starts[label], ends[label])
    limit = min(rules.limit, len(order))
    index, kept_scores = np.empty(limit, np.int64), np.empty(limit)
    voters = limit if rules.vote else 0
    kept_boxes, kept_variances = np.empty((voters, boxes.shape[1])), np.empty((voters, votes[1].shape[1]))
    count = 0
    while count < limit:
        label = _best_label(heads, current, order)
        if label < 0:
            break
        pick, start, end = heads[label], starts[label], ends[label]
        i = order[pick]
        index[count], kept_scores[count] = i, current[pick]
        _overlap(geometry, pick, start, end, row, rules.single)
        if rules.vote:
            low, high = (pick, pick + 1) if current[pick] < rules.vote_share * rank[i] else (start, end)
            _vote(i, order[low:high], row, pool, rules, sums)
            _move(boxes, i, sums, kept_boxes[count])
            _merge(sums, rules, kept_variances[count])
        ends[label], heads[label], best = _decay(columns, scores, row, (start, end), pick, rules)
        if rules.method == HARD:
            kept_scores[count] = best
        count += 1
    return index[:count], kept_scores[:count], kept_boxes[:count], kept_variances[:count]


@entry(_MATRIX, _INDEX, _VOTES, _INDEX, _RULES)
def vote(boxes: Floats, labels: Ints, votes: tuple[Floats, Floats], kept: Ints, rules: Rules) -> tuple[Floats, Floats]:
    """Let all candidates of the class vote for the boxes ``kept [K]``; the other arguments are those of `suppress`."""
    order, starts = _segments(labels)
    geometry, position = _geometry(boxes, order, rules.single), np.zeros(len(boxes), np.int64)
    for j in range(len(order)):
        position[order[j]] = j
    pool, row, sums = (boxes, votes[0], votes[1]), np.empty(len(order)), np.empty((4, 5))
    kept_boxes, kept_variances = np.empty((len(kept), boxes.shape[1])), np.empty((len(kept), votes[1].shape[1]))
    for k in range(len(kept)):
        i = kept[k]
        start, end = starts[labels[i]], starts[labels[i] + 1]
        _overlap(geometry, position[i], start, end, row, rules.single)
        _vote(i, order[start:end], row, pool, rules, sums)
        _move(boxes, i, sums, kept_boxes[k])
        _merge(sums, rules, kept_variances[k])
    return kept_boxes, kept_variances
