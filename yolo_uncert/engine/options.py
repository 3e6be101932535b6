"""Carry our run options through Ultralytics' engine, which rejects every option that its ``default.yaml`` lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_uncert.config import OptionError, parse_options
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


def put_options(args: SimpleNamespace, given: Mapping[str, Any], where: str) -> None:
    """Check our options and put them on the engine's ``args``, where copies, checkpoints and DDP children see them.

    What is already on ``args`` (a resumed run's settings) wins over defaults, and what is given over both.

    Raises:
        OptionError: An option is ill-typed or out of range.
    """
    kept = {k: v for k, v in vars(args).items() if k in run_option_names()}
    for name, value in asdict(parse_options(RunOptions, {**kept, **given}, where)).items():
        setattr(args, name, value)
