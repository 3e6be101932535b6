"""Build the model that a yaml asks for: with uncertainty branches, or a stock one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.nn.tasks import DetectionModel, OBBModel

from yolo_uncert.nn.models import MODELS
from yolo_uncert.nn.yamls import load_model_yaml
from yolo_uncert.options import OptionError

STOCK_MODELS = {"detect": DetectionModel, "obb": OBBModel}


def build_model(
    cfg: str | Path | Mapping[str, Any], task: str, ch: int = 3, nc: int | None = None, verbose: bool = False
) -> nn.Module:
    """Build a model.

    Args:
        cfg: Name or path of a model yaml, or a resolved model dict.
        task: ``detect`` or ``obb``.
        ch: Input channels.
        nc: Number of classes, in place of the yaml's.
        verbose: Log the layers.

    Raises:
        OptionError: The yaml's head is of another task.
    """
    full = dict(cfg) if isinstance(cfg, Mapping) else load_model_yaml(cfg)
    found = task_of(full)
    if found != task:
        raise OptionError(f"this model yaml is for task {found}, not {task}")
    model: nn.Module = (MODELS if "uncertainty" in full else STOCK_MODELS)[task](full, ch=ch, nc=nc, verbose=verbose)
    return model


def task_of(cfg: Mapping[str, Any]) -> str:
    """Return ``detect`` or ``obb`` from the head row of a resolved model dict."""
    return "obb" if "OBB" in cfg["head"][-1][2] else "detect"
