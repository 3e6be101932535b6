"""Tracker yamls: where they are found, and what their ``uncertainty:`` section may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralytics.utils import ROOT, YAML
from ultralytics.utils.checks import check_yaml

from yolo_uncert.options import OptionError, option, parse_options, suggest
from yolo_uncert.paths import find_asset, list_assets

BASES = ("bytetrack", "botsort")
"""Types of tracker that can take the standard deviations of detections."""


@dataclass(frozen=True)
class TrackerOptions:
    """Options of the ``uncertainty:`` section of a tracker yaml."""

    process: float = option(
        0.25, "Random motion of the box that is expected besides its velocity, over that of Ultralytics.", low=0.0
    )
    floor: float = option(
        0.02, "Error of every coordinate, relative to the box, that a detection may have besides its std.", low=0.0
    )
    association: str = option(
        "fused",
        "Match tracks by IoU, or by IoU and the distance in standard deviations, whichever says more.",
        choices=("iou", "fused"),
    )


def resolve_tracker(name: str | Path) -> str:
    """Return the path of a tracker yaml, ours by name and else what Ultralytics finds, after a check of our section.

    Args:
        name: Path, or name of a shipped yaml, of ours or of Ultralytics.

    Raises:
        FileNotFoundError: No such yaml.
        OptionError: The yaml names no type of tracker, or has an ``uncertainty:`` section and an unknown key, a bad
            value or another type of tracker than ByteTrack and BoT-SORT.
    """
    try:
        path = str(find_asset(name, "trackers"))
    except FileNotFoundError as error:
        stock = [file.name for file in sorted((ROOT / "cfg" / "trackers").glob("*.yaml"))]
        if Path(name).with_suffix(".yaml").name not in stock and "://" not in str(name):
            known = [*list_assets("trackers"), *stock]
            raise FileNotFoundError(
                f"no tracker yaml named '{name}'{suggest(name, known)}. Shipped: {', '.join(known)}."
            ) from error
        path = str(check_yaml(str(name) if Path(name).suffix else f"{name}.yaml"))
    from ultralytics.trackers.track import TRACKER_MAP  # not before it is needed: it takes the trackers along

    settings = YAML.load(path)
    kind = settings.get("tracker_type")
    if kind not in TRACKER_MAP:
        types = ", ".join(TRACKER_MAP)
        raise OptionError(f"{path}: tracker_type is {kind!r}{suggest(kind, TRACKER_MAP)}. One of: {types}")
    if "uncertainty" in settings:
        _check(settings, Path(path).name)
    return path


def tracker_options(settings: Mapping[str, Any] | None) -> TrackerOptions:
    """Return the options of an ``uncertainty:`` section.

    Raises:
        OptionError: An option is unknown, ill-typed or out of range.
    """
    return parse_options(TrackerOptions, settings, "uncertainty")


def _check(settings: Mapping[str, Any], where: str) -> None:
    """Refuse what a tracker would ignore or fail on later."""
    kind = settings.get("tracker_type")
    if kind not in BASES:
        raise OptionError(f"{where}: only {' and '.join(BASES)} take an uncertainty: section, not {kind}")
    known = YAML.load(ROOT / "cfg" / "trackers" / f"{kind}.yaml")
    for key in settings.keys() - known.keys() - {"uncertainty"}:
        raise OptionError(f"{where}: unknown key {key!r}{suggest(key, [*known, 'uncertainty'])}")
    if missing := known.keys() - settings.keys():
        raise OptionError(f"{where}: {', '.join(sorted(missing))} is missing")
    parse_options(TrackerOptions, settings["uncertainty"], f"{where}: uncertainty")
