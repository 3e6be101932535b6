"""Placement of objects under a limit on occlusion."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from yolo_uncert.synthetic.shapes import SHAPES, corners, fill, outline
from yolo_uncert.synthetic.spec import MARGIN_SIGMAS, SceneSpec, Task

_ATTEMPTS = 30


@dataclass
class Placement:
    """An object with its place in the image.

    Attributes:
        cls: Class index.
        box: ``(cx, cy, w, h, heading)``, pixels and radians, ``w >= h``; the shape points along the heading, which lies
            in [0, 2 pi).
        mask: Pixels that the sharp object covers, `bool[H, W]`.
        visible: The part of `mask` that no later object covers.
    """

    cls: int
    box: tuple[float, float, float, float, float]
    mask: NDArray[np.bool_] = field(repr=False)
    visible: NDArray[np.bool_] = field(repr=False)

    @property
    def hidden(self) -> float:
        """Fraction of the object's area that later objects cover."""
        return 1.0 - np.count_nonzero(self.visible) / np.count_nonzero(self.mask)


def place_objects(rng: np.random.Generator, spec: SceneSpec, task: Task) -> list[Placement]:
    """Draw classes, sizes, headings and positions.

    Headings are multiples of 90 degrees for "detect" and uniform for "obb". Position is uniform over all places at
    which even the strongest label noise keeps a label inside the image; noise levels play no part here, which is what
    makes them independent of the geometry.

    Args:
        rng: Source of randomness.
        spec: Scene options.
        task: "detect" or "obb".

    Returns:
        Objects in drawing order, later ones on top.
    """
    placed: list[Placement] = []
    for _ in range(rng.integers(spec.objects[0], spec.objects[1] + 1)):
        cls = int(rng.integers(len(spec.classes)))
        width, height = _draw_size(rng, spec, spec.classes[cls])
        heading = float(rng.integers(4)) * math.pi / 2 if task == "detect" else rng.uniform(0, 2 * math.pi)
        angle_noise = spec.sigma_angle[1] if task == "obb" else 0.0
        reach = _reach(width, height, heading, angle_noise, spec)
        for _attempt in range(_ATTEMPTS):
            cx, cy = rng.uniform(reach, spec.imgsz - reach).tolist()
            box = (cx, cy, width, height, heading)
            mask = fill(outline(spec.classes[cls], box), (spec.imgsz, spec.imgsz)) > 0
            if all(_hidden_by(other, mask) <= spec.occlusion for other in placed):
                for other in placed:
                    other.visible &= ~mask
                placed.append(Placement(cls, box, mask, mask.copy()))
                break
    return placed


def _draw_size(rng: np.random.Generator, spec: SceneSpec, name: str) -> tuple[float, float]:
    low, high = spec.size
    lowest, highest = SHAPES[name].aspect
    aspect = rng.uniform(lowest, min(highest, high / low))
    height = spec.imgsz * math.exp(rng.uniform(math.log(low), math.log(high / aspect)))
    return aspect * height, height


def _reach(width: float, height: float, heading: float, angle_noise: float, spec: SceneSpec) -> NDArray[np.float64]:
    """Distance of the centre from the image border, x and y, that keeps the corners of noisy boxes inside."""
    corner = np.abs(corners((0.0, 0.0, width, height, heading)))
    # To first order an angle error moves a corner along x by its y, and along y by its x.
    spread = np.hypot(spec.sigma_px[1], corner[:, ::-1] * angle_noise)
    reach: NDArray[np.float64] = (corner + MARGIN_SIGMAS * spread).max(axis=0)
    return reach


def _hidden_by(placement: Placement, mask: NDArray[np.bool_]) -> float:
    return 1.0 - np.count_nonzero(placement.visible & ~mask) / np.count_nonzero(placement.mask)
