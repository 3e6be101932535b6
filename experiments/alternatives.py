"""Compare sigma with what else a user could pick: ``python experiments/alternatives.py GRID.yaml RUNS [OUT.csv]``.

GRID and RUNS are those of ``experiments/run.py``, which has trained the row ``stock`` of the grid and one or more of
``uncert``, ``light``, ``gaussian`` and ``border``. On the plain detections of stock, light and uncert: moments of the
DFL distributions, the spread of test-time augmentation, of MC-dropout and of an ensemble of all seeds, a constant, and
a share of the side of the box (of border what of it takes one pass); and both the DFL moments and the Gaussian branch
with soft suppression and voting, too.

Whatever is fitted or chosen (a factor for each coordinate, a factor and a floor, the rate of the dropout, constants) is
fitted on the split ``val``; what is reported is read on the split of the grid. If that is ``val`` itself, the factors
are fitted on either half of its images and read on the other; the rate is chosen on all of them. OUT (default
``alternatives.csv`` in the folder of the grid) gets a row for each method, seed and scaling as it comes, and what is
there is not done again; ``OUT-cost.csv`` gets the times. ``rates=0.2,0.4`` as a further word says which rates of
dropout are tried; all passes are made for each.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cost import costs, has_moments
from grid import Cell, cells, read_grid
from passes import PASSES, RATES, SCALES, STRIDE, Array, dropout, flipped, mean_box, paired_boxes, spread, validate
from run import checkpoint, write
from run import spread as mean_and_deviation
from scaling import Sample, crossed, halves, measure, temperatures
from ultralytics.utils import LOGGER

from yolo_uncert import YOLO
from yolo_uncert.functional.scoring import nll

TUNE = "val"
"""Split that everything is fitted on."""

VOTED = {"suppress": "soft", "var_vote": True}

COVERAGE = ("coverage50", "coverage68", "coverage90", "coverage95")


class Source:
    """A trained model, the models of the other seeds, and their passes over the splits, each made once."""

    def __init__(self, cell: Cell, others: list[Cell], rates: Sequence[float] = RATES) -> None:
        """Load the checkpoints, and note the rates of dropout that are tried."""
        self.rates = rates
        self.facades = [YOLO(trained(c)) for c in (cell, *others)]
        self.options, self.rules = cell.evaluate, cell.rules
        self.oriented, self.dfl = self.facades[0].task == "obb", has_moments(self.facades[0])

    @cache  # noqa: B019  a source lives as long as its numbers are computed
    def plain(self, split: str) -> Any:
        """Return the metrics of the plain pass, hard suppression, with the DFL moments of a head that has them."""
        return self._look(split, sigma_source="dfl" if self.dfl else "none")

    @cache  # noqa: B019
    def passes(self, kind: str, split: str) -> Array:
        """Return the boxes of all passes of a kind for every detection of the plain one: Array[K, N, C], NaN: none."""
        if kind == "dropout":
            return self.dropped(split, self.rate)
        base = self.plain(split)
        if kind == "ensemble":
            found = [self._look(split, facade, sigma_source="none") for facade in self.facades[1:]]
        else:
            found = [self._augmented(split, *how) for how in list(product(SCALES, (False, True)))[1:]]
        return np.stack([base.scored.boxes, *(paired_boxes(base, other) for other in found)])

    @cache  # noqa: B019
    def dropped(self, split: str, rate: float) -> Array:
        """Return the boxes of the passes with dropout, as ``passes`` does."""
        base, found = self.plain(split), []
        for seed in range(PASSES):
            torch.manual_seed(seed)
            found.append(self._look(split, within=partial(dropout, p=rate), sigma_source="none"))
        return np.stack([paired_boxes(base, other) for other in found])

    @property
    def rate(self) -> float:
        """The rate of dropout whose spread has the best likelihood on the tuning split, after its best factors."""

        def loss(rate: float) -> float:
            sample = self.sample(TUNE, self.matched(spread(self.dropped(TUNE, rate)), TUNE))
            known = np.isfinite(sample.sigma).all(1)
            factor, _ = temperatures(sample)
            return float(nll(sample.residual[known], factor * sample.sigma[known]).mean())

        return min(self.rates, key=loss)

    def spread_of(self, kind: str, split: str, *, mean: bool = False) -> Sample:
        """Return the spread of the passes of a kind around the plain boxes, or around the mean ones."""
        passes, boxes = self.passes(kind, split), self.plain(split).scored.boxes
        sample = self.sample(split, self.matched(spread(passes), split))
        if not mean:
            return sample
        return replace(sample, residual=sample.residual - self.matched(mean_box(passes, boxes) - boxes, split))

    def predicted(self, split: str, source: str, rule: str) -> Sample:
        """Return what the model itself predicts, after one of the rules of suppression of the grid.

        A grid without votes for its stock models has the default vote here.
        """
        matches = self._look(split, **{**self.rules.get(rule, VOTED), "sigma_source": source}).matches
        return Sample(matches.residual, matches.sigma, halves(matches.files, matches.image))

    def sample(self, split: str, sigma: Array) -> Sample:
        """Return the plain detections with standard deviations Array[N, C] of some method."""
        matches = self.plain(split).matches
        return Sample(matches.residual, sigma, halves(matches.files, matches.image))

    def matched(self, values: Array, split: str) -> Array:
        """Return the rows of the detections that found an object, of values of all detections."""
        return values[self.plain(split).scored.matched]

    def _augmented(self, split: str, scale: float, mirrored: bool) -> Any:
        size = round(scale * self.options["imgsz"] / STRIDE) * STRIDE
        mirror = partial(flipped, oriented=self.oriented) if mirrored else None
        return self._look(split, within=mirror, sigma_source="none", imgsz=size)

    def _look(
        self,
        split: str,
        facade: YOLO | None = None,
        within: Callable[[Any], AbstractContextManager[None]] | None = None,
        **options: Any,
    ) -> Any:
        facade = facade or self.facades[0]
        with within(facade.model) if within else nullcontext():
            return validate(facade, **{**self.options, "split": split, **options})


def trained(cell: Cell) -> Path:
    """Return the checkpoint of a cell that ``experiments/run.py`` has trained."""
    if not (file := checkpoint(cell.folder)).is_file():
        sys.exit(f"{cell.folder} holds no checkpoint: train the grid with experiments/run.py first")
    return file


def constant(source: Source, split: str) -> Sample:
    """Return the same sigma for all boxes, to be scaled."""
    return source.sample(split, np.ones_like(source.plain(split).matches.residual))


def share_of_side(source: Source, split: str) -> Sample:
    """Return the box's extent along each coordinate, to be scaled; for an angle the same for all."""
    return source.sample(split, extents(source.plain(split).matches.boxes))


