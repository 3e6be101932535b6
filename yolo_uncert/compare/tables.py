"""The comparison as text, JSON and CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from yolo_uncert.compare.variants import LEVEL, Interval, Variant
from yolo_uncert.files import plain, replacing


def table(variants: Sequence[Variant]) -> str:
    """Return the comparison as text: values with their intervals, below them the gains over the first variant."""
    header = ["", *variants[0].results]
    rows = [[v.name, *(_cell(key, i) for key, i in v.results.items())] for v in variants]
    gains = [["  gain", *(_cell(key, i, sign="+") for key, i in v.gains.items())] for v in variants]
    lines = [header, *(row for pair in zip(rows, gains, strict=True) for row in pair[: 1 if len(pair[1]) == 1 else 2])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    note = f"gain over {variants[0].name}; {LEVEL:.0%} bootstrap intervals over images, * where 0 lies outside"
    return "\n".join([*text, note])


def write(variants: Sequence[Variant], folder: Path) -> None:
    """Write ``comparison.json`` and ``comparison.csv``, each complete or not at all."""
    rows = [
        {"variant": v.name, "statistic": key, **asdict(i), **{f"gain_{k}": x for k, x in _gain(v, key).items()}}
        for v in variants
        for key, i in v.results.items()
    ]
    for file in (folder / "comparison.json", folder / "comparison.csv"):
        with replacing(file) as part, part.open("w", encoding="utf-8", newline="") as stream:
            if file.suffix == ".json":
                json.dump(plain([asdict(v) for v in variants]), stream, indent=1, allow_nan=False)
            else:
                writer = csv.DictWriter(stream, max(rows, key=len).keys())
                writer.writeheader()
                writer.writerows(rows)


def _gain(variant: Variant, key: str) -> Mapping[str, float]:
    return asdict(variant.gains[key]) if variant.gains else {}


def _cell(key: str, interval: Interval, sign: str = "") -> str:
    if not math.isfinite(interval.value):
        return "-"
    form = f"{sign}.{1 if key.startswith('AP') else 3}f"
    star = "*" if sign and interval.significant else ""
    return f"{interval.value:{form}}{star} ({interval.low:{form}}..{interval.high:{form}})"
