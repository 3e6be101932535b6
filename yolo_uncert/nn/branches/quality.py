"""GFLv2 quality branch: localization quality read off the shape of the DFL distributions."""

from __future__ import annotations

import torch
from torch import nn

from yolo_uncert.config import QualityOptions
from yolo_uncert.functional.dfl import top_statistics
from yolo_uncert.functional.scores import quality_focal_loss
from yolo_uncert.losses.context import LossContext
from yolo_uncert.nn.branches.base import Branch, Decoded, Features, HeadSpec, flat
from yolo_uncert.options import OptionError


class QualityBranch(Branch):
    """Distribution-guided quality predictor (GFLv2, Li et al., CVPR 2021): top-k and mean of the four distributions.

    The joint score is class score times quality. It is trained as such: binary cross-entropy on the product, or the
    quality focal loss if the ``qfl`` branch is there.
    """

    name = "quality"
    options_class = QualityOptions
    field = "quality"
    teaches = "its loss of the joint scores"
    loss_item = "cls_loss"
    replaces = "cls_loss"
    options: QualityOptions

    def __init__(self, options: QualityOptions, spec: HeadSpec) -> None:
        """Check that the head has distributions with enough bins."""
        super().__init__(options, spec)
        if spec.reg_max < 2:
            raise OptionError(f"this head has no DFL distributions (reg_max: {spec.reg_max}) to judge quality by")
        if options.topk > spec.reg_max:
            raise OptionError(f"topk: {options.topk} exceeds the {spec.reg_max} bins of the distribution")

    def join(self, others: dict[str, Branch]) -> None:
        """Leave the loss of the joint score to the qfl branch if there is one."""
        if "qfl" in others:
            self.loss_item = self.replaces = ""

    def build(self) -> nn.ModuleList:
        """Return the two-layer predictor, one per level."""
        inputs = 4 * (self.options.topk + 1)
        return nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, self.options.hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(self.options.hidden, 1, 1)
            )
            for _ in self.spec.hidden
        )

    def forward(self, modules: nn.ModuleList, features: Features) -> torch.Tensor:
        """Return the quality logits Tensor[B, 1, A]."""
        return flat([m(self._statistics(x)) for m, x in zip(modules, features.boxes, strict=True)])

    def decode(self, raw: dict[str, torch.Tensor], decoded: Decoded) -> torch.Tensor:
        """Return the quality Tensor[B, 1, A] in [0, 1]."""
        return raw[self.name].sigmoid()

    def loss(self, context: LossContext) -> torch.Tensor:
        """Return the binary cross-entropy of the joint score against the assignment scores."""
        loss = quality_focal_loss(joint_probability(context.preds), context.assignment.target_scores, beta=0.0)
        return context.class_mean(loss)

    def _statistics(self, boxes: torch.Tensor) -> torch.Tensor:
        """Return Tensor[B, 4 * (topk + 1), H, W] from the DFL logits of one level."""
        batch, _, height, width = boxes.shape
        logits = boxes.view(batch, 4, self.spec.reg_max, height * width).transpose(2, 3)
        statistics = top_statistics(logits, self.options.topk).to(boxes.dtype)
        return statistics.transpose(2, 3).reshape(batch, -1, height, width)


def joint_probability(preds: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the class score, times the quality if predicted, as Tensor[B, A, nc] float32.

    The product is no logit, so its loss is computed from probabilities in float32.
    """
    prob = preds["scores"].float().sigmoid()
    if "quality" in preds:
        prob = prob * preds["quality"].float().sigmoid()
    return prob.transpose(1, 2)
