"""Options of the synthetic scenes, checked once when they are built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from yolo_uncert.synthetic.shapes import SHAPES

Task = Literal["detect", "obb"]

REFERENCE_SIDE = 192
"""Image side in pixels at which `SceneSpec.sigma` is given."""

MARGIN_SIGMAS = 4.0
"""Distance kept between a true box and the image border, in standard deviations of the strongest label noise."""


@dataclass(frozen=True)
class SceneSpec:
    """What a synthetic scene contains.

    Every object draws a noise level ``sigma`` log-uniformly, independently of everything else about it. The level sets
    the label noise of the box sides, the label noise of the angle and the blur of the object, so that an image shows
    how far its labels may be trusted.

    Attributes:
        imgsz: Side of the square image, pixels, at least 32.
        classes: Names from `SHAPES`; a class index is a position in this tuple.
        objects: Smallest and largest number of objects drawn per image. Objects that find no place under the occlusion
            limit are left out, the first one always fits.
        size: Smallest short side and largest long side of an object, fractions of the image side.
        sigma: Range of the noise level in pixels of a 192 px image; other image sizes scale it by ``imgsz / 192``.
        sigma_angle: Angle noise at the lowest and at the highest noise level, radians (`SceneSpec.angle_level`).
        blur_per_sigma: Standard deviation of the blur of an object in units of its ``sigma``.
        occlusion: Largest fraction of an object's area that objects drawn later may hide, in [0, 0.5].

    Raises:
        ValueError: If an option is out of range or the options do not fit together.
    """

    imgsz: int = REFERENCE_SIDE
    classes: tuple[str, ...] = ("disc", "plate", "arrow")
    objects: tuple[int, int] = (2, 5)
    size: tuple[float, float] = (0.125, 0.45)
    sigma: tuple[float, float] = (0.5, 5.0)
    sigma_angle: tuple[float, float] = (0.01, 0.15)
    blur_per_sigma: float = 1.0
    occlusion: float = 0.35

    def __post_init__(self) -> None:
        """Check the options one by one, then together."""
        _require(self.imgsz >= 32, f"imgsz must be at least 32, got {self.imgsz}")
        unknown = [name for name in self.classes if name not in SHAPES]
        _require(not unknown, f"unknown classes {unknown}, choose from {sorted(SHAPES)}")
        distinct = len(set(self.classes)) == len(self.classes) > 0
        _require(distinct, f"classes must be distinct and not empty, got {self.classes}")
        _require(
            0 <= self.objects[0] <= self.objects[1] > 0,
            f"objects must satisfy 0 <= low <= high, high > 0, got {self.objects}",
        )
        _require(0 < self.sigma[0] < self.sigma[1], f"sigma must satisfy 0 < low < high, got {self.sigma}")
        _require(
            0 < self.sigma_angle[0] < self.sigma_angle[1] <= 0.2,
            f"sigma_angle must satisfy 0 < low < high <= 0.2, got {self.sigma_angle}",
        )
        _require(self.blur_per_sigma >= 0, f"blur_per_sigma must not be negative, got {self.blur_per_sigma}")
        _require(0 <= self.occlusion <= 0.5, f"occlusion must lie in [0, 0.5], got {self.occlusion}")
        self._check_sizes()

    def _check_sizes(self) -> None:
        low, high = self.size
        _require(0 < 2 * low <= high < 1, f"size must satisfy 0 < 2 * low <= high < 1, got {self.size}")
        noise = self.sigma_px[1] / self.imgsz
        _require(
            low >= 4 * noise, f"size[0] = {low} is below 4 * sigma[1] = {4 * noise:.3f} of the image: boxes degenerate"
        )
        # Half diagonal of the largest square plus 4 standard deviations of its corners, over the worst direction.
        reach = high / math.sqrt(2) * math.hypot(1.0, MARGIN_SIGMAS * self.sigma_angle[1]) + MARGIN_SIGMAS * noise
        _require(
            reach <= 0.5,
            f"size[1] = {high} and the label noise do not fit the image: reach {reach:.3f} > 0.5 of its side",
        )

    @property
    def sigma_px(self) -> tuple[float, float]:
        """Range of the noise level in pixels of this image size."""
        scale = self.imgsz / REFERENCE_SIDE
        return self.sigma[0] * scale, self.sigma[1] * scale

    def angle_level(self, sigma: float) -> float:
        """Angle noise of a noise level.

        Straight line between the ends of `sigma_angle` on log-log axes, hence strictly increasing::

            t = log(sigma / low) / log(high / low),   sigma_angle = a0 * (a1 / a0) ** t

        Args:
            sigma: Noise level in pixels, within `sigma_px`.

        Returns:
            Standard deviation of the angle, radians.
        """
        return float(np.exp(np.interp(np.log(sigma), np.log(self.sigma_px), np.log(self.sigma_angle))))


def check_task(task: str) -> None:
    """Refuse anything but the two supported tasks.

    Args:
        task: Name to check.

    Raises:
        ValueError: If ``task`` is neither "detect" nor "obb".
    """
    _require(task in get_args(Task), f"task must be one of {get_args(Task)}, got {task!r}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
