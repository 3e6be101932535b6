"""The order in memory of images on their way into a model."""

from __future__ import annotations

from typing import Any

import torch


def runs_in_torch(model: Any) -> bool:
    """Return whether a model, or Ultralytics' wrapper of one, runs as a torch module rather than in another program."""
    return getattr(model, "format", "pt") == "pt"


def fast_layout(images: torch.Tensor) -> torch.Tensor:
    """Return images with the channels last in memory if they are on the CPU; shape and values stay.

    oneDNN's convolutions follow the layout of their input. With the channels last they need not reorder it layer by
    layer, which takes 15 to 30 % off a forward pass (docs/benchmarks.md).

    Args:
        images: Tensor[B, C, H, W].
    """
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cpu" else images
