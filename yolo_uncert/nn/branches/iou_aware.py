"""IoU-aware branch: predict the overlap of each box with the object, to rank by localization quality."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the customary name
from torch import nn

from yolo_uncert.config import IoUAwareOptions
from yolo_uncert.losses.context import LossContext
from yolo_uncert.losses.overlap import positives_iou
from yolo_uncert.nn.branches.base import Branch, Decoded, Features, flat
from yolo_uncert.nn.branches.border import INIT_STD, BorderBranch
from yolo_uncert.options import OptionError


class IoUAwareBranch(Branch):
    """Predicted IoU (Wu et al., arXiv 1912.05992): one 3x3 convolution beside the box output, sigmoid.

    With ``reads: border`` the convolution is 1x1, and what a border branch has seen along the sides is read with it:
    how well they fit shows there, and the box branch need not run next to the anchors that count.
    """

    name = "iou_aware"
    options_class = IoUAwareOptions
    field = "iou_aware"
    loss_item = "iou_loss"
    options: IoUAwareOptions
    border_channels: int = 0
    border_rate: float = 1.0

    @property
    def reads_around(self) -> bool:
        """Whether it reads the hidden features next to an anchor, too."""
        return self.options.reads == "neighbours"

    @property
    def reads_border(self) -> bool:
        """Whether it reads what the border branch has seen."""
        return not self.reads_around

    def join(self, others: dict[str, Branch]) -> None:
        """Note whether the boxes learn from the overlap, and learn of a border branch if it is to be read."""
        self.teaches = "grad_target: true" if self.options.grad_target else ""
        if self.reads_around:
            return
        if not isinstance(border := others.get("border"), BorderBranch):
            raise OptionError("reads: border needs a border branch, of which there is none")
        self.border_channels, self.border_rate = border.channels, border.options.lr_mult

    def rates(self, modules: nn.ModuleList) -> dict[float, list[nn.Parameter]]:
        """Return the parameters by rate; what reads the border branch learns like that branch."""
        levels = len(self.spec.hidden)
        rates = {1.0: list(modules[:levels].parameters())}
        if self.border_channels:
            rates.setdefault(self.border_rate, []).extend(modules[levels:].parameters())
        return rates

    def build(self) -> nn.ModuleList:
        """Return one convolution per level on the hidden features of the box branch, and last that on the borders."""
        size = 3 if self.reads_around else 1
        modules = nn.ModuleList(nn.Conv2d(c, 1, size, padding=size // 2) for c in self.spec.hidden)
        if self.border_channels:
            border = nn.Conv1d(self.border_channels, 1, 1, bias=False)
            nn.init.normal_(border.weight, std=INIT_STD)
            modules.append(border)
        return modules

    def forward(self, modules: nn.ModuleList, features: Features) -> torch.Tensor:
        """Return the IoU logits Tensor[B, 1, A]."""
        if features.around:
            return flat([conv_of_taps(conv, x) for conv, x in zip(modules, features.around, strict=True)])
        if self.reads_around:
            return flat([narrow_conv(conv, x) for conv, x in zip(modules, features.hidden, strict=True)])
        *levels, border = modules
        borders = features.borders
        assert borders is not None  # noqa: S101  the head looks before it runs the branches
        logits = flat([conv(x) for conv, x in zip(levels, features.hidden, strict=True)])
        return logits + borders.among_all(border(borders.seen))

    def decode(self, raw: dict[str, torch.Tensor], decoded: Decoded) -> torch.Tensor:
        """Return the predicted IoU Tensor[B, 1, A] in [0, 1]."""
        return raw[self.name].sigmoid()

    def loss(self, context: LossContext) -> torch.Tensor:
        """Return the binary cross-entropy of the positives against the IoU of their decoded boxes."""
        target = positives_iou(context, differentiable=self.options.grad_target)
        logits = context.raw(self.name)[:, 0]
        # Written out because binary_cross_entropy_with_logits of torch passes no gradient to its target.
        loss = F.softplus(logits) - target * logits
        return context.mean(loss) * self.options.gain


def narrow_conv(conv: Any, x: torch.Tensor) -> torch.Tensor:
    """Run an ``nn.Conv2d``, 3x3 and padded, with a single output channel.

    On a CPU, outside of training, it takes about a third of the layer's time. Libraries for CPUs fill such an output up
    to the 16 channels that they compute at once, nine times over. One 1x1 convolution with the nine taps as its outputs
    and their sum over shifts is the same up to rounding.
    """
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined,no-untyped-call]
    if conv.training or traced or x.device.type != "cpu" or x.dtype != torch.float32:
        out: torch.Tensor = conv(x)
        return out
    taps = F.conv2d(x, conv.weight[0].flatten(1).flip(1).t()[..., None, None])
    summed = F.fold(taps.flatten(2), x.shape[2:], 3, padding=1)
    return summed if conv.bias is None else summed + conv.bias[:, None, None]


def conv_of_taps(conv: Any, taps: torch.Tensor) -> torch.Tensor:
    """Run an ``nn.Conv2d``, 3x3, on what its taps see, Tensor[B, 9 * C, H, W] channel by channel."""
    return F.conv2d(taps, conv.weight.flatten(1)[..., None, None], conv.bias)
