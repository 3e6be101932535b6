"""Overlap of the positives with their ground truth: the target of IoU-aware branches and quality losses."""

from __future__ import annotations

import torch
from ultralytics.utils.metrics import bbox_iou, probiou

from yolo_uncert.losses.context import LossContext
from yolo_uncert.ops.rotated_iou import rotated_iou


def positives_iou(context: LossContext, *, differentiable: bool = False) -> torch.Tensor:
    """Return the IoU of each positive with its assigned ground truth.

    Args:
        context: One training step.
        differentiable: Keep the gradient to the predicted boxes. The exact IoU of oriented boxes has none here, so
            probIoU takes its place then, which is what the stock box loss optimises (there with a floor under boxes far
            smaller than a cell).

    Returns:
        Tensor[P] in [0, 1].
    """
    pred, target = context.pred_boxes, context.target_boxes
    if not differentiable:
        pred = pred.detach()
    if context.task == "detect":
        iou = bbox_iou(pred, target, xywh=False).squeeze(-1)
    elif differentiable:
        iou = probiou(pred, target).squeeze(-1)
    else:
        iou = rotated_iou(pred, target)
    return iou.clamp(0, 1)
