"""What all plots of a report share: look, empty plots, and which coordinates are drawn together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.functional.boxes import UNKNOWN_ANGLE_STD
from yolo_uncert.functional.records import Floats, Integers, Matches

BLUE, ORANGE, GREEN, PURPLE, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"
"""Colours of Okabe and Ito, told apart by colour-blind readers."""

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED)
MARKERS = ("o", "s", "^", "D", "v")
GREY = "#6b6b6b"
NO_BOXES = "no matched boxes"

PLAIN = "{x:,g}"
"""Format of ticks: plain numbers, no powers of ten."""

LOOK: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    "savefig.dpi": 160,
}


@dataclass(frozen=True)
class Part:
    """Coordinates of one unit: those of the box in pixels, or the angle in rad.

    Attributes:
        names: Names of the C coordinates.
        unit: Their unit.
        residual: Array[N, C], object minus detection.
        sigma: Array[N, C], predicted standard deviations.
    """

    names: tuple[str, ...]
    unit: str
    residual: Floats
    sigma: Floats

    @property
    def title(self) -> str:
        """Names and unit."""
        return f"{', '.join(self.names)} ({self.unit})"


def parts(matches: Matches) -> list[Part]:
    """Split coordinates by unit; an angle of which the model knows nothing is left out."""
    names = (UncertOBB if matches.oriented else UncertBoxes).coordinates
    split = [Part(names[:4], "px", matches.residual[:, :4], matches.sigma[:, :4])]
    known = matches.oriented and not np.allclose(matches.sigma[:, 4:], UNKNOWN_ANGLE_STD)
    if known or (matches.oriented and not len(matches)):
        split.append(Part(names[4:], "rad", matches.residual[:, 4:], matches.sigma[:, 4:]))
    return split


@contextmanager
def canvas(file: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Give a figure to draw on, and write it as an image when all is drawn.

    The figure is unknown to pyplot, so that nothing has to be closed and no window system is needed.

    Args:
        file: Image to write; the ending picks the format.
        size: Width and height in inches, 160 pixels each.
    """
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        figure.savefig(file)


def note(axes: Axes, text: str = NO_BOXES) -> None:
    """Write into empty axes why they are empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=11)


def hint(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Write a remark in small grey letters; x and y are shares of the axes."""
    axes.text(x, y, text, transform=axes.transAxes, color=GREY, fontsize=8.5, **options)


def log_scale(axes: Axes, which: str) -> None:
    """Make an axis logarithmic, with plain numbers, the fewer of them the more decades there are.

    Args:
        axes: Axes whose limits are set already, above 0.
        which: ``x`` or ``y``.
    """
    axis = getattr(axes, f"{which}axis")
    low, high = getattr(axes, f"get_{which}lim")()
    axes.set(**{f"{which}scale": "log"})
    axes.set(**{f"{which}lim": (low, high)})
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 2.5 else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(PLAIN)


def quantile_groups(x: Floats, most: int, least: int) -> list[Integers]:
    """Sort rows by a number and cut them into groups of about equal size.

    Args:
        x: Array[N].
        most: Largest number of groups.
        least: Rows that a group needs; with few rows there are fewer groups, but one unless there are no rows.

    Returns:
        Row indices of each group, by ascending x.
    """
    if not len(x):
        return []
    count = min(max(len(x) // least, 1), most)
    return list(np.array_split(np.argsort(x, kind="stable"), count))
