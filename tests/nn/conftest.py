"""Models of the smallest scale for three classes, ours and their stock counterparts, and a batch to train them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.utils import DEFAULT_CFG

from yolo_uncert.nn.build import build_model
from yolo_uncert.nn.yamls import resolve


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """Build a model on a base for a task, with branches, or the stock model without them."""

    def make(base: str, task: str, uncertainty: dict | None = None, seed: int = 0, **keys: Any) -> nn.Module:
        torch.manual_seed(seed)
        section = {} if uncertainty is None else {"uncertainty": uncertainty}
        model = build_model(resolve({"base": base, "task": task, **keys, **section}), task, nc=3)
        model.args = DEFAULT_CFG
        return model

    return make


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """Two images of 64 pixels with two objects and one."""

    def make(task: str) -> dict[str, torch.Tensor]:
        boxes = [[0.4, 0.5, 0.5, 0.6, 0.1], [0.6, 0.3, 0.3, 0.3, 0.4], [0.5, 0.5, 0.7, 0.4, -0.2]]
        return {
            "img": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)),
            "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
            "cls": torch.tensor([[0.0], [2.0], [1.0]]),
            "bboxes": torch.tensor(boxes)[:, : 5 if task == "obb" else 4],
        }

    return make


@pytest.fixture(scope="session")
def perturb() -> Callable[[nn.Module], nn.Module]:
    """Give a fresh model statistics and weights as if it had been trained."""

    def shake(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.data.uniform_(0.8, 1.2, generator=generator)
            elif isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.data += torch.randn(module.bias.shape, generator=generator) / 2
        return model.eval()

    return shake
