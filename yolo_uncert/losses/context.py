"""What a branch sees of one training step: raw predictions, label assignment, and the positives gathered from both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Assignment:
    """Arguments that Ultralytics hands to its box loss: the outcome of the label assignment.

    Shape shorthand: B images, A anchors, C classes; boxes in grid units, ``xyxy`` (detect) or ``xywhr`` (obb).

    Attributes:
        pred_boxes: Tensor[B, A, 4 or 5] decoded boxes, with gradient.
        anchors: Tensor[A, 2] anchor points.
        target_boxes: Tensor[B, A, 4 or 5].
        target_scores: Tensor[B, A, C] alignment scores of the assigned class, zero elsewhere.
        normaliser: Sum of the target scores, at least 1.
        positive: Tensor[B, A] bool, anchors with an object.
        stride: Tensor[A, 1] pixels per grid unit.
    """

    pred_boxes: torch.Tensor
    anchors: torch.Tensor
    target_boxes: torch.Tensor
    target_scores: torch.Tensor
    normaliser: torch.Tensor
    positive: torch.Tensor
    stride: torch.Tensor


@dataclass(frozen=True)
class LossContext:
    """One training step as seen by a loss term; positives are the P anchors with an assigned object.

    Attributes:
        preds: Raw head output, each Tensor[B, C, A].
        assignment: The label assignment, or None when Ultralytics found no positive (oriented boxes only).
        task: ``detect`` or ``obb``.
        hyp: Training arguments with the stock gains ``box``, ``cls``.
        epoch: Current epoch during training, else None.
    """

    preds: dict[str, torch.Tensor]
    assignment: Assignment | None
    task: str
    hyp: Any
    epoch: int | None = None

    def positives(self, values: torch.Tensor) -> torch.Tensor:
        """Gather Tensor[B, A, ...] at the positives as float32 Tensor[P, ...]; empty, it still is in the graph."""
        if self.assignment is None:
            return values.flatten(0, 1)[:0].float()
        return values[self.assignment.positive].float()

    def raw(self, name: str) -> torch.Tensor:
        """Return a raw prediction at the positives, Tensor[P, C] float32."""
        return self.positives(self.preds[name].transpose(1, 2))

    @property
    def pred_boxes(self) -> torch.Tensor:
        """Tensor[P, 4 or 5] predicted boxes in grid units, with gradient."""
        return self._boxes("pred_boxes")

    @property
    def target_boxes(self) -> torch.Tensor:
        """Tensor[P, 4 or 5] assigned ground-truth boxes in grid units."""
        return self._boxes("target_boxes")

    @property
    def labels(self) -> torch.Tensor:
        """Tensor[P] class index of the assigned object."""
        if self.assignment is None:
            return torch.empty(0, dtype=torch.long, device=self.preds["scores"].device)
        return self.assignment.target_scores[self.assignment.positive].argmax(-1)

    @property
    def anchors(self) -> torch.Tensor:
        """Tensor[P, 2] anchor points in grid units."""
        return self._per_anchor("anchors", 2)

    @property
    def stride(self) -> torch.Tensor:
        """Tensor[P, 1] pixels per grid unit."""
        return self._per_anchor("stride", 1)

    def mean(self, loss: torch.Tensor) -> torch.Tensor:
        """Weight a loss Tensor[P] by the assignment scores and normalise it like the stock box terms."""
        if self.assignment is None:
            return loss.sum()
        weight = self.assignment.target_scores.sum(-1)[self.assignment.positive]
        return (loss * weight).sum() / self.assignment.normaliser

    def _boxes(self, name: str) -> torch.Tensor:
        if self.assignment is None:
            return self.preds["scores"].new_zeros(0, 5 if self.task == "obb" else 4, dtype=torch.float32)
        return self.positives(getattr(self.assignment, name))

    def _per_anchor(self, name: str, columns: int) -> torch.Tensor:
        if self.assignment is None:
            return self.preds["scores"].new_zeros(0, columns, dtype=torch.float32)
        values = getattr(self.assignment, name)
        return values.expand(len(self.assignment.positive), -1, -1)[self.assignment.positive].float()
