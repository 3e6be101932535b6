"""Figures for reports: contact sheets of predictions and plots of predicted against known noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_uncert.engine.postprocess import scale_fields
from yolo_uncert.engine.results import UncertResults

Image = NDArray[np.uint8]

GAP = 6
"""Pixels between the images of a contact sheet."""

COLOURS = ("#4c9be8", "#f2a93b", "#57b894")


def enlarge(result: UncertResults, factor: float) -> UncertResults:
    """Scale a result's image, boxes and standard deviations, so that small images are drawn with fine lines.

    Args:
        result: Predictions of one image.
        factor: Pixels of the new image per pixel of the old one.
    """
    image = cv2.resize(result.orig_img, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    found: Any = result.boxes if result.obb is None else result.obb
    data = found.data.clone()
    data[:, :4] *= factor
    boxes, obb = (data, None) if result.obb is None else (None, data)
    fields = scale_fields(found.fields, 1 / factor)
    return UncertResults(image, result.path, result.names, boxes, obb=obb, fields=fields)


def contact_sheet(images: Sequence[Image], columns: int = 3) -> Image:
    """Lay images out on a white grid.

    Args:
        images: BGR images of any sizes.
        columns: Images per row.

    Returns:
        One BGR image; a white pixel if there are no images.
    """
    if not images:
        return np.full((1, 1, 3), 255, np.uint8)
    height, width = (max(x.shape[axis] for x in images) + GAP for axis in (0, 1))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height + GAP, min(columns, len(images)) * width + GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = GAP + i // columns * height, GAP + i % columns * width
        sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
    return sheet


def noise_plot(known: Sequence[float], predicted: Sequence[float], size: Sequence[float], file: Path) -> None:
    """Plot predicted standard deviations against the known label noise, coloured by object size.

    Args:
        known: True std per object, pixels.
        predicted: Predicted std per object, pixels.
        size: Object size, pixels.
        file: Image to write.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, axes = plt.subplots(figsize=(5.2, 4.6), dpi=130)
    cuts = np.quantile(size, [1 / 3, 2 / 3]) if len(size) else [0.0, 0.0]
    tercile = np.digitize(size, cuts)
    for i, name in enumerate(("small", "medium", "large")):
        mine = tercile == i
        axes.scatter(
            np.asarray(known)[mine],
            np.asarray(predicted)[mine],
            s=14,
            alpha=0.65,
            color=COLOURS[i],
            label=f"{name} objects",
            lw=0,
        )
    both = [*known, *predicted] or [1.0]
    limits = [0.8 * min(both), 1.25 * max(both)]
    axes.plot(limits, limits, color="0.4", lw=1, ls="--", label="predicted = known")
    axes.set(xlim=limits, ylim=limits, xscale="log", yscale="log")
    axes.set(xlabel="known label noise σ (px)", ylabel="predicted σ (px)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25, which="both", lw=0.5)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)
