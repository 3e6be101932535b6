"""KLD branch: a distance between the Gaussians of predicted and true box in place of (or beside) the stock box loss."""

from __future__ import annotations

import torch

from yolo_uncert.config import KLDOptions
from yolo_uncert.functional.boxes import xyxy_to_xywhr
from yolo_uncert.functional.gaussian_distance import distance_loss
from yolo_uncert.losses.context import LossContext
from yolo_uncert.nn.branches.base import Branch, HeadSpec


class KLDBranch(Branch):
    """Gaussian-distance loss (Yang et al., NeurIPS 2021, and its relatives) on decoded boxes; adds no channel.

    Horizontal boxes are the case theta = 0, so it works on detect heads too. The stock angle loss of oriented boxes
    stays: a square's Gaussian says nothing about its angle.
    """

    name = "kld"
    options_class = KLDOptions
    loss_item = "kld_loss"
    teaches = "its loss of the boxes"
    options: KLDOptions

    def __init__(self, options: KLDOptions, spec: HeadSpec) -> None:
        """Choose between replacing and joining the stock box loss."""
        super().__init__(options, spec)
        self.replaces = "box_loss" if options.mode == "replace" else ""

    def loss(self, context: LossContext) -> torch.Tensor:
        """Return the distance loss of the positives, scaled like the stock box loss."""
        pred, target = context.stock_boxes, context.target_boxes
        if context.task == "detect":
            pred, target = xyxy_to_xywhr(pred), xyxy_to_xywhr(target)
        loss = distance_loss(pred, target, self.options.distance, self.options.fun, self.options.tau)
        return context.mean(loss) * self.options.gain * context.hyp.box
