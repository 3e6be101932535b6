"""The two layers of a result: boxes, and bands that show where their sides may lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.evaluation import corners
from yolo_uncert.scenes.geo import lengths, metres_per_pixel
from yolo_uncert.scenes.merge import CUT
from yolo_uncert.scenes.raster import Georeference

Floats = npt.NDArray[np.float64]

SIGMAS = 2.0
"""Standard deviations by which a band reaches to either side: 95 percent of Gaussian errors."""

AXIS = {"x1": 0, "x2": 0, "y1": 1, "y2": 1, "w": 0, "h": 1}
"""Direction in which each coordinate of a box is measured: along the box's first axis or its second one."""

UNITS = "Standard deviations are in metres (std_..._m), pixels of the scene (_px) or radians (_rad)."

DESCRIPTIONS = {
    "boxes": f"Detected boxes, number 1 is that with the best score. {UNITS}",
    "sigma": f"Bands between the sides of each box moved inwards and outwards by 'sigmas' standard deviations. {UNITS}",
}


@dataclass(frozen=True)
class Layer:
    """Polygons with attributes.

    Attributes:
        name: ``boxes`` or ``sigma``.
        outer: Corners ``Array[N, 4, 2]`` in pixels, in order along the boundary.
        inner: Corners of the hole in each, NaN where there is none; None: no polygon has one.
        columns: Attributes by name, a list of N plain values each, None for what is not known.
    """

    name: str
    outer: Floats
    inner: Floats | None
    columns: dict[str, list[Any]]

    @property
    def description(self) -> str:
        """What the layer shows, for those who open it without its documentation."""
        return DESCRIPTIONS[self.name]


def outlines(boxes: UncertBoxes | UncertOBB) -> Floats:
    """Return the corners of boxes, ``Array[N, 4, 2]`` in pixels and in order along the boundary."""
    return corners(oriented(boxes))


def oriented(boxes: UncertBoxes | UncertOBB) -> Floats:
    """Return ``Array[N, 5]`` in ``(x, y, w, h, angle)`` format, pixels and radians; horizontal boxes have angle 0."""
    data: Any = np.asarray(boxes.data, np.float64)
    if isinstance(boxes, UncertOBB):
        return np.asarray(data[:, :5])
    low, high = data[:, :2], data[:, 2:4]
    return np.concatenate(((low + high) / 2, high - low, np.zeros((len(data), 1))), 1)


def bands(boxes: UncertBoxes | UncertOBB) -> tuple[Floats, Floats]:
    """Return boxes whose sides are moved outwards and inwards by `SIGMAS` standard deviations.

    Between the two lies each side, by itself, with the probability of that many standard deviations. An oriented box
    keeps its angle, whose standard deviation is not in them.

    Args:
        boxes: Boxes with ``std``, as arrays.

    Returns:
        Corners ``Array[N, 4, 2]`` in pixels of the larger and of the smaller boxes; NaN where nothing is left of those.
    """
    sides = np.asarray(boxes.side_std, np.float64) * SIGMAS
    larger, smaller = (_with_sides_moved(oriented(boxes), reach) for reach in (sides, -sides))
    smaller[(smaller[:, 2:4] <= 0).any(1)] = np.nan
    return corners(larger), corners(smaller)


def _with_sides_moved(xywhr: Floats, reach: Floats) -> Floats:
    """Move the left, top, right and bottom side, ``Array[N, 4]``, outwards along the axes of each box."""
    shift = (reach[:, 2:] - reach[:, :2]) / 2
    cos, sin = np.cos(xywhr[:, 4]), np.sin(xywhr[:, 4])
    moved = xywhr.copy()
    moved[:, 0] += shift[:, 0] * cos - shift[:, 1] * sin
    moved[:, 1] += shift[:, 0] * sin + shift[:, 1] * cos
    moved[:, 2:4] += reach[:, :2] + reach[:, 2:]
    return moved


def box_layer(boxes: UncertBoxes | UncertOBB, names: dict[int, str], geo: Georeference | None) -> Layer:
    """Return the boxes.

    Args:
        boxes: Boxes in pixels, as arrays.
        names: Class names.
        geo: Where the scene lies, if it says so: without it there are no metres.
    """
    return Layer("boxes", outlines(boxes), None, {**_labels(boxes, names), **_deviations(boxes, geo)})


def sigma_layer(boxes: UncertBoxes | UncertOBB, names: dict[int, str], geo: Georeference | None) -> Layer | None:
    """Return the bands around the sides of the boxes; None if the model predicts no standard deviations.

    Args:
        boxes: Boxes in pixels, as arrays; those whose standard deviations are not finite have no band.
        names: Class names.
        geo: Where the scene lies, if it says so.
    """
    if boxes.std is None:
        return None
    known = np.isfinite(np.asarray(boxes.side_std)).all(1)
    chosen = np.flatnonzero(known)
    outer, inner = bands(boxes)
    spread = {name: values for name, values in _deviations(boxes, geo).items() if name in ("std_px", "std_m")}
    columns = {**_labels(boxes, names), "sigmas": [SIGMAS] * len(boxes), **spread}
    columns.pop("cut")
    picked = {name: [values[row] for row in chosen] for name, values in columns.items()}
    return Layer("sigma", outer[chosen], inner[chosen], picked)


def _labels(boxes: UncertBoxes | UncertOBB, names: dict[int, str]) -> dict[str, list[Any]]:
    data: Any = boxes.data
    return {
        "box": list(range(1, len(data) + 1)),
        "class": data[:, -1].astype(int).tolist(),
        "name": [names[int(index)] for index in data[:, -1]],
        "score": np.round(data[:, -2].astype(np.float64), 5).tolist(),
        "cut": (np.asarray(boxes.fields.get(CUT, np.zeros(len(data)))) > 0).tolist(),
    }


def _deviations(boxes: UncertBoxes | UncertOBB, geo: Georeference | None) -> dict[str, list[Any]]:
    """Return the standard deviations in pixels and, where the scene says where it lies, in metres."""
    if boxes.std is None:
        return {}
    std, sides, places = np.asarray(boxes.std), np.asarray(boxes.side_std), oriented(boxes)
    columns = {"std_px": _plain(sides.mean(1))}
    along = level = None
    if geo is not None:
        matrices = metres_per_pixel(places[:, :2], geo)
        along, level = lengths(matrices, places[:, 4]), lengths(matrices, np.zeros(len(places)))
        columns["std_m"] = _plain((sides * along[:, [0, 1, 0, 1]]).mean(1))
    for index, coordinate in enumerate(boxes.coordinates):
        if coordinate == "angle":
            columns["std_angle_rad"] = _plain(std[:, index])
            continue
        columns[f"std_{coordinate}_px"] = _plain(std[:, index])
        scale = along if coordinate in AXIS else level  # the centre of an oriented box has the image's axes
        if scale is not None:
            axis = AXIS.get(coordinate, int(coordinate == "y"))
            columns[f"std_{coordinate}_m"] = _plain(std[:, index] * scale[:, axis])
    return columns


def _plain(values: Any) -> list[float | None]:
    """Return numbers with five digits behind the point, None where they are not finite."""
    return [round(value, 5) if np.isfinite(value) else None for value in np.asarray(values, np.float64).tolist()]
