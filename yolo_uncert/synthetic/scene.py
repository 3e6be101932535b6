"""One synthetic scene: an image and objects whose label noise is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_uncert.synthetic.layout import Placement, place_objects
from yolo_uncert.synthetic.noise import draw_sigma, noisy_xywhr, noisy_xyxy
from yolo_uncert.synthetic.paint import paint
from yolo_uncert.synthetic.shapes import corners
from yolo_uncert.synthetic.spec import SceneSpec, Task, check_task
from yolo_uncert.synthetic.textures import background

_GRAIN = 2.0


@dataclass(frozen=True)
class SceneObject:
    """An object with its true box, its noisy label and the strength of the noise.

    Attributes:
        cls: Class index into `SceneSpec.classes`.
        true_box: "detect": ``(x1, y1, x2, y2)`` in pixels; "obb": ``(cx, cy, w, h, angle)`` in pixels and radians,
            ``w >= h``, angle in [0, pi), ``w`` along ``(cos angle, sin angle)`` with y pointing down.
        label_box: The box a detector is trained on, same format; its angle is the true angle plus noise, not wrapped.
        sigma: Standard deviation of each side of the label box, pixels.
        sigma_angle: Standard deviation of the label angle, radians; 0 for "detect".
    """

    cls: int
    true_box: tuple[float, ...]
    label_box: tuple[float, ...]
    sigma: float
    sigma_angle: float


@dataclass(frozen=True)
class Scene:
    """An image with its objects.

    Attributes:
        image: `uint8[imgsz, imgsz, 3]`, BGR.
        objects: Objects in drawing order, later ones on top.
    """

    image: NDArray[np.uint8] = field(repr=False)
    objects: list[SceneObject]


def render_scene(rng: np.random.Generator, spec: SceneSpec, task: Task = "detect") -> Scene:
    """Draw a scene.

    Args:
        rng: Source of randomness; equal generators give equal scenes.
        spec: Scene options.
        task: "detect" for axis-aligned objects and boxes, "obb" for rotated ones.

    Returns:
        Image, true boxes, labels and noise levels.

    Raises:
        ValueError: If ``task`` is unknown.
    """
    check_task(task)
    image = background(rng, spec.imgsz)
    objects = []
    for placement in place_objects(rng, spec, task):
        sigma = draw_sigma(rng, spec)
        objects.append(_label(rng, placement, sigma, spec, task))
        paint(rng, image, spec.classes[placement.cls], placement.box, spec.blur_per_sigma * sigma)
    grain = np.float32(_GRAIN) * rng.standard_normal(image.shape[:2], np.float32)
    return Scene(cv2.add(image, cv2.merge([grain] * 3), dtype=cv2.CV_8U), objects)


def _label(rng: np.random.Generator, placement: Placement, sigma: float, spec: SceneSpec, task: Task) -> SceneObject:
    if task == "detect":
        points = corners(placement.box)
        box = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
        return SceneObject(placement.cls, box, noisy_xyxy(rng, box, sigma, spec.imgsz), sigma, 0.0)
    rotated = (*placement.box[:4], placement.box[4] % math.pi)
    sigma_angle = spec.angle_level(sigma)
    label = noisy_xywhr(rng, rotated, sigma, sigma_angle, spec.imgsz)
    return SceneObject(placement.cls, rotated, label, sigma, sigma_angle)
