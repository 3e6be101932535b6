"""Plots of sigma and error by what a box is like: its size, and its distance to the border of the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from yolo_uncert.functional.records import Floats, Integers, Matches
from yolo_uncert.functional.residuals import fit_temperature
from yolo_uncert.report.style import (
    BLUE,
    GREY,
    ORANGE,
    PLAIN,
    Part,
    canvas,
    hint,
    log_scale,
    note,
    parts,
    quantile_groups,
)

GROUPS, FEWEST = 8, 15
"""Most groups of a plot, and boxes that a group needs."""

NEAR = 5.0
"""Pixels up to which the axis of the distance to the border is linear, because many boxes touch the border."""


def size_plot(matches: Matches, file: Path) -> Figure:
    """Plot sigma and error against the size of the boxes, the root of their area.

    Points are root mean squares over groups of equally many boxes, bands the middle half of the values. The lower axes
    show the factor by which sigma is too small. An angle has its own axes.

    Args:
        matches: Matched boxes.
        file: Image to write.

    Returns:
        The figure, as written.
    """
    return _plot(matches, box_size(matches), "By size of the box", "√(width × height) (px)", file)


def border_plot(matches: Matches, file: Path) -> Figure:
    """Plot sigma and error against the distance to the nearest border of the image, as `size_plot` does.

    Args:
        matches: Matched boxes.
        file: Image to write.

    Returns:
        The figure, as written.
    """
    return _plot(matches, border_distance(matches), "By distance to the image border", "distance (px)", file)


def box_size(matches: Matches) -> Floats:
    """Return Array[N], the root of each box's area in pixels."""
    first, second = matches.boxes[:, :2], matches.boxes[:, 2:4]
    return np.sqrt(np.prod(second if matches.oriented else second - first, axis=1).clip(0))


def border_distance(matches: Matches) -> Floats:
    """Return Array[N], pixels between each box's outermost corner and the border; 0 for a box that reaches it."""
    low, high = matches.boxes[:, :2], matches.boxes[:, 2:4]
    if matches.oriented:
        cos, sin = np.abs(np.cos(matches.boxes[:, 4:])), np.abs(np.sin(matches.boxes[:, 4:]))
        reach = (high * cos + high[:, ::-1] * sin) / 2
        low, high = low - reach, low + reach
    size = matches.shapes.reshape(-1, 2)[matches.image][:, ::-1]
    return np.minimum(low, size - high).min(1).clip(0)


def _plot(matches: Matches, x: Floats, title: str, label: str, file: Path) -> Figure:
    split = parts(matches)
    groups = quantile_groups(x, GROUPS, FEWEST)
    centre = np.array([np.median(x[rows]) for rows in groups])
    with canvas(file, (0.4 + 5.2 * len(split), 5.6)) as figure:
        grid = figure.subplots(2, len(split), squeeze=False, sharex=True, height_ratios=(2, 1))
        for (upper, lower), part in zip(grid.T, split, strict=True):
            upper.set_ylabel(f"σ and error ({part.unit})")
            upper.set_title(f"{title}: {', '.join(part.names)}")
            lower.set(xlabel=label, ylabel="RMS of error / σ")
            lower.axhline(1, color=GREY, ls="--", lw=1.2)
            if groups:
                _values(upper, centre, part, groups)
                _ratio(lower, centre, part, groups)
                _scale(lower, centre)
            else:
                note(upper)
    return figure


def _values(axes: Axes, x: Floats, part: Part, groups: list[Integers]) -> None:
    """Draw quartiles of sigma and of the absolute error, and their root mean squares, group by group."""
    for values, colour, marker, name in ((part.sigma, BLUE, "o", "σ"), (np.abs(part.residual), ORANGE, "s", "error")):
        low, high = np.array([np.quantile(values[rows], (0.25, 0.75)) for rows in groups]).T
        rms = [float(np.sqrt(np.mean(values[rows] ** 2))) for rows in groups]
        axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0, label=f"middle half of {name}")
        axes.plot(x, rms, color=colour, marker=marker, label=f"RMS {name}")
    axes.set_ylim(0, 1.28 * axes.get_ylim()[1])
    axes.legend(loc="upper left", ncols=2)
    hint(axes, 0.99, 0.03, f"boxes per point: {len(groups[0]):,}", ha="right")


def _ratio(axes: Axes, x: Floats, part: Part, groups: list[Integers]) -> None:
    """Draw the factor by which sigma is too small, group by group."""
    ratio = [fit_temperature(part.residual[rows], part.sigma[rows]) for rows in groups]
    axes.plot(x, ratio, color=BLUE, marker="o")
    axes.set_ylim(min(0.5, *ratio) / 1.2, max(2, *ratio) * 1.2)
    log_scale(axes, "y")
    hint(axes, 0.99, 0.96, "overconfident", ha="right", va="top")
    hint(axes, 0.99, 0.04, "underconfident", ha="right")


def _scale(axes: Axes, x: Floats) -> None:
    """Make the axis logarithmic, linear near 0 if there are points."""
    low, high = float(x.min()), float(x.max())
    if low > NEAR:
        axes.set_xlim(low / 1.15, high * 1.15)
        log_scale(axes, "x")
        return
    axes.set_xscale("symlog", linthresh=NEAR)
    axes.set_xlim(-0.05 * NEAR, high * 1.15 + 1)
    axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=NEAR, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(PLAIN)
