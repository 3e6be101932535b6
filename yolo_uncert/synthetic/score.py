"""Compare predicted standard deviations with the known label noise of synthetic scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from yolo_uncert.functional.residuals import rank_correlation
from yolo_uncert.ops.matching import greedy_match
from yolo_uncert.ops.rotated_iou import pairwise_rotated_iou
from yolo_uncert.synthetic.scene import SceneObject

MATCH_IOU = 0.5
"""Overlap with the true box at which a detection counts as one of the object."""

TERCILES = ("small", "medium", "large")

Floats = NDArray[np.float64]


@dataclass
class NoiseScore:
    """Predicted and true noise of matched objects, collected image by image.

    Attributes:
        predicted: Predicted std per object in pixels: mean over the four sides.
        known: True std of the label's sides, pixels.
        size: Square root of the true box's area, pixels.
        predicted_angle: Predicted std of the angle, rad (oriented boxes).
        known_angle: True std of the label's angle, rad (oriented boxes).
    """

    predicted: list[float] = field(default_factory=list)
    known: list[float] = field(default_factory=list)
    size: list[float] = field(default_factory=list)
    predicted_angle: list[float] = field(default_factory=list)
    known_angle: list[float] = field(default_factory=list)

    def add(self, boxes: torch.Tensor, cls: torch.Tensor, std: torch.Tensor, truth: Sequence[SceneObject]) -> None:
        """Match the detections of one image to its objects.

        Args:
            boxes: Tensor[N, 4] xyxy or Tensor[N, 5] xywhr, by descending score.
            cls: Tensor[N] class indices.
            std: Tensor[N, 4] std of the four sides in pixels, oriented boxes Tensor[N, 5] with the angle's in rad.
            truth: Objects of the image.
        """
        if not len(boxes) or not truth:
            return
        from torchvision.ops import box_iou  # not before it is needed: it takes seconds

        boxes, cls, std = boxes.cpu(), cls.cpu(), std.cpu()
        true_boxes = torch.tensor([o.true_box for o in truth], dtype=boxes.dtype)
        overlap = (box_iou if boxes.shape[1] == 4 else pairwise_rotated_iou)(boxes, true_boxes)
        overlap = overlap * (cls[:, None] == torch.tensor([o.cls for o in truth]))
        for row, target in zip(std, greedy_match(overlap.T, MATCH_IOU).tolist(), strict=True):
            if target >= 0:
                self._append(row, truth[target])

    def _append(self, std: torch.Tensor, truth: SceneObject) -> None:
        self.predicted.append(float(std[:4].mean()))
        self.known.append(truth.sigma)
        x1, y1, x2, y2 = truth.true_box[:4]
        area = truth.true_box[2] * truth.true_box[3] if len(truth.true_box) == 5 else (x2 - x1) * (y2 - y1)
        self.size.append(area**0.5)
        if len(std) == 5:
            self.predicted_angle.append(float(std[4]))
            self.known_angle.append(truth.sigma_angle)

    def correlation(self) -> float:
        """Return Spearman's rank correlation of predicted and known noise of the sides."""
        return rank_correlation(np.array(self.predicted), np.array(self.known))

    def angle_correlation(self) -> float | None:
        """Return Spearman's rank correlation of predicted and known noise of the angle, None without angles."""
        if not self.predicted_angle:
            return None
        return rank_correlation(np.array(self.predicted_angle), np.array(self.known_angle))

    def correlation_by_size(self) -> dict[str, float]:
        """Return the correlation within each tercile of object size, so that size cannot stand in for noise."""
        size, predicted, known = (np.array(v) for v in (self.size, self.predicted, self.known))
        cuts = np.quantile(size, [1 / 3, 2 / 3]) if len(size) else [0.0, 0.0]
        tercile = np.digitize(size, cuts)
        return {name: rank_correlation(predicted[tercile == i], known[tercile == i]) for i, name in enumerate(TERCILES)}
