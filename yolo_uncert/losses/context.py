"""What a branch sees of one training step: raw predictions, label assignment, and the positives gathered from both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

LATER = "later"
"""Key in the raw predictions of what runs the branches once it is known which anchors have an object."""


@dataclass(frozen=True)
class Assignment:
    """Arguments that Ultralytics hands to its box loss: the outcome of the label assignment.

    Shape shorthand: B images, A anchors, C classes; boxes in grid units, ``xyxy`` (detect) or ``xywhr`` (obb).

    Attributes:
        pred_boxes: Tensor[B, A, 4 or 5] decoded boxes, with gradient; where a border branch moves them if there is one.
        anchors: Tensor[A, 2] anchor points.
        target_boxes: Tensor[B, A, 4 or 5].
        target_scores: Tensor[B, A, C] alignment scores of the assigned class, zero elsewhere.
        normaliser: Sum of the target scores, at least 1.
        positive: Tensor[B, A] bool, anchors with an object.
        stride: Tensor[A, 1] pixels per grid unit.
        stock_boxes: Tensor[B, A, 4 or 5] the detector's own boxes, if they are moved; None otherwise.
    """

    pred_boxes: torch.Tensor
    anchors: torch.Tensor
    target_boxes: torch.Tensor
    target_scores: torch.Tensor
    normaliser: torch.Tensor
    positive: torch.Tensor
    stride: torch.Tensor
    stock_boxes: torch.Tensor | None = None

    @classmethod
    def empty(cls, preds: dict[str, torch.Tensor]) -> Assignment:
        """Return the assignment without a positive, whose boxes still are in the graph of the predictions.

        Args:
            preds: Raw head output for oriented boxes; their criterion skips its box loss when there is no positive.
        """
        scores = preds["scores"].transpose(1, 2)
        boxes = torch.cat((preds["boxes"][:, :4], preds["angle"]), 1).transpose(1, 2)
        return cls(
            pred_boxes=boxes,
            anchors=scores.new_zeros(scores.shape[1], 2),
            target_boxes=torch.zeros_like(boxes),
            target_scores=torch.zeros_like(scores),
            normaliser=scores.new_ones(()),
            positive=torch.zeros_like(scores[..., 0], dtype=torch.bool),
            stride=scores.new_ones(scores.shape[1], 1),
        )


@dataclass(frozen=True)
class LossContext:
    """One training step as seen by a loss term; positives are the P anchors with an assigned object.

    Attributes:
        preds: Raw head output, each Tensor[B, C, A].
        assignment: The label assignment.
        task: ``detect`` or ``obb``.
        hyp: Training arguments with the stock gains ``box``, ``cls``.
        epoch: Current epoch during training, else None.
        class_weights: Tensor[1, 1, C] weights of the class loss (from the option ``cls_pw``), else None.
    """

    preds: dict[str, torch.Tensor]
    assignment: Assignment
    task: str
    hyp: Any
    epoch: int | None = None
    class_weights: torch.Tensor | None = None

    def positives(self, values: torch.Tensor) -> torch.Tensor:
        """Gather Tensor[B, A, ...] at the positives as float32 Tensor[P, ...]; empty, it still is in the graph."""
        return values[self.assignment.positive].float()

    def raw(self, name: str) -> torch.Tensor:
        """Return a raw prediction at the positives, Tensor[P, C] float32."""
        return self.positives(self.preds[name].transpose(1, 2))

    @property
    def pred_boxes(self) -> torch.Tensor:
        """Tensor[P, 4 or 5] predicted boxes in grid units, with gradient."""
        return self.positives(self.assignment.pred_boxes)

    @property
    def stock_boxes(self) -> torch.Tensor:
        """Tensor[P, 4 or 5] boxes in grid units before a border branch moves them, with gradient."""
        moved_from = self.assignment.stock_boxes
        return self.pred_boxes if moved_from is None else self.positives(moved_from)

    @property
    def target_boxes(self) -> torch.Tensor:
        """Tensor[P, 4 or 5] assigned ground-truth boxes in grid units."""
        return self.positives(self.assignment.target_boxes)

    @property
    def labels(self) -> torch.Tensor:
        """Tensor[P] class index of the assigned object; 0 for a positive whose alignment score, thus weight, is 0."""
        return self.positives(self.assignment.target_scores).argmax(-1)

    @property
    def anchors(self) -> torch.Tensor:
        """Tensor[P, 2] anchor points in grid units."""
        return self._per_anchor(self.assignment.anchors)

    @property
    def stride(self) -> torch.Tensor:
        """Tensor[P, 1] pixels per grid unit."""
        return self._per_anchor(self.assignment.stride)

    def mean(self, loss: torch.Tensor) -> torch.Tensor:
        """Weight a loss Tensor[P] by the assignment scores and normalise it like the stock box terms."""
        weight = self.positives(self.assignment.target_scores).sum(-1)
        return (loss * weight).sum() / self.assignment.normaliser

    def plain_mean(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the mean of a loss Tensor[P] over the positives, 0 without any."""
        return loss.sum() / max(len(loss), 1)

    def class_mean(self, loss: torch.Tensor) -> torch.Tensor:
        """Weight, normalise and scale a loss Tensor[B, A, C] of all anchors and classes like the stock class loss."""
        if self.class_weights is not None:
            loss = loss * self.class_weights
        return loss.sum() / self.assignment.normaliser * self.hyp.cls

    def _per_anchor(self, values: torch.Tensor) -> torch.Tensor:
        return self.positives(values.expand(len(self.assignment.positive), -1, -1))
