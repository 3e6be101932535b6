"""Covariances of detections, from the standard deviations that came with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from yolo_uncert.functional.box_covariance import Floats, corner_covariance
from yolo_uncert.functional.boxes import UNKNOWN_ANGLE_STD, rbox_covariance


def detection_covariance(boxes: Any, floor: float) -> Floats | None:
    """Return the covariances of (x, y, w, h) of detections.

    Sides are independent. An oriented box with the field ``sides`` also passes on the angle's uncertainty to its
    centre, see ``functional.boxes.rbox_covariance``; without that field, (x, y, w, h) are taken as independent. To all
    four, ``floor^2 w h`` is added: a sigma too good to be true must not make the track follow every detection blindly.

    Args:
        boxes: ``UncertBoxes`` or ``UncertOBB`` in numpy, N rows; boxes of other kinds have no standard deviations.
        floor: Standard deviation that is added, relative to the square root of the box's area.

    Returns:
        Array[N, 4, 4] in pixels squared, NaN or inf where the standard deviations are; None without any.
    """
    std = getattr(boxes, "std", None)
    if std is None:
        return None
    std = np.asarray(std, np.float64)
    oriented = std.shape[1] == 5
    if oriented and "sides" in boxes.fields:
        sides = torch.as_tensor(np.asarray(boxes.fields["sides"], np.float64))
        # An angle of which nothing is known is no small perturbation of the centre.
        spread = torch.where(sides[:, 4] < UNKNOWN_ANGLE_STD * 0.999, sides[:, 4], 0.0)
        angle = torch.as_tensor(np.asarray(boxes.xywhr[:, 4], np.float64))
        covariance = rbox_covariance(sides[:, :4], spread, sides[:, 5:7], angle)[:, :4, :4].numpy()
    elif oriented:
        covariance = np.square(std[:, :4, None]) * np.eye(4)
    else:
        covariance = corner_covariance(std)
    area = np.prod(np.asarray((boxes.xywhr if oriented else boxes.xywh)[:, 2:4], np.float64), axis=1)
    return np.asarray(covariance + floor**2 * area[:, None, None] * np.eye(4))
