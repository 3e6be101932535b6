"""Label noise of known strength."""

from __future__ import annotations

import math

import numpy as np

from yolo_uncert.synthetic.shapes import corners, rotation
from yolo_uncert.synthetic.spec import SceneSpec

_ATTEMPTS = 100


def draw_sigma(rng: np.random.Generator, spec: SceneSpec) -> float:
    """Draw a noise level, log-uniform in `SceneSpec.sigma_px`.

    Args:
        rng: Source of randomness.
        spec: Scene options.

    Returns:
        Standard deviation of each side of a label box, pixels.
    """
    low, high = spec.sigma_px
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def noisy_xyxy(rng: np.random.Generator, box: tuple[float, ...], sigma: float, imgsz: int) -> tuple[float, ...]:
    """Move each side of a box by an independent ``N(0, sigma ** 2)``.

    Labels that would leave the image or lose their width are drawn again; `SceneSpec` keeps that rarer than one in
    ten thousand, so that the noise stays Gaussian for every practical purpose.

    Args:
        rng: Source of randomness.
        box: True box ``(x1, y1, x2, y2)``, pixels.
        sigma: Standard deviation, pixels.
        imgsz: Side of the image, pixels.

    Returns:
        Label box ``(x1, y1, x2, y2)``, pixels, inside the image.

    Raises:
        RuntimeError: If no valid label is found.
    """
    for _ in range(_ATTEMPTS):
        x1, y1, x2, y2 = (np.asarray(box) + sigma * rng.standard_normal(4)).tolist()
        if 0 <= x1 < x2 <= imgsz and 0 <= y1 < y2 <= imgsz:
            return x1, y1, x2, y2
    raise RuntimeError(f"no label inside the image for box {box} with sigma {sigma}")


def noisy_xywhr(
    rng: np.random.Generator, box: tuple[float, ...], sigma: float, sigma_angle: float, imgsz: int
) -> tuple[float, ...]:
    """Move each side of a rotated box by ``N(0, sigma ** 2)``, then turn it by ``N(0, sigma_angle ** 2)``.

    A side moves along its normal; all five draws are independent, and the turn is about the centre of the moved box.
    In the frame of the true box the centre then has a standard deviation of ``sigma / sqrt(2)`` per axis, width and
    height one of ``sqrt(2) * sigma``. The angle is not wrapped: label angle minus true angle is the noise itself.
    Redraws are as in `noisy_xyxy`.

    Args:
        rng: Source of randomness.
        box: True box ``(cx, cy, w, h, angle)``, pixels and radians.
        sigma: Standard deviation of a side, pixels.
        sigma_angle: Standard deviation of the angle, radians.
        imgsz: Side of the image, pixels.

    Returns:
        Label box ``(cx, cy, w, h, angle)``, all corners inside the image.

    Raises:
        RuntimeError: If no valid label is found.
    """
    cx, cy, w, h, angle = box
    for _ in range(_ATTEMPTS):
        left, right, top, bottom = (sigma * rng.standard_normal(4)).tolist()
        dx, dy = (rotation(angle) @ [(left + right) / 2, (top + bottom) / 2]).tolist()
        turn = sigma_angle * float(rng.standard_normal())
        label = (cx + dx, cy + dy, w + right - left, h + bottom - top, angle + turn)
        points = corners(label)
        if min(label[2:4]) > 0 and points.min() >= 0 and points.max() <= imgsz:
            return label
    raise RuntimeError(f"no label inside the image for box {box} with sigma {sigma}")
