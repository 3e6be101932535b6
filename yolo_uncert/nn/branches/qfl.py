"""Quality focal loss: train the class score of a positive towards the IoU of its box."""

from __future__ import annotations

import torch

from yolo_uncert.config import QFLOptions
from yolo_uncert.functional.scores import quality_focal_loss, quality_focal_loss_with_logits
from yolo_uncert.losses.context import LossContext
from yolo_uncert.losses.overlap import positives_iou
from yolo_uncert.nn.branches.base import Branch
from yolo_uncert.nn.branches.quality import joint_probability


class QFLBranch(Branch):
    """Quality focal loss (Li et al., NeurIPS 2020) in place of the stock class loss; adds no channel.

    Target: the IoU of predicted and assigned box for the assigned class, 0 for every other class and anchor.
    """

    name = "qfl"
    options_class = QFLOptions
    loss_item = "qfl_loss"
    teaches = "its loss of the class scores"
    replaces = "cls_loss"
    options: QFLOptions

    def loss(self, context: LossContext) -> torch.Tensor:
        """Return the loss over all anchors and classes, normalised and scaled like the stock class loss."""
        scores = context.preds["scores"].transpose(1, 2).float()
        # A positive whose alignment underflowed to 0 has no class there, and counts as a negative.
        target = (context.assignment.target_scores > 0).float()
        target[context.assignment.positive] *= positives_iou(context)[:, None]
        if "quality" in context.preds:
            loss = quality_focal_loss(joint_probability(context.preds), target, self.options.beta)
        else:
            loss = quality_focal_loss_with_logits(scores, target, self.options.beta)
        return context.class_mean(loss)