def extents(boxes: Array) -> Array:
    """Return the extent along each coordinate of boxes: Array[N, 4] xyxy, or Array[N, 5] xywhr, whose angle gets 1."""
    if boxes.shape[1] == 4:
        return np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    w, h, angle = boxes[:, 2:].T
    along = (np.hypot(w * np.cos(angle), h * np.sin(angle)), np.hypot(w * np.sin(angle), h * np.cos(angle)))
    return np.column_stack((*along, w, h, np.ones(len(boxes))))


def moments(source: Source, split: str) -> Sample:
    """Return the standard deviations of the DFL distributions; an angle has none, and gets that of any angle."""
    return source.sample(split, source.plain(split).matches.sigma)


Method = Callable[[Source, str], Sample]

OURS: dict[str, Method] = {
    "Gaussian branch": lambda source, split: source.predicted(split, "gaussian", "hard"),
    "Gaussian branch, soft + vote": lambda source, split: source.predicted(split, "gaussian", "soft + vote"),
}

ALTERNATIVES: dict[str, Method] = {
    "DFL moments": moments,
    "DFL moments, soft + vote": lambda source, split: source.predicted(split, "dfl", "soft + vote"),
    "TTA": lambda source, split: source.spread_of("tta", split),
    "TTA, mean box": lambda source, split: source.spread_of("tta", split, mean=True),
    "MC-dropout": lambda source, split: source.spread_of("dropout", split),
    "ensemble": lambda source, split: source.spread_of("ensemble", split),
    "ensemble, mean box": lambda source, split: source.spread_of("ensemble", split, mean=True),
    "constant": constant,
    "share of the side": share_of_side,
}

OF_MOMENTS = ("DFL moments", "DFL moments, soft + vote")
"""Methods that a head without DFL does not have."""

FITTED = ("constant", "share of the side")
"""Methods that are nothing before they are scaled."""

ONE_PASS = (*OF_MOMENTS, *FITTED)
"""Alternatives that need no pass but the plain one."""

METHODS: dict[str, dict[str, Method]] = {
    "gaussian": OURS,
    "uncert": {**OURS, **ALTERNATIVES},
    "border": {**OURS, **{name: ALTERNATIVES[name] for name in ONE_PASS}},
    "light": {**OURS, **ALTERNATIVES},
    "stock": ALTERNATIVES,
}

OF_OURS = ("uncert", "light", "gaussian", "border")
"""Rows with branches; the first one there has the weights of the stock models that are timed."""


