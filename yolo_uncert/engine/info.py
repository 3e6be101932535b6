"""What a model file is: its classes and branches, how it was trained, and its calibration."""

from __future__ import annotations

import json
from ast import literal_eval
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ultralytics.nn.backends.base import BaseBackend

from yolo_uncert.engine.calibration import METADATA_KEY as CALIBRATION_KEY
from yolo_uncert.engine.calibration import Calibration, calibration_of
from yolo_uncert.engine.schemas import METADATA_KEY as SCHEMA_KEY
from yolo_uncert.engine.schemas import schema_of
from yolo_uncert.nn.branches import BRANCHES
from yolo_uncert.options import OptionError
from yolo_uncert.schema import FIELDS

TRAINING = ("data", "model", "imgsz", "epochs", "batch", "seed")
"""Options of the training that are told, where the checkpoint has them."""

ORIGIN = {"date": "", "version": "Ultralytics "}
"""Further entries of a checkpoint that are told, with a word before each."""


def describe_model(yolo: Any) -> str:
    """Describe a model, a line for each thing known of it.

    Args:
        yolo: The facade ``YOLO``, of a checkpoint, a model yaml or an exported file.

    Raises:
        OptionError: An exported file has no metadata.
    """
    exported = isinstance(yolo.model, str)
    if exported and not (metadata := BaseBackend.read_metadata(yolo.model)):
        raise OptionError(f"info: {yolo.model} has no metadata of an export; not one of Ultralytics', or damaged")
    lines = _exported(metadata, yolo) if exported else _loaded(yolo)
    return "\n".join(f"{name + ':':<14}{value}" for name, value in lines)


def _loaded(yolo: Any) -> Iterator[tuple[str, str]]:
    """Describe a model in memory."""
    model = yolo.model
    yield "model", f"{yolo.ckpt_path or yolo.model_name} ({type(model).__name__})"
    yield "task", yolo.task
    yield "classes", _classes(model.names)
    yield "parameters", f"{sum(p.numel() for p in model.parameters()):,}"
    uncertainty = model.yaml.get("uncertainty") or {}
    branches = ", ".join(f"{name} {_options(name, uncertainty[name])}" for name in uncertainty) or "none"
    yield "branches", branches + "; detach=True" * bool(model.yaml.get("detach"))
    yield "channels", _channels(schema_of(model, yolo.task).names, yolo.task)
    yield "calibration", _calibration(calibration_of(model))
    yield "training", _training(yolo.ckpt or {})


def _exported(metadata: Mapping[str, Any], yolo: Any) -> Iterator[tuple[str, str]]:
    """Describe an exported file by its metadata."""
    yield "model", f"{yolo.model} ({metadata.get('head', 'unknown head')})"
    yield "task", str(metadata.get("task", yolo.task))
    yield "classes", _classes(_mapping(metadata["names"])) if metadata.get("names") else "unknown"
    names, calibration = metadata.get(SCHEMA_KEY, "[]"), metadata.get(CALIBRATION_KEY)
    yield "channels", _channels(json.loads(names), str(metadata.get("task", yolo.task)))
    yield "calibration", _calibration(Calibration.from_dict(json.loads(calibration)) if calibration else None)
    yield "export", f"imgsz={metadata.get('imgsz')}, {metadata.get('date', 'date unknown')}"


def _classes(names: Mapping[int, str]) -> str:
    shown = ", ".join(f"{i} {name}" for i, name in list(names.items())[:20])
    return f"{len(names)}: {shown}" + (", ..." if len(names) > 20 else "")


def _mapping(names: Mapping[int, str] | str) -> Mapping[int, str]:
    """Return the names of classes, which some formats keep as text."""
    return literal_eval(names) if isinstance(names, str) else names


def _options(name: str, given: Mapping[str, Any] | None) -> str:
    """Return the options of a branch that differ from the defaults; all the others are at theirs."""
    defaults = BRANCHES[name].options_class()
    changed = {k: v for k, v in (given or {}).items() if v != getattr(defaults, k)}
    return f"({', '.join(f'{k}={v}' for k, v in changed.items()) or 'defaults'})"


def _channels(names: list[str] | tuple[str, ...], task: str) -> str:
    """Return the extra channels behind the class scores, in their order."""
    return ", ".join(f"{name} ({FIELDS[name][task]})" for name in names) or "none"


def _calibration(calibration: Calibration | None) -> str:
    if calibration is None:
        return "none"
    origin = calibration.origin
    before, after = origin["calibration_error"]
    measured = f"calibration error {before} -> {after}" if after is not None else f"calibration error was {before}"
    settings = ", ".join(f"{k}={v}" for k, v in calibration.settings.items())
    indent = "\n" + " " * 14
    return indent.join(
        (
            f"{calibration.method}, level {calibration.level:g}, target {origin['target']}",
            f"{origin['boxes']} boxes of {origin['images']} images of {origin['data']} ({origin['split']}); {measured}",
            f"for {settings}",
            f"{origin['date']}, yolo-uncert {origin['version']}",
        )
    )


def _training(checkpoint: Mapping[str, Any]) -> str:
    """Return where a checkpoint comes from, as far as it says."""
    if not checkpoint:
        return "none"
    args = checkpoint.get("train_args") or {}
    known = [f"{name}={Path(str(args[name])).name}" for name in TRAINING if args.get(name) is not None]
    done = len((checkpoint.get("train_results") or {}).get("epoch", ()))
    known += [f"{done} epochs done"] * bool(done)
    known += [label + str(checkpoint[key]) for key, label in ORIGIN.items() if checkpoint.get(key)]
    return ", ".join(known)
