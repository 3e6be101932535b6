"""Models or settings side by side, with intervals that tell a gain from the luck of the images."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from ultralytics.cfg import get_cfg, smart_value
from ultralytics.utils import LOGGER, RUNS_DIR
from ultralytics.utils.files import increment_path

from yolo_uncert.engine.bootstrap import resample, score_statistics, sigma_statistics
from yolo_uncert.engine.options import check_options, split_options
from yolo_uncert.engine.rules import check_rules
from yolo_uncert.engine.schemas import schema_of
from yolo_uncert.engine.states import lends_moments
from yolo_uncert.files import check_folder, plain, replacing
from yolo_uncert.functional.records import Matches, Scored
from yolo_uncert.model import YOLO
from yolo_uncert.options import OptionError
from yolo_uncert.run_options import chooses_none, run_option_names
from yolo_uncert.schema import Schema

Floats = npt.NDArray[np.floating]

VARIED = (*run_option_names(), "iou", "conf", "imgsz", "max_det", "agnostic_nms")
"""Options that may have several values."""

SAMPLES, LEVEL = 500, 0.95
"""Draws of images, and the share of them that the intervals hold."""


@dataclass(frozen=True)
class Interval:
    """A statistic of the data set, and between which values it lies on resampled images."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Floats) -> Interval:
        """Return the interval of Array[samples + 1], the data set itself first.

        The spread of the draws around their mean, moved to the value: draws repeat images, which biases statistics such
        as the calibration error upwards.
        """
        value, rest = draws[0], draws[1:][np.isfinite(draws[1:])]
        if not len(rest) or not np.isfinite(value):
            return cls(float(value), math.nan, math.nan)
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(rest, (tail, 1 - tail)) - rest.mean() + value
        return cls(float(value), float(low), float(high))

    @property
    def significant(self) -> bool:
        """Whether a difference of 0 lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Variant:
    """One model under one setting.

    Attributes:
        name: What tells it from the others.
        results: Its statistics by name.
        gains: Their differences to the first variant on the same images; empty for the first.
    """

    name: str
    results: dict[str, Interval]
    gains: dict[str, Interval]


def compare(
    models: str | Path | Sequence[str | Path], *, samples: int = SAMPLES, out: str | Path | None = None, **options: Any
) -> list[Variant]:
    """Validate models or settings on the same images and compare them with bootstrap intervals over the images.

    Args:
        models: One or several trained models; in one string separated by commas.
        samples: Draws of images.
        out: Folder for ``comparison.json`` and ``comparison.csv``; by default a new one in the folder of
            Ultralytics' runs.
        **options: Options of val. Ours, ``iou``, ``conf``, ``imgsz``, ``max_det`` and ``agnostic_nms`` may have several
            values, in a list or separated by commas: each combination is a variant.

    Returns:
        The variants, the first of which is what the others are compared with.

    Raises:
        FileNotFoundError: There is no such model.
        OptionError: Fewer than two variants, too few samples, or an option is wrong.
        OSError: ``out`` cannot be written to.
    """
    if not isinstance(samples, int) or samples < 2:
        raise OptionError(f"samples must be a whole number of at least 2, not {samples!r}")
    paths = [str(m).strip() for m in (models.split(",") if isinstance(models, str) else _listed("model", models))]
    paths = list(filter(None, paths))
    settings = _settings(options)
    if len(paths) * len(settings) < 2:
        raise OptionError(
            "there is nothing to compare: name several models (model=a.pt,b.pt) or several values of an option "
            "(suppress=hard,soft)"
        )
    names = _short(paths) if len(paths) > 1 else [""]
    _check(paths, [{**options, **setting} for setting in settings])
    folder = Path(out) if out else increment_path(RUNS_DIR / "compare", mkdir=True)
    check_folder(folder, "compare: out")
    runs = []
    for (path, name), setting in itertools.product(zip(paths, names, strict=True), settings):
        label = " ".join(filter(None, (name, *(f"{k}={v}" for k, v in setting.items()))))
        LOGGER.info(f"\nValidating {label}")
        metrics = YOLO(path).val(**{"plots": False, **options, **setting})
        runs.append((label, metrics.matches, metrics.scored))
    variants = _variants(runs, samples)
    LOGGER.info("\n" + table(variants))
    write(variants, folder)
    LOGGER.info(f"Results saved to {folder}")
    return variants


def _check(paths: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> None:
    """Look at all models and settings before the first validation, which may take an hour."""
    checked = [(check_options(s, "compare"), get_cfg(overrides=split_options(s)[0])) for s in settings]
    for path in dict.fromkeys(paths):
        model = YOLO(path)
        if isinstance(model.model, str):  # an exported file: what it predicts is known when it is loaded
            continue
        for ours, stock in checked:
            dfl = lends_moments(model.model, ours)
            schema = Schema.of(model.task, 1, ["dfl"]) if dfl else schema_of(model.model, model.task)
            try:
                check_rules(schema, SimpleNamespace(**{**vars(stock), **asdict(ours)}))
            except OptionError as error:
                raise OptionError(f"{path}: {error}") from error


def _variants(runs: Sequence[tuple[str, Matches, Scored]], samples: int) -> list[Variant]:
    """Compute the statistics of all runs on the same draws of images."""
    order = sorted(runs[0][1].files)
    counts = resample(len(order), samples)
    draws = []
    for name, matches, scored in runs:
        if sorted(matches.files) != order:
            raise OptionError(f"{name} was validated on other images than {runs[0][0]}")
        mine = counts[:, np.argsort(np.argsort(matches.files))]
        draws.append({**score_statistics(scored, mine), **sigma_statistics(matches, mine)})
    first = draws[0]
    return [
        Variant(
            name,
            {key: Interval.of(values) for key, values in mine.items()},
            {key: Interval.of(values - first[key]) for key, values in mine.items()} if mine is not first else {},
        )
        for (name, *_), mine in zip(runs, draws, strict=True)
    ]


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


def _listed(name: str, value: Any) -> list[Any]:
    if isinstance(value, str):
        return [v if chooses_none(name, v) else smart_value(v) for v in map(str.strip, value.split(","))]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _settings(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of the options that have several values, and take them out of the options."""
    several = {}
    for name in [key for key in options if key in VARIED]:
        values = _listed(name, options.pop(name))
        if len(values) > 1:
            several[name] = values
        else:
            options[name] = values[0]
    return [dict(zip(several, values, strict=True)) for values in itertools.product(*several.values())]


def _short(paths: Sequence[str]) -> list[str]:
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
