"""A detector reduced to its head: what a criterion needs, small enough for values by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.head import OBB, Detect
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_uncert.nn.heads import STOCK_TO_UNCERT


class HeadOnly(nn.Module):
    """A head on feature maps of 8 pixels and 16 pixels stride, with the attributes that a criterion reads.

    Attributes:
        features: Leaf tensors that stand for the backbone; 80 anchors on 64 x 64 pixels.
    """

    def __init__(self, head: nn.Module, images: int) -> None:
        super().__init__()
        self.model = nn.ModuleList([head])
        self.args = SimpleNamespace(**DEFAULT_CFG_DICT)
        generator = torch.Generator().manual_seed(1)
        self.features = [torch.randn(images, 16, side, side, generator=generator).requires_grad_() for side in (8, 4)]

    def preds(self) -> dict[str, Any]:
        """Raw predictions of the one-to-many head, or of both heads."""
        return self.model[-1].train()(self.features)


@pytest.fixture
def build() -> Callable[..., HeadOnly]:
    """Build a head with branches, or a stock one without; one seed gives the same stock weights to both."""

    def make(
        task: str, uncertainty: dict | None = None, *, reg_max: int = 16, end2end: bool = False, images: int = 3
    ) -> HeadOnly:
        torch.manual_seed(7)
        kind, extra = (OBB, (1,)) if task == "obb" else (Detect, ())
        head: Any = kind(3, *extra, reg_max, end2end, (16, 16))
        head.stride = torch.tensor([8.0, 16.0])
        head.bias_init()
        if uncertainty is not None:
            head = STOCK_TO_UNCERT[kind].from_stock(head, uncertainty)
        return HeadOnly(head, images)

    return make


@pytest.fixture
def labels() -> Callable[..., dict[str, torch.Tensor]]:
    """Labels of three images with two, none and one object, or of empty images."""

    def make(task: str, *, empty: bool = False) -> dict[str, torch.Tensor]:
        boxes = [[0.4, 0.5, 0.5, 0.6, 0.1], [0.6, 0.3, 0.3, 0.3, 0.4], [0.5, 0.5, 0.7, 0.4, -0.2]]
        batch = {
            "batch_idx": torch.tensor([0.0, 0.0, 2.0]),
            "cls": torch.tensor([[0.0], [2.0], [1.0]]),
            "bboxes": torch.tensor(boxes)[:, : 5 if task == "obb" else 4],
        }
        return {k: v[:0] for k, v in batch.items()} if empty else batch

    return make