def measured(grid: list[Cell], out: Path, rates: Sequence[float] = RATES) -> list[dict[str, Any]]:
    """Return the numbers of all methods and seeds, measuring those that the file lacks."""
    lines: list[dict[str, Any]] = []
    if out.is_file():
        with out.open(encoding="utf-8", newline="") as stream:
            lines = [{**line, "nll_angle": line.get("nll_angle", "nan")} for line in csv.DictReader(stream)]
    for cell in (cell for name in METHODS for cell in grid if cell.row == name):
        done = {(line["model"], line["method"], int(line["seed"])) for line in lines}
        missing = [name for name in METHODS[cell.row] if (cell.row, name, cell.seed) not in done]
        others = [c for c in grid if c.row == cell.row and c.seed != cell.seed]
        if not missing:
            continue
        source = Source(cell, others, rates)
        for name in missing:
            if name in OF_MOMENTS and not source.dfl:
                continue
            LOGGER.info(f"\n{cell.row}, seed {cell.seed}: {name}")
            method = METHODS[cell.row][name]
            split, raw = cell.evaluate.get("split", TUNE), name not in FITTED
            tuning = method(source, TUNE)
            found = crossed(tuning, raw=raw) if split == TUNE else measure(tuning, method(source, split), raw=raw)
            rate = source.rate if name == "MC-dropout" else ""
            key = {"model": cell.row, "method": name, "seed": cell.seed, "rate": rate}
            lines += [{**key, "scaling": scaling, **row} for scaling, row in found.items()]
            write(out, [list(lines[0]), *(list(line.values()) for line in lines)])
    return lines


def table(lines: list[dict[str, Any]], cost: Mapping[str, float]) -> list[list[str]]:
    """Return a row for each model and method: mean and standard deviation over the seeds."""
    values: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = {}
    for line in lines:
        of_method = values.setdefault((line["model"], line["method"]), {})
        for key in ("nll", "nll_angle", "calibration_error", *COVERAGE, "ause", "spearman", "sharpness"):
            of_method.setdefault((line["scaling"], key), []).append(float(line[key]))
    head = ["sigma from", "NLL", "NLL T", "NLL T, floor", "cal. error", "cal. error T"]
    head += [f"in {key[-2:]} %" for key in COVERAGE] + ["AUSE", "Spearman", "sigma T", "angle NLL T", "cost"]
    rows = [head]
    for model, method in sorted(values, key=[(row, name) for row in METHODS for name in METHODS[row]].index):
        found = values[model, method]
        cell = partial(_cell, found)
        row = [f"{model}: {method}", *(cell(scaling, "nll") for scaling in ("raw", "T", "T, floor"))]
        row += [cell(scaling, "calibration_error") for scaling in ("raw", "T")]
        row += [" / ".join(_cell(found, scaling, key, short=True) for scaling in ("raw", "T")) for key in COVERAGE]
        row += [cell("T", key) for key in ("ause", "spearman", "sharpness", "nll_angle")]
        kinds = (row[0], method, method.split(",")[0])
        rows.append([*row, f"{next((cost[kind] for kind in kinds if kind in cost), 1):.2f}"])
    return rows


def _cell(found: Mapping[tuple[str, str], list[float]], scaling: str, key: str, *, short: bool = False) -> str:
    values = found.get((scaling, key), [np.nan])
    if short:
        return f"{np.mean(values):.2f}" if np.isfinite(values).all() else "-"
    return mean_and_deviation(key, values)


def main(grid_file: str, runs: str, *words: str) -> None:
    """Measure whatever is missing and print the table."""
    out_file = next((word for word in words if "=" not in word), "")
    rates = [float(rate) for word in words if word.startswith("rates=") for rate in word[6:].split(",")] or RATES
    file = Path(grid_file)
    content = read_grid(file, {})
    folder = Path(runs) / file.stem
    out = Path(out_file) if out_file else folder / "alternatives.csv"
    grid = [cell for cell in cells(content, folder, {}) if cell.row in METHODS]
    ours = {row: [trained(cell) for cell in grid if cell.row == row] for row in OF_OURS}
    if not any(ours.values()) or not any(cell.row == "stock" for cell in grid):
        sys.exit(f"{file} has no row stock and one of {', '.join(OF_OURS)}, which are compared here")
    if not all({"hard", "soft + vote"} <= cell.rules.keys() for cell in grid if cell.row != "stock"):
        sys.exit(f"{file} has no rules hard and soft + vote, which are read here")
    lines = measured(grid, out, rates)
    stock = next(cell for cell in grid if cell.row == "stock")
    known = {row: files for row, files in ours.items() if files}
    times = costs(out.with_name(f"{out.stem}-cost.csv"), known, {"split": TUNE, **stock.evaluate})
    for rows in (table(lines, times), [["work", "cost"], *([name, f"{ratio:.3f}"] for name, ratio in times.items())]):
        rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        print("\n".join(f"| {' | '.join(row)} |" for row in rows), end="\n\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
