"""Bring the candidates of overlapping tiles together: no box of a cut object, no duplicate, bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
import torch

from yolo_uncert.engine.candidates import Candidates
from yolo_uncert.engine.postprocess import Detections
from yolo_uncert.evaluation import corners
from yolo_uncert.scenes.tiles import Tile, inner_limits, seen_whole, touches_inner

CELL = 32
"""Side in pixels of the cells by which boxes that may overlap are found: boxes that share none do not."""

CUT = "cut"
"""Field of candidates, ``Tensor[N, 1]``: 1 where a box ends at an inner border and no tile saw it whole."""

Settle = Callable[[Candidates], Detections]
Floats = npt.NDArray[np.float64]


class Merger:
    """Candidates of the scene that may still meet some of tiles to come.

    Suppression and voting act on overlapping boxes only. Boxes that overlap, directly or through others, form a group;
    a group is solved at once, with every candidate of every tile, as soon as no further tile can add to it.

    Args:
        size: Width and height of the scene.
        settle: Suppresses candidates; those of different ``cls`` do not act on each other.
        agnostic: Boxes of different classes act on each other.
        waiting: Candidates of earlier tiles, as `waiting` gave them.
    """

    def __init__(
        self,
        size: tuple[int, int],
        settle: Settle,
        *,
        agnostic: Callable[[], bool],
        waiting: Candidates | None = None,
    ) -> None:
        self.size = size
        self._settle, self._agnostic = settle, agnostic
        self._pending: list[Candidates] = [] if waiting is None else [waiting]

    @property
    def waiting(self) -> Candidates | None:
        """Candidates that are not settled, in pixels of the scene; None if there has been none."""
        return join(self._pending) if self._pending else None

    def add(self, found: Candidates, tile: Tile, others: Sequence[Tile]) -> None:
        """Take the candidates of a tile.

        A box that touches an inner border of its tile is dropped if another tile sees all of it, and what lies behind
        that border: the object may be cut here and is not there. One that no tile sees whole stays, clipped to its
        tile, and is marked.

        Args:
            found: Candidates in pixels of the tile.
            tile: Where it lies.
            others: The tiles that overlap it.
        """
        boxes = found.boxes.cpu().double()
        shift = boxes.new_tensor([tile.x1, tile.y1, *tile[:2]] if boxes.shape[1] == 4 else [*tile[:2], 0, 0, 0])
        boxes = boxes + shift
        low, high = inner_limits(tile, self.size, 0.0)
        visible = np.clip(extents(boxes), np.tile(low, 2), np.tile(high, 2))
        cut = touches_inner(visible, tile, self.size)
        empty = (visible[:, 2:] <= visible[:, :2]).any(1)
        keep = torch.from_numpy(~(cut & (empty | seen_whole(visible, others, self.size))))
        if boxes.shape[1] == 4:  # nothing is known of what lies outside
            boxes = torch.from_numpy(visible)
        fields = {name: values.cpu().double() for name, values in found.fields.items()}
        fields[CUT] = torch.from_numpy(cut.astype(float))[:, None]
        moved = Candidates(boxes, found.conf.cpu().double(), found.cls.cpu(), found.index.cpu(), fields)
        self._pending.append(moved.take(keep))

    def settle(self, below: float = np.inf) -> Detections | None:
        """Finish the groups that lie above a line, and forget them.

        Args:
            below: The y in pixels from which tiles to come may add boxes; infinite: there are no further tiles.

        Returns:
            Detections in pixels of the scene, ``index`` unused, ``fields`` with ``cut``; None if there is nothing, but
            at the end of a scene, where no detections have their fields, too.
        """
        pending = self.waiting
        if pending is None:
            return None
        around = extents(pending.boxes)
        # What overlaps outside the scene still does when it is moved to its border.
        group = groups(np.clip(around, 0, np.tile(self.size, 2)))
        reach = np.full(group.max(initial=-1) + 1, -np.inf)
        np.maximum.at(reach, group, around[:, 3])
        done = torch.from_numpy(reach[group] < below)
        self._pending = [pending.take(~done)]
        ready, labels = pending.take(done), torch.from_numpy(group)[done]
        return self._finish(ready, labels) if len(labels) or below == np.inf else None

    def _finish(self, ready: Candidates, group: torch.Tensor) -> Detections:
        """Suppress complete groups all at once, each as a class of its own so that only its members are compared."""
        classes = ready.cls.long()
        alike = group if self._agnostic() else group * (int(classes.max()) + 1 if len(classes) else 1) + classes
        rows = torch.arange(len(group))
        found = self._settle(Candidates(ready.boxes, ready.conf, alike, rows, ready.fields))
        fields = {**found.fields, CUT: ready.fields[CUT][found.index, 0]}
        return Detections(found.boxes, found.conf, ready.cls[found.index], found.index, fields)


def extents(boxes: torch.Tensor) -> Floats:
    """Return ``Array[N, 4]``, the xyxy box around each horizontal ``Tensor[N, 4]`` or oriented ``Tensor[N, 5]`` box."""
    values = boxes.cpu().double().numpy()
    if values.shape[1] == 4:
        return values
    points = corners(values)
    return np.concatenate((points.min(1), points.max(1)), axis=1)


def groups(around: Floats) -> npt.NDArray[np.int64]:
    """Number the groups of boxes that may overlap, directly or through others.

    Two boxes of different groups do not overlap; two of one group need not either, because they are told apart by the
    cells of a grid that they lie in.

    Args:
        around: ``Array[N, 4]`` xyxy in pixels.

    Returns:
        ``Array[N]`` of numbers from 0.
    """
    if not len(around):
        return np.zeros(0, np.int64)
    first = np.floor(around[:, :2] / CELL).astype(np.int64)
    counts = np.floor(around[:, 2:] / CELL).astype(np.int64) - first + 1
    total = counts.prod(1)
    box = np.repeat(np.arange(len(around)), total)
    place = np.arange(len(box)) - np.repeat(total.cumsum() - total, total)
    column, row = first[box, 0] + place % counts[box, 0], first[box, 1] + place // counts[box, 0]
    key = (row - row.min()) * (column.max() - column.min() + 1) + column
    cell = np.unique(key, return_inverse=True)[1].reshape(-1) + len(around)
    links = scipy.sparse.coo_matrix((np.ones(len(box), bool), (box, cell)), shape=(cell.max() + 1,) * 2)
    labels: npt.NDArray[Any] = scipy.sparse.csgraph.connected_components(links, directed=False)[1][: len(around)]
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)


def join(parts: Sequence[Candidates]) -> Candidates:
    """Return the candidates of several tiles, in their order."""
    return Candidates(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.conf for part in parts]),
        torch.cat([part.cls for part in parts]),
        torch.cat([part.index for part in parts]),
        {name: torch.cat([part.fields[name] for part in parts]) for name in parts[0].fields},
    )
