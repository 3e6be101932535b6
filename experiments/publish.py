"""Make a trained checkpoint fit to ship: ``python experiments/publish.py RUN/weights/best.pt weights/NAME.pt``.

Half precision, no state of the training, and nothing of the machine that it was trained on: paths become names, and the
options of loading, saving and drawing are dropped. The target is written when all checks have passed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils.patches import torch_load

from yolo_uncert.data import data_name
from yolo_uncert.engine.calibration import ATTRIBUTE
from yolo_uncert.files import replacing

MOST_BYTES = 8_000_000
"""Limit of a checkpoint that lives in the repository."""

KEPT = ("model", "date", "version", "license", "docs", ATTRIBUTE, "train_args", "train_results")
MACHINE = ("project", "name", "save_dir", "device", "workers", "cache", "exist_ok", "data_root", "resume", "verbose")
"""Options that say where and on what a training ran, not what it did."""


def clean(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint without what belongs to the training or the machine.

    Args:
        checkpoint: Of a finished training, as Ultralytics writes it.

    Raises:
        ValueError: It is not finished, or holds a path.
    """
    if checkpoint.get("optimizer") is not None or checkpoint.get("ema") is not None:
        raise ValueError("the training has not finished: the checkpoint holds its optimizer")
    kept = {key: checkpoint[key] for key in KEPT if key in checkpoint}
    kept |= dict.fromkeys(("ema", "optimizer", "updates", "best_fitness")) | {"epoch": -1}
    model = kept["model"].half()
    model.args, kept["train_args"] = _options(model.args), _options(kept["train_args"])
    model.yaml["yaml_file"] = Path(str(model.yaml["yaml_file"])).name
    if hasattr(model, "pt_path"):
        del model.pt_path
    paths = [text for text in _texts((model.args, model.yaml, model.names, kept)) if Path(text).is_absolute()]
    if paths:
        raise ValueError(f"the checkpoint names folders of this machine: {', '.join(paths)}")
    return kept


def publish(source: Path, target: Path) -> int:
    """Write the clean checkpoint and return its size in bytes.

    Args:
        source: Checkpoint of a finished training.
        target: File to write.

    Raises:
        ValueError: It cannot be shipped as it is.
    """
    content = clean(torch_load(source, map_location="cpu"))
    with replacing(target) as part:
        torch.save(content, part)
        size = part.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"{size / 1e6:.1f} MB, more than the {MOST_BYTES / 1e6:.0f} MB that the repository takes")
    return size


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return training options without those of the machine; a data set goes by its name."""
    kept = {k: v for k, v in given.items() if k not in MACHINE}
    for key in ("data", "model", "pretrained"):
        if isinstance(kept.get(key), str):
            path = Path(kept[key])
            kept[key] = f"{path.parent.name}.yaml" if path.stem == "data" else data_name(path)
    return kept


def _texts(value: Any) -> list[str]:
    """Return all strings in nested containers."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    return [text for item in value for text in _texts(item)] if isinstance(value, (list, tuple)) else []


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(f"{publish(Path(sys.argv[1]), Path(sys.argv[2])) / 1e6:.2f} MB")
