"""DFL branch: standard deviations for free from the side distributions that the stock head predicts anyway."""

from __future__ import annotations

import torch
from ultralytics.nn.modules.block import DFL

from yolo_uncert.config import DFLOptions
from yolo_uncert.functional.dfl import peak, second_moment, variance_about
from yolo_uncert.nn.branches.base import Branch, Decoded, HeadSpec
from yolo_uncert.options import OptionError


class MomentsDFL(DFL):
    """Decode the side distributions to distances, bit for bit as the stock layer does, and variances: one softmax."""

    @classmethod
    def like(cls, stock: DFL) -> MomentsDFL:
        """Return such a layer with the weights of a stock one."""
        layer = cls(stock.c1)
        layer.conv = stock.conv
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Decode logits Tensor[B, 4 * reg_max, A] to distances Tensor[B, 4, A] in grid units; distances stay."""
        return x if x.shape[1] == 4 else self.moments(x)[0]

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode logits Tensor[B, 4 * reg_max, A] to distances and variances, Tensor[B, 4, A] in grid units."""
        prob = x.unflatten(1, (4, self.c1)).transpose(1, 2).softmax(1)
        distance = self.conv(prob)[:, 0]
        return distance, second_moment(prob.float(), distance.float(), dim=1)


class PeakDFL(MomentsDFL):
    """Decode the side distance as the local peak of its distribution, and take the variance about it."""

    def __init__(self, reg_max: int, window: int) -> None:
        """Take the number of bins and the bins on each side of the arg-max."""
        super().__init__(reg_max)
        self.window = window

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode logits Tensor[B, 4 * reg_max, A] to distances and variances, Tensor[B, 4, A] in grid units."""
        logits = x.unflatten(1, (4, self.c1))
        distance = peak(logits, self.window, dim=2)
        return distance.to(x.dtype), variance_about(logits, distance, dim=2)


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

    def decoder(self, stock: DFL) -> MomentsDFL:
        """Return the layer that decodes the head's side distributions, with the weights of the stock one."""
        if self.options.decode == "mean":
            return MomentsDFL.like(stock)
        layer = PeakDFL(stock.c1, self.options.window)
        layer.conv = stock.conv
        return layer

    def decode(self, raw: dict[str, torch.Tensor], decoded: Decoded) -> torch.Tensor:
        """Return the std Tensor[B, 4, A] of l, t, r, b about the decoded distance in pixels."""
        assert decoded.side_var is not None  # noqa: S101  the head has this branch's decoder
        return (decoded.side_var.sqrt() * decoded.strides).to(decoded.boxes.dtype)
