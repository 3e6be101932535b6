"""Draw gains over a baseline: ``python experiments/gains.py IMAGE FOLDER [FOLDER ...] ROW:RULE ROW:RULE [...]``.

FOLDER is what `run.py` wrote for a grid; there is one panel for each. The first ROW:RULE is the baseline
(``stock:hard``), the others are bars: the mean over seeds of the difference of AP to the baseline of the same seed, and
its standard deviation. Also prints the table of these numbers.
"""

from __future__ import annotations

import json
import re
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from yolo_uncert.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, canvas

COLUMNS = ("AP50", "AP75", "AP85", "AP90", "AP")
COLOURS = (GREY, ORANGE, GREEN, BLUE, PURPLE, RED)


def numbers(folder: Path, name: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return AP in percent by column, ``Array[C]``, for each seed that a ROW:RULE of a grid has been evaluated with.

    Raises:
        ValueError: The grid has no such row or rule.
    """
    row, _, rule = name.partition(":")
    found = {}
    for file in sorted(folder.glob("*/results.json")):
        if not (seed := re.fullmatch(rf"{re.escape(row)}-s(\d+)", file.parent.name)):
            continue
        results = json.loads(file.read_text(encoding="utf-8"))
        if rule in results:
            found[seed[1]] = np.array([results[rule][column] for column in COLUMNS])
    if not found:
        raise ValueError(f"{folder} has no results of row {row!r} with rule {rule!r}")
    return found


def gains(folder: Path, baseline: str, name: str) -> npt.NDArray[np.float64]:
    """Return the differences to the baseline by seed and column, ``Array[S, C]``, of the seeds that both have.

    Raises:
        ValueError: They have no seed in common.
    """
    base, ours = numbers(folder, baseline), numbers(folder, name)
    if not base.keys() & ours.keys():
        raise ValueError(f"{folder}: {baseline} and {name} have no seed in common")
    return np.array([ours[seed] - base[seed] for seed in ours if seed in base])


def panel(axes: Axes, folder: Path, baseline: str, compared: list[str]) -> None:
    """Draw the bars of one grid and print its table."""
    width = 0.8 / len(compared)
    print(f"\n{folder.name}: difference to {baseline}\n| | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for i, (name, colour) in enumerate(zip(compared, cycle(COLOURS), strict=False)):
        difference = gains(folder, baseline, name)
        mean, std = difference.mean(0), difference.std(0, ddof=1) if len(difference) > 1 else None
        place = np.arange(len(COLUMNS)) + (i - (len(compared) - 1) / 2) * width
        errors = {"elinewidth": 1, "ecolor": "#555555", "capsize": 2}
        axes.bar(place, mean, width, yerr=std, color=colour, error_kw=errors, label=name.replace(":", ", "))
        spread = [""] * len(mean) if std is None else [f" ± {value:.1f}" for value in std]
        print(f"| {name} | {' | '.join(f'{m:+.1f}{s}' for m, s in zip(mean, spread, strict=True))} |")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(COLUMNS)), COLUMNS)
    several = f": mean ± std, {len(difference)} seeds" if len(difference) > 1 else ", 1 seed"
    axes.set_title(f"{folder.name}{several}")


def main(image: str, *words: str) -> None:
    """Draw one panel for each folder."""
    folders = [Path(word) for word in words if ":" not in word]
    names = [word for word in words if ":" in word]
    if not folders or len(names) < 2:
        sys.exit(__doc__)
    baseline, *compared = names
    with canvas(Path(image), (4.2 * len(folders), 3.6)) as figure:
        for axes, folder in zip(figure.subplots(1, len(folders), squeeze=False, sharey=True)[0], folders, strict=True):
            panel(axes, folder, baseline, compared)
        figure.axes[0].set_ylabel(f"points of AP over {baseline.replace(':', ', ')}")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(compared))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
