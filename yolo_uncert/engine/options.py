"""Carry our run options through Ultralytics' engine, which rejects every option that its ``default.yaml`` lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

import numpy as np
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_uncert.options import OptionError, parse_options, suggest
from yolo_uncert.run_options import RunOptions, run_option_names


def split_options(values: Mapping[str, Any] | SimpleNamespace | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split options into those of Ultralytics and ours, as two new dicts."""
    values = vars(values) if isinstance(values, SimpleNamespace) else values or {}
    ours = run_option_names()
    return {k: v for k, v in values.items() if k not in ours}, {k: v for k, v in values.items() if k in ours}


def check_options(values: Mapping[str, Any], mode: str) -> RunOptions:
    """Return our options among those given, after a look at misspelt ones.

    Ultralytics refuses every name that it does not know, but suggests only its own. A name closer to one of ours is
    refused here.

    Raises:
        OptionError: One of our options is misspelt, ill-typed or out of range.
    """
    ours = run_option_names()
    for name in values.keys() - DEFAULT_CFG_DICT.keys() - set(ours):
        match = get_close_matches(name, [*ours, *DEFAULT_CFG_DICT], n=1)
        if match and match[0] in ours:
            raise OptionError(f"{mode}: unknown option {name!r} (did you mean {match[0]!r}?)")
    return parse_options(RunOptions, split_options(values)[1], mode)


OBB_IOU = 0.5
"""Default of ``iou`` for oriented boxes. That of Ultralytics, 0.7, is meant for probIoU: the exact overlap is smaller,
and with 0.7 many duplicates stay (docs/postprocessing.md)."""


def put_iou(args: SimpleNamespace, given: Mapping[str, Any] | SimpleNamespace | None) -> None:
    """Put the default overlap of oriented boxes on the engine's ``args``, unless the user gave one.

    Args:
        args: All options, with Ultralytics' default where none was given.
        given: What was given; ``args`` of a trainer, which its validator is given, have all.
    """
    values = vars(given) if isinstance(given, SimpleNamespace) else given or {}
    if args.task == "obb" and "iou" not in values:
        args.iou = OBB_IOU


def has_names(classes: Any) -> bool:
    """Return whether the option ``classes`` names a class, where Ultralytics wants indices."""
    return isinstance(classes, str) or (isinstance(classes, (list, tuple)) and any(isinstance(c, str) for c in classes))


def class_indices(classes: str | int | Sequence[str | int], names: Mapping[int, str]) -> list[int]:
    """Return the indices of classes that are given by name or index.

    Args:
        classes: Names or indices; in one string separated by commas.
        names: Names of the model's classes.

    Raises:
        OptionError: There is no such class.
    """
    known = {name: index for index, name in names.items()} | {str(index): index for index in names}
    given = classes.strip("[]() ").split(",") if isinstance(classes, str) else np.ravel(np.asarray(classes, object))
    found = [str(entry).strip(" '\"") for entry in given]
    for entry in found:
        if entry not in known:
            listed = ", ".join(f"{index} {name}" for index, name in names.items())
            raise OptionError(f"classes: no class {entry!r}{suggest(entry, names.values())}. This model has: {listed}")
    return [known[entry] for entry in found]


def put_options(args: SimpleNamespace, given: Mapping[str, Any], where: str) -> None:
    """Check our options and put them on the engine's ``args``, where copies, checkpoints and DDP children see them.

    What is already on ``args`` (a resumed run's settings) wins over defaults, and what is given over both.

    Raises:
        OptionError: An option is ill-typed or out of range.
    """
    kept = {k: v for k, v in vars(args).items() if k in run_option_names()}
    for name, value in asdict(parse_options(RunOptions, {**kept, **given}, where)).items():
        setattr(args, name, value)
