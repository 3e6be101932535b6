"""Trackers with and without sigma on moving scenes of known truth: ``python benchmarks/tracking.py [SEEDS] [OBJECTS]``.

Detections go straight to the trackers, no image is involved (and no compensation of camera motion). Prints Markdown
tables: mean and standard deviation over seeds, and the mean paired difference to the stock tracker with its 95 %
interval (Student's t). HOTA, IDF1 and MOTA are those of TrackEval (``pip install trackeval``), in percent. ``error`` is
the RMSE of the centres in pixels over the true detections that both trackers followed, ``NEES`` the mean of
e^T P^-1 e / 4 over tracks at true detections, 1 for a covariance that tells the truth.
"""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
from scipy.stats import t as student
from trackeval.metrics import CLEAR, HOTA, Identity
from ultralytics.trackers import BOTSORT, BYTETracker
from ultralytics.utils import LOGGER, YAML, IterableSimpleNamespace

from yolo_uncert.engine.boxes import UncertBoxes
from yolo_uncert.synthetic.motion import Detected, MotionSpec, Sequence, make_sequence
from yolo_uncert.tracking.options import resolve_tracker
from yolo_uncert.tracking.trackers import with_uncertainty

STOCK = {"bytetrack": BYTETracker, "botsort": BOTSORT}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "stock": None,
    "uncert": {},
    "uncert, IoU only": {"association": "iou"},
    "uncert, process 1": {"process": 1.0},
    "sigma withheld": {},
}
"""Options of the tracker; the last one is ours without sigma, which tells its gain from that of the other changes."""

ABLATED = ("noise varies", "all 3 px")
"""Settings in which all variants run, in the others the first two."""

SETTINGS: dict[str, tuple[str, float]] = {
    "noise varies": ("varies", 1.0),
    "noise varies, sigma half of the truth": ("varies", 0.5),
    "noise varies, sigma twice the truth": ("varies", 2.0),
    "all 3 px": ("fixed", 1.0),
    "all as Ultralytics assumes": ("relative", 1.0),
}
METRICS = ("HOTA", "IDF1", "MOTA", "switches", "error", "NEES")


@dataclass
class Run:
    """What a tracker made of a sequence: rows of (frame, track, object, detection), their boxes, and their NEES."""

    rows: np.ndarray
    boxes: np.ndarray
    nees: np.ndarray


def make_tracker(base: str, options: dict[str, Any] | None) -> Any:
    """Return the stock tracker, or ours with options."""
    settings = YAML.load(resolve_tracker(f"{base}-uncert.yaml"))
    section = settings.pop("uncertainty")
    if base == "botsort":
        settings["gmc_method"] = "none"
    if options is None:
        return STOCK[base](IterableSimpleNamespace(**settings))
    return with_uncertainty(STOCK[base](IterableSimpleNamespace(**settings, uncertainty={**section, **options})))


def track(sequence: Sequence, tracker: Any, scale: float | None) -> Run:
    """Feed a tracker with all frames, sigma multiplied by ``scale`` or (None) withheld."""
    rows, boxes, nees = [], [], []
    for time, (frame, truth) in enumerate(zip(sequence.frames, sequence.truth, strict=True)):
        found = tracker.update(_boxes(frame, scale), None).reshape(-1, 8)
        index = found[:, 7].astype(int)
        shown = frame.index[index]
        rows.append(np.stack((np.full(len(index), time), found[:, 4].astype(int), shown, index), 1))
        boxes.append(found[:, :4])
        active = [track for track in tracker.tracked_stracks if track.is_activated]
        nees += [_nees(track, truth[i]) for track, i in zip(active, shown, strict=True) if i >= 0]
    return Run(np.concatenate(rows).astype(int), np.concatenate(boxes), np.array(nees))


def measure(sequence: Sequence, run: Run, stock: Run) -> list[float]:
    """Return the METRICS of a run."""
    data = _for_trackeval(sequence, run)
    with redirect_stdout(StringIO()):
        hota, identity, clear = (metric().eval_sequence(data) for metric in (HOTA, Identity, CLEAR))
    return [
        100 * hota["HOTA"].mean(),
        100 * identity["IDF1"],
        100 * clear["MOTA"],
        clear["IDSW"],
        _error(sequence, run, stock),
        run.nees.mean(),
    ]


