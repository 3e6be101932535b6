"""Gaussian variance branch: one log-variance per box side, and one for the angle of an oriented box."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812  the customary name
from torch import nn

from yolo_uncert.config import GaussianOptions
from yolo_uncert.functional.boxes import align_representation, rbox_to_sides
from yolo_uncert.functional.dfl import moments
from yolo_uncert.functional.gaussian import clamp_log_var, regression_loss
from yolo_uncert.losses.context import LossContext
from yolo_uncert.nn.branches.base import Branch, Decoded, Features, HeadSpec, flat
from yolo_uncert.nn.branches.border import INIT_STD, BorderBranch
from yolo_uncert.options import OptionError

INIT_WEIGHT_STD = 1e-4
"""He et al. initialise the variance layer with N(0, 1e-4), so that training starts as the plain detector."""

LEAST_SPREAD = 1e-3
"""Least variance of a side distribution in grid units^2 that the branch is told: its logarithm stays finite."""


class GaussianBranch(Branch):
    """Log-variance ``a = ln(sigma^2)`` of the sides in grid units, and of the angle in rad^2 (He et al., CVPR 2019).

    A 1x1 convolution on the hidden features of the box branch; for oriented boxes on those of box and angle branch.
    With ``spread`` also on the log-variances of the four side distributions, which no linear layer could make of these
    features (GFLv2, Li et al., CVPR 2021, reads a quality off the distributions; here it is sigma). Beside a border
    branch also on what that one has seen along the sides.
    """

    name = "gaussian"
    options_class = GaussianOptions
    field = "gaussian"
    loss_item = "gauss_loss"
    options: GaussianOptions
    border_channels: int = 0
    border_rate: float = 1.0

    def __init__(self, options: GaussianOptions, spec: HeadSpec) -> None:
        """Check the label noise against the number of classes, and that there are distributions to read."""
        super().__init__(options, spec)
        if options.spread and spec.reg_max < 2:
            raise OptionError(f"spread: this head has no side distributions (reg_max: {spec.reg_max}); leave it out")
        self.teaches = "" if options.detach_mean else "detach_mean: false"
        if isinstance(options.label_std, list) and len(options.label_std) != spec.nc:
            raise OptionError(f"label_std has {len(options.label_std)} values for {spec.nc} classes (nc of the yaml)")

    @property
    def reads_border(self) -> bool:
        """Whether it reads what a border branch has seen: always."""
        return True

    def join(self, others: dict[str, Branch]) -> None:
        """Learn of a border branch, whose features are read too."""
        if isinstance(border := others.get("border"), BorderBranch):
            self.border_channels, self.border_rate = border.channels, border.options.lr_mult

    def rates(self, modules: nn.ModuleList) -> dict[float, list[nn.Parameter]]:
        """Return the parameters by rate; AdamW moves a weight by its rate per step at most, too slow for sigma's scale.

        What reads the border branch learns like that branch.
        """
        levels = len(self.spec.hidden)
        rates = {self.options.lr_mult: list(modules[:levels].parameters())}
        if self.border_channels:
            rates.setdefault(self.border_rate, []).extend(modules[levels:].parameters())
        return rates

    def build(self) -> nn.ModuleList:
        """Return one 1x1 convolution per level, at the initial sigma everywhere, and last the one on the borders."""
        angle = self.spec.angle_hidden or (0,) * len(self.spec.hidden)
        sigma = [self.options.init_sigma] * 4 + [self.options.init_angle_sigma] * (self.spec.task == "obb")
        spread = 4 * self.options.spread
        levels = [nn.Conv2d(c + a + spread, len(sigma), 1) for c, a in zip(self.spec.hidden, angle, strict=True)]
        for conv in levels:
            nn.init.normal_(conv.weight, std=INIT_WEIGHT_STD)
            conv.bias = nn.Parameter(torch.tensor([2 * math.log(s) for s in sigma]))
        modules = nn.ModuleList(levels)
        if self.border_channels:
            border = nn.Conv1d(self.border_channels, len(sigma), 1, bias=False)
            nn.init.normal_(border.weight, std=INIT_STD)
            modules.append(border)
        return modules

    def forward(self, modules: nn.ModuleList, features: Features) -> torch.Tensor:
        """Return the log-variances Tensor[B, 4 or 5, A]."""
        levels = features.hidden
        if features.angle_hidden:
            levels = [torch.cat(pair, 1) for pair in zip(levels, features.angle_hidden, strict=True)]
        if self.options.detach_features:
            levels = [x.detach() for x in levels]
        if self.options.spread:
            levels = [torch.cat(pair, 1) for pair in zip(levels, self._spreads(features), strict=True)]
        log_var = flat([conv(x) for conv, x in zip(modules[: len(levels)], levels, strict=True)])
        if (borders := features.borders) is None or not self.border_channels:
            return log_var
        seen = borders.seen.detach() if self.options.detach_features else borders.seen
        return log_var + borders.among_all(modules[-1](seen))

    def decode(self, raw: dict[str, torch.Tensor], decoded: Decoded) -> torch.Tensor:
        """Return std of l, t, r, b in pixels; for obb also of the angle in rad, and the centre offset in pixels."""
        std = (clamp_log_var(raw[self.name]) / 2).exp()
        sides = std[:, :4] * decoded.strides
        if self.spec.task == "detect":
            return sides.to(decoded.boxes.dtype)
        offset = decoded.boxes[:, :2] - decoded.anchors * decoded.strides
        cos, sin = raw["angle"].cos(), raw["angle"].sin()
        x, y = offset[:, :1], offset[:, 1:]
        return torch.cat((sides, std[:, 4:], x * cos + y * sin, y * cos - x * sin), 1).to(decoded.boxes.dtype)

    def loss(self, context: LossContext) -> torch.Tensor:
        """Return the regression loss of the positives, averaged over the coordinates.

        The alignment falls with the sixth power of the overlap: it weights the large errors down, of which sigma then
        hears too little. Weighted uniformly they count as often as they happen.
        """
        log_var = context.raw(self.name)
        loss = regression_loss(
            self._residual(context),
            log_var,
            self.options.loss,
            beta=self.options.beta,
            target_var=self._label_var(context),
        )
        mean = context.mean if self.options.weight == "alignment" else context.plain_mean
        return mean(loss.mean(-1)) * self.options.gain * self._warmup(context.epoch)

    def _spreads(self, features: Features) -> list[torch.Tensor]:
        """Return the log-variances Tensor[B, 4, H, W] of the side distributions, which get no gradient from it."""
        levels = features.boxes
        if features.side_var is None:
            variances = [moments(b.detach().unflatten(1, (4, self.spec.reg_max)), dim=2)[1] for b in levels]
            return [v.clamp(min=LEAST_SPREAD).log().to(b.dtype) for v, b in zip(variances, levels, strict=True)]
        spread = features.side_var.clamp(min=LEAST_SPREAD).log().to(levels[0].dtype)
        sizes = [level[0, 0].numel() for level in levels]
        return [v.unflatten(2, b.shape[2:]) for v, b in zip(spread.split(sizes, 2), levels, strict=True)]

    def _residual(self, context: LossContext) -> torch.Tensor:
        """Return target minus prediction Tensor[P, 4 or 5] per side in grid units, and angle in rad."""
        pred, target = context.pred_boxes, context.target_boxes
        if self.options.detach_mean:
            pred = pred.detach()
        if self.spec.task == "detect":
            return target - pred
        target = align_representation(target, pred[:, 4].detach())
        sides = rbox_to_sides(context.anchors, target) - rbox_to_sides(context.anchors, pred)
        return torch.cat((sides, target[:, 4:] - pred[:, 4:]), 1)

    def _label_var(self, context: LossContext) -> torch.Tensor | None:
        """Return the labels' variance Tensor[P, 4 or 5] in grid units^2, for loss: kl_target; 0 for the angle."""
        label_std = self.options.label_std
        if label_std is None:
            return None
        per_class = label_std if isinstance(label_std, list) else [label_std] * self.spec.nc
        std = torch.tensor(per_class, device=context.labels.device)[context.labels]
        sides = ((std[:, None] / context.stride) ** 2).expand(-1, 4)
        return sides if self.spec.task == "detect" else F.pad(sides, (0, 1))

    def _warmup(self, epoch: int | None) -> float:
        if epoch is None or not self.options.warmup_epochs:
            return 1.0
        return min(1.0, epoch / self.options.warmup_epochs)
