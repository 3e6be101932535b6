"""Plots of how well sigma describes the errors: coverage, sparsification, error against sigma."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy.stats import binom

from yolo_uncert.functional.records import Floats, Matches
from yolo_uncert.functional.reliability import LEVELS, calibration_error, coverage
from yolo_uncert.functional.sparsification import ause, sparsification
from yolo_uncert.report.style import (
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    ORANGE,
    canvas,
    hint,
    log_scale,
    note,
    parts,
    quantile_groups,
)

CHANCE = 0.95
"""Probability with which a calibrated sigma stays inside the band of chance."""

GROUPS, FEWEST = 12, 25
"""Most groups of equal sigma, and values that a group needs."""

DENSITY = ListedColormap(colormaps["Blues"](np.linspace(0.15, 1, 256)))
"""From a blue that can be told from the background."""

DENSE = 400
"""Points above which a density is drawn instead of them."""


def coverage_plot(matches: Matches, file: Path) -> Figure:
    """Plot which share of the errors lies inside central intervals, against the share that sigma promises.

    The lower axes show the difference of the two. The band holds 95 % of the results of a calibrated sigma, the boxes
    being independent.

    Args:
        matches: Matched boxes; all coordinates together, because a share has no unit.
        file: Image to write.

    Returns:
        The figure, as written.
    """
    with canvas(file, (5.6, 6.6)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        upper.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1.2, zorder=1)
        lower.axhline(0, color=GREY, ls="--", lw=1.2, zorder=1)
        if len(matches):
            _chance_band(upper, lower, len(matches))
            for i, name, residual, sigma in _coordinates(matches):
                observed, error = coverage(residual, sigma, LEVELS)[:, 0], calibration_error(residual, sigma)[0]
                style = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 4, "lw": 1.4, "label": name}
                upper.plot(LEVELS, observed, **{**style, "label": f"{name}   calibration error {error:.3f}"})
                lower.plot(LEVELS, observed - LEVELS, **style)
            upper.legend(loc="upper left")
        else:
            note(upper)
        hint(upper, 0.98, 0.05, "below the diagonal:\nsigma too small (overconfident)", ha="right")
        upper.set(xlim=(0, 1), ylim=(0, 1.01), ylabel="share of errors inside")
        upper.set_title("Coverage of central intervals")
        lower.set(xlabel="nominal level of the interval", ylabel="observed − nominal")
        largest = max(0.05, *(1.1 * np.abs(np.asarray(line.get_ydata(), dtype=float)).max() for line in lower.lines))
        lower.set_ylim(-largest, largest)
        for axis in (upper.xaxis, upper.yaxis, lower.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def sparsification_plot(matches: Matches, file: Path) -> Figure:
    """Plot the mean error of the boxes that are left when the most uncertain ones are dropped, relative to that of all.

    The error and the sigma of a box are means over its coordinates, as in ``SigmaSummary.ause``; an angle has its own
    axes.

    Args:
        matches: Matched boxes.
        file: Image to write.

    Returns:
        The figure, as written.
    """
    split = parts(matches)
    with canvas(file, (0.4 + 5.2 * len(split), 4.4)) as figure:
        for axes, part in zip(figure.subplots(1, len(split), squeeze=False)[0], split, strict=True):
            axes.set(xlim=(0, 1), xlabel="share of boxes dropped", ylabel="mean error of the rest / of all")
            axes.set_title(f"Sparsification: {part.title}")
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            if not len(matches):
                note(axes)
                continue
            error, sigma = np.abs(part.residual).mean(1), part.sigma.mean(1)
            curve = sparsification(error, sigma)
            axes.axhline(1, color=GREY, ls="--", lw=1.2, label="random order")
            axes.fill_between(curve.fraction, curve.oracle, curve.by_sigma, color=BLUE, alpha=0.12, lw=0)
            label = f"largest σ first (AUSE {ause(error, sigma):.3f})"
            axes.plot(curve.fraction, curve.by_sigma, color=BLUE, marker="o", label=label)
            axes.plot(curve.fraction, curve.oracle, color=ORANGE, marker="s", label="largest error first (oracle)")
            axes.set_ylim(bottom=0)
            axes.legend(loc="lower left")
    return figure


def sigma_error_plot(matches: Matches, file: Path) -> Figure:
    """Plot absolute errors against sigma on logarithmic axes, with the RMS error of boxes of about equal sigma.

    Every coordinate of a box is one point; an angle has its own axes.

    Args:
        matches: Matched boxes.
        file: Image to write.

    Returns:
        The figure, as written.
    """
    split = parts(matches)
    with canvas(file, (0.4 + 5.2 * len(split), 4.8)) as figure:
        for axes, part in zip(figure.subplots(1, len(split), squeeze=False)[0], split, strict=True):
            axes.set(xlabel=f"predicted σ ({part.unit})", ylabel=f"absolute error ({part.unit})")
            axes.set_title(f"Error against sigma: {part.title}")
            if len(matches):
                _errors_by_sigma(axes, part.sigma.ravel(), np.abs(part.residual).ravel())
            else:
                note(axes)
    return figure


def _errors_by_sigma(axes: Axes, sigma: Floats, error: Floats) -> None:
    """Draw one coordinate per point; what lies beyond the axes, an error of 0 above all, is drawn at their edge."""
    groups = quantile_groups(sigma, GROUPS, FEWEST)
    rms = np.array([[np.sqrt(np.mean(values[rows] ** 2)) for rows in groups] for values in (sigma, error)])
    x_range, y_range = _limits(sigma, rms[0]), _limits(error, rms[1])
    x, y = np.clip(sigma, *x_range), np.clip(error, *y_range)
    if len(sigma) > DENSE:
        extent = (*np.log10(x_range), *np.log10(y_range))
        density: dict[str, Any] = {"gridsize": (36, 24), "extent": extent, "bins": "log", "mincnt": 1}
        axes.hexbin(x, y, xscale="log", yscale="log", cmap=DENSITY, lw=0, **density)
    else:
        axes.scatter(x, y, s=10, color=BLUE, alpha=0.4, lw=0)
    axes.axline((1, 1), (2, 2), color=GREY, ls="--", lw=1.2, label="error = σ")
    style: dict[str, Any] = {"color": ORANGE, "marker": "o", "markersize": 7, "mec": "white", "mew": 0.8}
    axes.plot(*rms, **style, label=f"RMS error, each of {len(groups[0]):,} values")
    axes.set(xlim=x_range, ylim=y_range)
    log_scale(axes, "x")
    log_scale(axes, "y")
    axes.legend(loc="lower right", frameon=True, framealpha=0.85, edgecolor="none")


def _limits(values: Floats, means: Floats) -> tuple[float, float]:
    """Return limits for a logarithmic axis, the smallest percent left out."""
    positive = values[values > 0]
    if not len(positive):
        return 0.1, 10.0
    return min(np.quantile(positive, 0.01), means[means > 0].min()) / 1.4, positive.max() * 1.4


def _chance_band(upper: Axes, lower: Axes, count: int) -> None:
    """Shade where the share of a calibrated sigma is expected."""
    level = np.linspace(0, 1, 101)
    low, high = np.array(binom.interval(CHANCE, count, level)) / count
    upper.fill_between(
        level, low, high, color="#d9d9d9", lw=0, label=f"{CHANCE:.0%} range if calibrated (n = {count:,})"
    )
    lower.fill_between(level, low - level, high - level, color="#d9d9d9", lw=0)


def _coordinates(matches: Matches) -> list[tuple[int, str, Floats, Floats]]:
    """Return number, name, residual and sigma, Array[N, 1], of every coordinate."""
    columns = [
        (name, part.residual[:, i : i + 1], part.sigma[:, i : i + 1])
        for part in parts(matches)
        for i, name in enumerate(part.names)
    ]
    return [(i, *column) for i, column in enumerate(columns)]