def _boxes(frame: Detected, scale: float | None) -> UncertBoxes:
    data = np.c_[frame.boxes, frame.score, np.zeros(len(frame.boxes))].astype(np.float32)
    return UncertBoxes(data, (720, 1280), {} if scale is None else {"std": (scale * frame.std).astype(np.float32)})


def _nees(track: Any, truth: np.ndarray) -> float:
    error = track.convert_coords(np.r_[truth[:2], truth[2:] - truth[:2]]) - track.mean[:4]
    return float(error @ np.linalg.solve(track.covariance[:4, :4], error)) / 4


def _error(sequence: Sequence, run: Run, other: Run) -> float:
    """Return the RMSE of the centres, over the true detections that both runs followed."""
    both = np.isin(_key(run), _key(other)) & (run.rows[:, 2] >= 0)
    truth = sequence.truth[run.rows[both, 0], run.rows[both, 2]]
    difference = run.boxes[both] - truth
    centre = (difference[:, :2] + difference[:, 2:]) / 2
    return float(np.sqrt((centre**2).sum(1).mean()))


def _key(run: Run) -> np.ndarray:
    return run.rows[:, 0] * 10_000 + run.rows[:, 3]


def _for_trackeval(sequence: Sequence, run: Run) -> dict[str, Any]:
    objects = np.flatnonzero(sequence.present.any(0))
    tracks = np.unique(run.rows[:, 1])
    there = [np.flatnonzero(row) for row in sequence.present]
    frames = [run.rows[:, 0] == time for time in range(len(there))]
    return {
        "gt_ids": [np.searchsorted(objects, row) for row in there],
        "tracker_ids": [np.searchsorted(tracks, run.rows[frame, 1]) for frame in frames],
        "similarity_scores": [
            _iou(truth[row], run.boxes[frame]) for truth, row, frame in zip(sequence.truth, there, frames, strict=True)
        ],
        "num_gt_ids": len(objects),
        "num_tracker_ids": len(tracks),
        "num_gt_dets": sum(map(len, there)),
        "num_tracker_dets": len(run.rows),
        "num_timesteps": len(there),
    }


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    inter = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    inter = inter.clip(0).prod(-1)
    return inter / ((a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1) - inter)


def _cells(values: np.ndarray, stock: np.ndarray | None) -> str:
    """Return the cells of a row; values are Array[seeds, metrics]."""
    reach = student.ppf(0.975, len(values) - 1) / np.sqrt(len(values))
    cells = []
    for k in range(values.shape[1]):
        cell = f"{values[:, k].mean():.2f} ± {values[:, k].std(ddof=1):.2f}"
        if stock is not None:
            gain = values[:, k] - stock[:, k]
            cell += f" ({gain.mean():+.2f} ± {reach * gain.std(ddof=1):.2f})"
        cells.append(cell)
    return " | ".join(cells)


def main(seeds: int = 10, objects: int = 50) -> None:
    """Print a table for every setting."""
    LOGGER.setLevel(logging.ERROR)
    for setting, (noise, scale) in SETTINGS.items():
        sequences = [make_sequence(MotionSpec(noise=noise, objects=objects), seed) for seed in range(seeds)]
        print(f"\n**{setting}**\n\n| tracker | {' | '.join(METRICS)} |\n|{'---|' * (len(METRICS) + 1)}", flush=True)
        for base in STOCK:
            stock = [track(sequence, make_tracker(base, None), None) for sequence in sequences]
            before = None
            for variant, options in list(VARIANTS.items())[: None if setting in ABLATED else 2]:
                given = None if variant in ("stock", "sigma withheld") else scale
                runs = [track(sequence, make_tracker(base, options), given) for sequence in sequences]
                triples = zip(sequences, runs, stock, strict=True)
                values = np.array([measure(sequence, run, reference) for sequence, run, reference in triples])
                print(f"| {base}, {variant} | {_cells(values, before)} |", flush=True)
                before = values if before is None else before


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
