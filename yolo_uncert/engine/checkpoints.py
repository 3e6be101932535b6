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
from yolo_uncert.options import OptionError
from yolo_uncert.paths import is_shipped
from yolo_uncert.run_options import CalibrationOptions

SUFFIX = "-calibrated"
"""Ending of the name of a calibrated checkpoint."""


def put_calibration(model: nn.Module, calibration: Mapping[str, Any] | None) -> None:
    """Give a model object a calibration, or take it away."""
    if calibration is not None:
        setattr(model, ATTRIBUTE, dict(calibration))
    elif ATTRIBUTE in vars(model):
        delattr(model, ATTRIBUTE)


def checkpoint_of(yolo: Any) -> Path:
    """Return the file of a YOLO object.

    Raises:
        OptionError: It is no checkpoint.
    """
    # After load() the weights are no longer those of any one file.
    if isinstance(yolo.model, str) or not yolo.ckpt_path or "pretrained" in yolo.overrides:
        raise OptionError(
            "calibrate: a calibration is stored in a checkpoint, give a trained .pt file as model=; export it "
            "afterwards, and the exported file carries the calibration"
        )
    return Path(yolo.ckpt_path)


def target_file(source: Path, options: CalibrationOptions) -> Path:
    """Return where a calibrated checkpoint is written: a file of its own unless the options say otherwise.

    Args:
        source: The checkpoint, ``best.pt`` or an already calibrated ``best-calibrated.pt``.
        options: ``out``, ``inplace`` and ``remove``.

    Raises:
        OptionError: A checkpoint that ships with the package would be changed.
    """
    if options.out is not None:
        return Path(options.out)
    if is_shipped(source):
        if options.inplace or options.remove:
            raise OptionError(
                f"calibrate: {source.name} ships with the package and stays as it is; name a file as out="
            )
        source = Path(source.name)  # in the working directory
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
