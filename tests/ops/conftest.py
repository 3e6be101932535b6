"""A second implementation of suppression and voting: from the papers, in plain Python floats, O(n^2) and more."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import shapely

from yolo_uncert.ops import Suppression


@dataclass
class Naive:
    """Candidates of one image as lists."""

    boxes: list
    scores: list
    classes: list
    variances: list | None
    ious: list | None = None
    real: type = float

    def suppress(self, o: Suppression) -> list[tuple]:
        """(index, score, box, variances) of what is kept, in order."""
        taking_part = sorted((i for i, s in enumerate(self.scores) if s >= o.score_threshold), key=self.by_score)
        taking_part = taking_part[: o.max_nms]
        rank = {i: (self.ious or self.scores)[i] for i in taking_part}
        kept = []
        while rank:
            b = min(rank, key=lambda i: (-rank[i], i))
            mates = [i for i in rank if o.agnostic or self.classes[i] == self.classes[b]]
            everyone = [i for i in taking_part if o.agnostic or self.classes[i] == self.classes[b]]
            pool = mates if o.vote_pool == "alive" else everyone
            if rank[b] < o.vote_share * (self.ious or self.scores)[b]:
                pool = [b]
            voted = self.vote(b, pool, o)
            score = rank.pop(b)
            best = self.scores[b]
            for i in mates:
                overlap = self.iou(b, i)
                if i == b:
                    continue
                if o.method == "soft":
                    rank[i] *= math.exp(-(overlap**2) / o.sigma)
                elif o.method == "soft-linear" and overlap > o.iou_threshold:
                    rank[i] *= 1 - overlap
                elif overlap > o.iou_threshold and o.method != "soft-linear":
                    best = max(best, self.scores[i])
                    del rank[i]
                if i in rank and not o.guided and rank[i] < o.score_threshold:
                    del rank[i]
            kept.append((b, best if o.guided else score, *voted))
        if o.guided:
            kept.sort(key=lambda row: -row[1])
        return kept[: o.max_det]

    def by_score(self, i: int) -> tuple:
        return -self.scores[i], i

    def iou(self, a: int, b: int) -> float:
        return self.horizontal(a, b) if len(self.boxes[a]) == 4 else self.oriented(a, b)

    def horizontal(self, a: int, b: int) -> float:
        one, two = ([self.real(x) for x in self.boxes[k]] for k in (a, b))
        w = max(self.real(0), min(one[2], two[2]) - max(one[0], two[0]))
        h = max(self.real(0), min(one[3], two[3]) - max(one[1], two[1]))
        area1, area2 = ((k[2] - k[0]) * (k[3] - k[1]) for k in (one, two))
        return float(w * h / (area1 + area2 - w * h)) if w * h > 0 else 0.0

    def oriented(self, a: int, b: int) -> float:
        one, two = polygon(self.boxes[a]), polygon(self.boxes[b])
        both = one.intersection(two).area
        return both / (one.area + two.area - both) if both > 1e-9 else 0.0

    def vote(self, b: int, pool: list[int], o: Suppression) -> tuple:
        """Box and variances of b after the vote of a pool."""
        own = None if self.variances is None else list(self.variances[b])
        if o.vote == "off":
            return list(self.boxes[b]), own
        votes = []
        for i in pool:
            overlap = 1.0 if i == b else self.iou(b, i)
            bayes = o.vote == "bayes"
            if i == b or overlap > max(o.vote_iou, o.iou_threshold if bayes else 0):
                votes.append((i, 1.0 if bayes else math.exp(-((1 - overlap) ** 2) / o.vote_sigma)))
        sides = range(len(self.boxes[b]))
        moves, merged = zip(*(self.vote_side(b, side, votes, o) for side in sides), strict=True)
        return self.moved(b, moves), None if own is None else list(merged)

    def vote_side(self, b: int, side: int, votes: list, o: Suppression) -> tuple[float, float]:
        """Mean outward move of a side of b (or turn of its angle) and its merged variance."""
        weights, moves, variances, precisions = [], [], [], []
        for i, p in votes:
            move, source = self.opposite(b, i, side)
            variance = 1.0 if self.variances is None else max(self.variances[i][source], 1e-12)
            score_weight, variance_weight = self.scores[i], 1 / variance
            if self.variances is None or (o.vote == "var" and o.vote_weight == "score"):
                variance_weight = 1.0
            elif o.vote == "bayes" or o.vote_weight == "variance":
                score_weight = 1.0
            weights.append(p * score_weight * variance_weight)
            moves.append(move)
            variances.append(variance)
            precisions.append(p / variance)
        total = sum(weights)
        mean = sum(w * m for w, m in zip(weights, moves, strict=True)) / total
        if o.vote == "bayes" or o.merge == "fused":
            return mean, 1 / sum(precisions)
        rows = zip(weights, moves, variances, strict=True)
        return mean, sum(w / total * (v + (m - mean) ** 2) for w, m, v in rows)

    def opposite(self, b: int, i: int, side: int) -> tuple[float, int]:
        """How far the side of box i that faces the same way lies outside that side of b, and which one it is."""
        if len(self.boxes[b]) == 4:
            return (self.boxes[i][side] - self.boxes[b][side]) * (-1 if side < 2 else 1), side
        if side == 4:
            turns = (self.boxes[i][4] - self.boxes[b][4]) / (math.pi / 2)
            return (turns - round(turns)) * math.pi / 2, 4
        normal = normals(self.boxes[b][4])[side]
        facing = [float(normal @ other) for other in normals(self.boxes[i][4])]
        source = facing.index(max(facing))
        reach, own = (self.boxes[k][2 + s % 2] / 2 for k, s in ((i, source), (b, side)))
        return float(normal @ np.subtract(self.boxes[i][:2], self.boxes[b][:2])) + reach - own, source

    def moved(self, b: int, moves: tuple) -> list[float]:
        box = list(self.boxes[b])
        if len(box) == 4:
            return [x + (-m if side < 2 else m) for side, (x, m) in enumerate(zip(box, moves, strict=True))]
        shift = sum(n * m / 2 for n, m in zip(normals(box[4]), moves[:4], strict=True))
        return [*(box[:2] + shift), box[2] + moves[0] + moves[2], box[3] + moves[1] + moves[3], box[4] + moves[4]]


def normals(angle: float) -> list[np.ndarray]:
    """Outward normals of the left, top, right and bottom side; y points down and angles turn from x to y."""
    return [
        np.array((math.cos(angle + turn), math.sin(angle + turn))) for turn in (math.pi, -math.pi / 2, 0, math.pi / 2)
    ]


def polygon(box: list) -> shapely.Polygon:
    along, across = normals(box[4])[2] * box[2] / 2, normals(box[4])[3] * box[3] / 2
    centre = np.array(box[:2])
    return shapely.Polygon(
        [centre + along + across, centre - along + across, centre - along - across, centre + along - across]
    )


class Scenes:
    """Candidates of one image by kind."""

    kinds = ("spread", "dense", "grid", "flat", "identical")

    @staticmethod
    def horizontal(seed: int, count: int, kind: str) -> tuple[np.ndarray, ...]:
        """Boxes xyxy float32, scores, classes, variances and predicted IoUs."""
        rng = np.random.default_rng(seed)
        if kind == "grid":  # equal overlaps and equal boxes
            corner, size = rng.integers(0, 6, (count, 2)) * 4.0, rng.integers(1, 4, (count, 2)) * 4.0
        elif kind == "identical":
            corner, size = np.full((count, 2), 7.0), np.full((count, 2), 5.0)
        else:
            extent = 30.0 if kind == "dense" else 200.0
            corner, size = rng.uniform(0, extent, (count, 2)), rng.uniform(5, 60, (count, 2))
        if kind == "flat":
            size[rng.random((count, 2)) < 0.3] = 0
        scores = rng.permutation(np.linspace(0.0005, 1, count)) if count else np.empty(0)
        boxes = np.concatenate((corner, corner + size), 1).astype(np.float32)
        return boxes, scores.astype(np.float32), rng.integers(-1, 2, count), *Scenes.extras(rng, count, 4)

    @staticmethod
    def oriented(seed: int, count: int) -> tuple[np.ndarray, ...]:
        """Boxes xywhr, scores, classes, variances and predicted IoUs."""
        rng = np.random.default_rng(seed)
        size = rng.uniform(5, 60, (count, 2))
        boxes = np.concatenate((rng.uniform(0, 80, (count, 2)), size, rng.uniform(-4, 4, (count, 1))), 1)
        scores = rng.permutation(np.linspace(0.0005, 1, count)) if count else np.empty(0)
        return boxes, scores, rng.integers(0, 2, count), *Scenes.extras(rng, count, 5)

    @staticmethod
    def extras(rng: np.random.Generator, count: int, sides: int) -> tuple[np.ndarray, np.ndarray]:
        return np.exp(rng.uniform(-3, 3, (count, sides))), rng.permutation(np.linspace(0.1, 0.9, max(count, 1)))[:count]


@pytest.fixture(scope="session")
def naive() -> type[Naive]:
    return Naive


@pytest.fixture(scope="session")
def scenes() -> type[Scenes]:
    return Scenes
