"""How much is left to gain? ``python experiments/ceiling.py GRID.yaml RUNS [ROW ...]``.

GRID and RUNS are those of ``experiments/run.py``, which has trained the rows with several seeds, for horizontal boxes.
For each row:

- how far the errors of separately trained models on the same objects agree. What they agree on, mistakes of the labels
  among it, no mean of such models takes away: of the mean of infinitely many, each as good as one, the root mean square
  error is ``sqrt(correlation)`` of one's;
- the AP that all seeds reach together, with every rule of the row: the candidates of all models are suppressed, and
  vote, as if they were one model's. It costs as many passes as there are seeds.

Prints both tables.
"""

from __future__ import annotations

import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from gains import COLUMNS
from grid import Cell, cells, read_grid
from passes import Array, joined, paired_boxes, validate
from run import checkpoint, numbers, spread

from yolo_uncert import YOLO


def agreement(base: Any, other: Any) -> tuple[float, int]:
    """Return the correlation of two models' errors, over the sides of what both have found, and the number of objects.

    Args:
        base: Metrics of a model's validation.
        other: Metrics of another one on the same images.
    """
    rows = base.scored.matched
    moved = paired_boxes(base, other)[rows] - base.scored.boxes[rows]
    both = np.isfinite(moved).all(1)
    residual: Array = base.matches.residual[both]
    return float(np.corrcoef(residual.ravel(), (residual - moved[both]).ravel())[0, 1]), int(both.sum())


def agreements(facades: list[YOLO], options: dict[str, Any]) -> list[str]:
    """Return the first table's columns of a row of models, over all pairs."""
    plain = [validate(facade, **options, sigma_source="none") for facade in facades]
    found = [agreement(base, other) for base, other in permutations(plain, 2)]
    correlation = [value for value, _ in found]
    left = [float(np.sqrt(max(value, 0))) for value in correlation]
    return [spread("correlation", correlation), spread("left", left), str(round(np.mean([n for _, n in found])))]


def together(facades: list[YOLO], options: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of all models' candidates under one suppression."""
    first, *others = (facade.model for facade in facades)
    if not options.get("var_vote"):
        options = {**options, "sigma_source": "none"}  # a stock model is given a wider head for its sigma, alone
    with joined(first, others):
        return numbers(validate(facades[0], **options))


def table(rows: dict[str, list[Cell]]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the tables of agreement and of AP, by row (and rule)."""
    shared = [["model", "correlation of the errors", "left of the RMS error", "objects"]]
    reached = [["model", "rule", "models", *COLUMNS]]
    for name, found in rows.items():
        facades = [YOLO(checkpoint(cell.folder)) for cell in found]
        shared.append([name, *agreements(facades, found[0].evaluate)])
        for rule, options in found[0].rules.items():
            options = {**found[0].evaluate, **options}
            single = [numbers(validate(facade, **options)) for facade in facades]
            all_of = together(facades, options)
            reached.append([name, rule, "one", *(spread(c, [row[c] for row in single]) for c in COLUMNS)])
            reached.append([name, rule, f"{len(facades)} together", *(spread(c, [all_of[c]]) for c in COLUMNS)])
    return shared, reached


def main(grid_file: str, runs: str, *names: str) -> None:
    """Look at the rows of a grid, or at those that are named, and print the tables."""
    file = Path(grid_file)
    rows: dict[str, list[Cell]] = {}
    grid = read_grid(file, {})
    if unknown := set(names) - grid["rows"].keys():
        sys.exit(f"{file} has no row {', '.join(sorted(unknown))}. It has: {', '.join(grid['rows'])}")
    for cell in cells(grid, Path(runs) / file.stem, {}):
        if not names or cell.row in names:
            rows.setdefault(cell.row, []).append(cell)
    for row in (cell for found in rows.values() for cell in found):
        if not checkpoint(row.folder).is_file():
            sys.exit(f"{row.folder} holds no checkpoint: train the grid with experiments/run.py first")
    if any(len(found) < 2 for found in rows.values()):
        sys.exit(f"{file} has one seed: models are compared with those of other seeds")
    if any(YOLO(checkpoint(found[0].folder)).task != "detect" for found in rows.values()):
        sys.exit(f"{file} trains no detectors of horizontal boxes, the only ones that this compares")
    for lines in table(rows):
        lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines), end="\n\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
