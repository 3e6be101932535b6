"""Put a calibration into a checkpoint file, or take it out; a failure leaves every file as it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.utils.patches import torch_load

from yolo_uncert.engine.calibration import ATTRIBUTE
from yolo_uncert.files import replacing
from yolo_uncert.run_options import CalibrationOptions

SUFFIX = "-calibrated"
"""Ending of the name of a calibrated checkpoint."""


def put_calibration(model: nn.Module, calibration: Mapping[str, Any] | None) -> None:
    """Give a model object a calibration, or take it away."""
    if calibration is not None:
        setattr(model, ATTRIBUTE, dict(calibration))
    elif ATTRIBUTE in vars(model):
        delattr(model, ATTRIBUTE)


def target_file(source: Path, options: CalibrationOptions) -> Path:
    """Return where a calibrated checkpoint is written: a file of its own unless the options say otherwise.

    Args:
        source: The checkpoint, ``best.pt`` or an already calibrated ``best-calibrated.pt``.
        options: ``out``, ``inplace`` and ``remove``.
    """
    if options.out is not None:
        return Path(options.out)
    if options.inplace or options.remove or source.stem.endswith(SUFFIX):
        return source
    return source.with_stem(source.stem + SUFFIX)


def store_calibration(source: str | Path, target: str | Path, calibration: Mapping[str, Any] | None) -> None:
    """Write a checkpoint with another calibration.

    Args:
        source: Checkpoint to read.
        target: File to write, replaced at once when it is complete; it may be the same.
        calibration: What the models inside shall carry; None: nothing.
    """
    checkpoint = torch_load(source, map_location="cpu")
    for key in ("model", "ema"):
        if isinstance(checkpoint.get(key), nn.Module):
            put_calibration(checkpoint[key], calibration)
    checkpoint.pop(ATTRIBUTE, None)
    if calibration is not None:
        checkpoint[ATTRIBUTE] = dict(calibration)
    _replace(checkpoint, Path(source), Path(target))


def _replace(checkpoint: dict[str, Any], source: Path, target: Path) -> None:
    """Save beside the target, then rename: readers see the old file or the new one."""
    with replacing(target) as part:
        with part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(source, part)
