"""Criteria for training: Ultralytics' own, whose label assignment is recorded and given to the branches' loss terms."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from ultralytics.utils.loss import v8DetectionLoss, v8OBBLoss

from yolo_uncert.losses.context import LATER, Assignment, LossContext


class RecordingBoxLoss(nn.Module):
    """Call the stock box loss and keep what it was called with.

    The box loss is the one place where detect and obb criteria of Ultralytics 8.4 pass on their label assignment, with
    the same signature (``utils/loss.py``, ``BboxLoss.forward`` and ``RotatedBboxLoss.forward``).
    """

    def __init__(self, stock: nn.Module) -> None:
        """Wrap the stock box loss."""
        super().__init__()
        self.stock = stock
        self.last: Assignment | None = None

    def forward(
        self,
        pred_dist: torch.Tensor,
        pred_bboxes: torch.Tensor,
        anchor_points: torch.Tensor,
        target_bboxes: torch.Tensor,
        target_scores: torch.Tensor,
        target_scores_sum: torch.Tensor,
        fg_mask: torch.Tensor,
        imgsz: torch.Tensor,
        stride: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the stock (box, dfl) losses."""
        self.last = Assignment(
            pred_bboxes, anchor_points, target_bboxes, target_scores, target_scores_sum, fg_mask.bool(), stride
        )
        result: tuple[torch.Tensor, torch.Tensor] = self.stock(
            pred_dist,
            pred_bboxes,
            anchor_points,
            target_bboxes,
            target_scores,
            target_scores_sum,
            fg_mask,
            imgsz,
            stride,
        )
        return result


class _BranchTerms(v8DetectionLoss):
    """Add the loss terms of the head's branches to a stock criterion."""

    task = "detect"
    bbox_loss: Any

    def __init__(self, model: Any, tal_topk: int = 10, tal_topk2: int | None = None) -> None:
        """Build the stock criterion for a model whose head carries branches."""
        super().__init__(model, tal_topk, tal_topk2)
        self.head = model.model[-1]
        self.bbox_loss = RecordingBoxLoss(self.bbox_loss)

    def loss(
        self, preds: dict[str, torch.Tensor], batch: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the vector of losses times the batch size, and the detached items by name."""
        self.bbox_loss.last = None
        vector, items = super().loss(preds, batch)
        terms: dict[str, torch.Tensor] = dict(zip(items, vector.unbind(), strict=True))
        assignment = self.bbox_loss.last or Assignment.empty(preds)
        if LATER in preds:
            run: Any = preds.pop(LATER)  # it holds features, which nobody needs from here on
            preds = preds | run(preds, assignment.positive)
        for branch in self.head.branches:
            assignment = branch.move(assignment, preds)
        context = LossContext(preds, assignment, self.task, self.hyp, self.head.epoch, self.class_weights)
        # The assignment holds the step's whole graph: drop it as soon as the terms are computed.
        self.bbox_loss.last = None
        # Losses are small numbers next to sums of many: no autocast, the products and logs below need float32.
        with torch.autocast(vector.device.type, enabled=False):
            for branch in self.head.branches:
                if branch.loss_item:
                    value = branch.loss(context)
                    name = branch.replaces or branch.loss_item
                    terms[name], items[name] = value * preds["boxes"].shape[0], value.detach()
        names: dict[str, str] = {b.replaces: b.loss_item for b in self.head.branches if b.replaces}
        return torch.stack(list(terms.values())), {names.get(k, k): v for k, v in items.items()}


class UncertDetectionLoss(_BranchTerms):
    """Stock detection loss (box, class, DFL or L1) with the terms of the head's uncertainty branches."""


class UncertOBBLoss(_BranchTerms, v8OBBLoss):
    """Stock loss for oriented boxes (box, class, DFL or L1, angle) with the terms of the uncertainty branches."""

    task = "obb"
