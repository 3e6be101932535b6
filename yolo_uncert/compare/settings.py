"""Which variants are asked for: every combination of the options with several values, and short names of models."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultralytics.cfg import smart_value

from yolo_uncert.run_options import chooses_none, run_option_names

_OURS = tuple(name for name in run_option_names() if name != "data_root")
VARIED = (*_OURS, "iou", "conf", "imgsz", "max_det", "agnostic_nms")
"""Options that may have several values."""


def combinations(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of the options that have several values, and take them out of the options."""
    several = {}
    for name in [key for key in options if key in VARIED]:
        values = listed(name, options.pop(name))
        if len(values) > 1:
            several[name] = values
        else:
            options[name] = values[0]
    return [dict(zip(several, values, strict=True)) for values in itertools.product(*several.values())]


def listed(name: str, value: Any) -> list[Any]:
    """Return the values of an option: a list's, those that commas separate in a string, or the single one."""
    if isinstance(value, str):
        return [v if chooses_none(name, v) else smart_value(v) for v in map(str.strip, value.split(","))]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def short_names(paths: Sequence[str]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart, without what all of them end in."""
    parts = [[p for p in Path(path).with_suffix("").parts if p != "weights"] for path in paths]
    while min(map(len, parts)) > 1 and len({p[-1] for p in parts}) == 1 and len(set(paths)) > 1:
        parts = [p[:-1] for p in parts]
    length = next(
        (n for n in range(1, max(map(len, parts))) if len({tuple(p[-n:]) for p in parts}) == len(paths)),
        max(map(len, parts)),
    )
    names = ["/".join(p[-length:]) if len(set(paths)) > 1 else p[-1] for p in parts]
    seen: list[str] = []
    for name in names:
        seen.append(f"{name} ({seen.count(name) + 1})" if name in seen else name)
    return seen
