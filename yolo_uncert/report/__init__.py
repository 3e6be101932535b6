"""Plots of a validation, and the report that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from yolo_uncert.functional.records import Matches, Scored
from yolo_uncert.report.calibration import coverage_plot, sigma_error_plot, sparsification_plot
from yolo_uncert.report.groups import border_plot, size_plot
from yolo_uncert.report.html import Picture, Table, write_report
from yolo_uncert.report.scores import score_plot
from yolo_uncert.report.sheet import sheet_plot

__all__ = ["Picture", "Table", "plot_all", "write_report"]

PLOTS = {
    "coverage": (
        "Coverage",
        "Do intervals that should hold 90 % of the errors hold 90 %? Lines on the diagonal are calibrated; below it "
        "sigma is too small, above it too large; inside the grey band a gap may be chance.",
    ),
    "scores": (
        "Scores",
        "Of the detections with score 0.8, 80 % should be right: above the diagonal scores are too low, below it too "
        "high; bars are 95 % intervals. The lower plot counts the detections.",
    ),
    "sigma_error": (
        "Error against sigma",
        "Every coordinate of every matched box, darker where there are more (logarithmic scale); the orange points lie "
        "on the diagonal where boxes with this sigma are as wrong as it says.",
    ),
    "sparsification": (
        "Sparsification",
        "Boxes are dropped, the most uncertain first: the faster the blue line falls, and the closer it comes to the "
        "orange one, the better sigma tells wrong boxes from right ones; AUSE is the area between the two.",
    ),
    "size": (
        "By size",
        "Where the RMS error exceeds the RMS sigma, and the lower line 1, sigma is too small for boxes of that size.",
    ),
    "border": (
        "By distance to the border",
        "The same by distance to the nearest border of the image, where objects are cut off.",
    ),
    "worst": (
        "Where sigma fails",
        "The matched boxes that are furthest off in units of their own sigma, max |e| / sigma: often a wrong label, or "
        "an object that can be seen in two ways.",
    ),
    "best": (
        "Where the box is right",
        "The matched boxes with the smallest max |e| / sigma: a narrow band is knowledge, a wide one luck.",
    ),
}
"""Plots in the order of the report: title, and how to read it."""


def plot_all(matches: Matches, scored: Scored, folder: Path, names: Mapping[int, str]) -> list[Picture]:
    """Draw every plot of a report.

    Args:
        matches: Matched boxes; with none the plots are empty.
        scored: All detections.
        folder: Folder to write to; made if absent.
        names: Class names.

    Returns:
        The plots, in the order of the report.
    """
    draw = {
        "coverage": partial(coverage_plot, matches),
        "sigma_error": partial(sigma_error_plot, matches),
        "sparsification": partial(sparsification_plot, matches),
        "size": partial(size_plot, matches),
        "border": partial(border_plot, matches),
        "scores": partial(score_plot, scored),
        "worst": partial(sheet_plot, matches, names, worst=True),
        "best": partial(sheet_plot, matches, names, worst=False),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for name, (title, caption) in PLOTS.items():
        file = folder / f"{name}.png"
        draw[name](file=file)
        pictures.append(Picture(file, title, caption))
    return pictures
