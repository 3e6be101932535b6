"""DFL branch: standard deviations for free from the side distributions that the stock head predicts anyway."""

from __future__ import annotations

import torch
from ultralytics.nn.modules.block import DFL

from yolo_uncert.config import DFLOptions, OptionError
from yolo_uncert.functional.dfl import moments, peak, variance_about
from yolo_uncert.nn.branches.base import Branch, Decoded, HeadSpec


class PeakDFL(DFL):
    """Decode the side distance as the local peak of its distribution instead of its mean."""

    def __init__(self, reg_max: int, window: int) -> None:
        """Take the number of bins and the bins on each side of the arg-max."""
        super().__init__(reg_max)
        self.window = window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Decode logits Tensor[B, 4 * reg_max, A] to distances Tensor[B, 4, A] in grid units."""
        batch, _, anchors = x.shape
        return peak(x.view(batch, 4, self.c1, anchors).transpose(2, 3), self.window).to(x.dtype)


class DFLBranch(Branch):
    """Standard deviation of the four sides from the DFL distribution (Li et al., NeurIPS 2020); needs no training."""

    name = "dfl"
    options_class = DFLOptions
    field = "dfl"
    options: DFLOptions

    def __init__(self, options: DFLOptions, spec: HeadSpec) -> None:
        """Check that the head has distributions."""
        super().__init__(options, spec)
        if spec.reg_max < 2:
            raise OptionError(
                f"this head predicts distances without a distribution (reg_max: {spec.reg_max}), so there are no DFL "
                "moments; use the gaussian branch, or a base with DFL such as yolo11.yaml or yolov8.yaml"
            )

    def decode(self, raw: dict[str, torch.Tensor], decoded: Decoded) -> torch.Tensor:
        """Return the std Tensor[B, 4, A] of l, t, r, b about the decoded distance in pixels."""
        batch, _, anchors = raw["boxes"].shape
        logits = raw["boxes"].view(batch, 4, self.spec.reg_max, anchors)
        if self.options.decode == "mean":
            variance = moments(logits, dim=2)[1]
        else:
            logits = logits.transpose(2, 3)
            variance = variance_about(logits, peak(logits, self.options.window))
        return (variance.sqrt() * decoded.strides).to(decoded.boxes.dtype)
