"""After-training calibration of standard deviations: what a model carries of it, and how results are made to follow it.

A calibration lives as a plain dict in the attribute ``sigma_calibration`` of the model object, which copies,
``fuse()``, ``half()`` and the checkpoint keep, and as JSON in the metadata of an exported file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ultralytics.utils import LOGGER

from yolo_uncert.engine.rules import pick_source
from yolo_uncert.functional.calibrators import Scale, scale_from_dict
from yolo_uncert.functional.conformal import Conformal
from yolo_uncert.options import OptionError
from yolo_uncert.run_options import RunOptions
from yolo_uncert.schema import Schema

ATTRIBUTE = METADATA_KEY = "sigma_calibration"
"""Attribute of the model object, and key of an exported file's metadata."""

VOTING = ("suppress", "soft_sigma", "iou", *(f.name for f in fields(RunOptions) if f.name.startswith("vote_")))
"""Run options that change standard deviations when boxes vote."""

SIDES = [2, 3, 2, 3, 4]
"""Coordinate of an oriented box (x, y, w, h, angle) whose factor each of l, t, r, b and angle follows: w is l + r."""


@dataclass(frozen=True)
class Calibration:
    """How the standard deviations of a model are corrected.

    Attributes:
        method: ``temperature``, ``isotonic`` or ``conformal``.
        level: Coverage that was asked for.
        scale: Map of the standard deviations, in pixels of the original image (rad for an angle).
        conformal: Scores of |e| over corrected sigma, for intervals; of the conformal method only.
        settings: What the standard deviations depend on, as it was when they were measured, see `settings_of`.
        origin: Where it comes from: data, split, boxes, images, date, version, and what was measured before and after.
    """

    method: str
    level: float
    scale: Scale
    conformal: Conformal | None
    settings: dict[str, Any]
    origin: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for checkpoints and JSON."""
        conformal = self.conformal.as_dict() if self.conformal else None
        return {**vars(self), "scale": self.scale.as_dict(), "conformal": conformal}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Return what ``as_dict`` wrote."""
        conformal = Conformal.from_dict(values["conformal"]) if values["conformal"] else None
        return cls(**{**values, "scale": scale_from_dict(values["scale"]), "conformal": conformal})


def calibration_of(model: Any) -> Calibration | None:
    """Return the calibration that a model carries.

    Args:
        model: A detection model, or the AutoBackend around one or around an exported file.
    """
    values = None
    while model is not None and not values:
        values, model = getattr(model, ATTRIBUTE, None), getattr(model, "model", None)
    values = json.loads(values) if isinstance(values, str) else values
    return Calibration.from_dict(values) if values else None


def check_interval_level(model: Any, options: RunOptions, mode: str) -> None:
    """Refuse a level of intervals that the calibration of a model cannot support, before anything is done.

    Args:
        model: The model in memory; of an exported file, whose calibration is read when it is loaded, the path.
        options: Run options.
        mode: What the message begins with.

    Raises:
        OptionError: The level is above the largest that the calibration set supports.
    """
    calibration = None if isinstance(model, str) else calibration_of(model)
    if not options.calibrated or calibration is None or calibration.conformal is None:
        return
    # Of another source intervals are Gaussian.
    if options.sigma_source in (None, calibration.settings.get("sigma_source")):
        try:
            calibration.conformal.quantile(options.interval_level)
        except ValueError as error:
            raise OptionError(f"{mode}: {error}") from error


def settings_of(schema: Schema, args: SimpleNamespace, *, end2end: bool = False) -> dict[str, Any]:
    """Return what the standard deviations of a model depend on.

    Args:
        schema: Order of the extra channels.
        args: Run options and ``imgsz``.
        end2end: The head selects its detections itself.

    Raises:
        OptionError: ``sigma_source`` asks for what this model does not predict.
    """
    voting = {name: getattr(args, name) for name in VOTING} if args.var_vote and not end2end else {}
    return {
        "sigma_source": pick_source(schema.names, args.sigma_source),
        "imgsz": int(np.max(args.imgsz)),
        "end2end": bool(end2end),
        "var_vote": bool(voting),
        **voting,
    }


def as_indices(classes: Any) -> list[int] | None:
    """Return the option ``classes`` as a sorted list, None for all."""
    return sorted(int(index) for index in np.ravel([] if classes is None else classes)) or None


def applicable(
    calibration: Calibration | None, schema: Schema, args: SimpleNamespace, *, end2end: bool = False
) -> Calibration | None:
    """Return the calibration if it is to be applied under these options, with a warning where it may not fit.

    Args:
        calibration: What the model carries.
        schema: Order of the extra channels.
        args: Run options; ``calibrated=False`` wants standard deviations as predicted.
        end2end: The head selects its detections itself.

    Raises:
        OptionError: ``sigma_source`` asks for what this model does not predict.
    """
    if calibration is None or not args.calibrated:
        return None
    now, then = settings_of(schema, args, end2end=end2end), calibration.settings
    if now["sigma_source"] == "none":
        return None
    if "classes" in then:  # it was fitted to these alone
        now["classes"] = as_indices(args.classes)
    if now["sigma_source"] != then["sigma_source"]:
        _warn(
            f"the calibration is that of sigma_source={then['sigma_source']} and not applied to "
            f"sigma_source={now['sigma_source']}",
            calibration,
        )
        return None
    same_vote = then["var_vote"] == now["var_vote"]
    names = [name for name in {**then, **now} if same_vote or name not in VOTING]  # unknown where boxes did not vote
    if other := [f"{k}={then.get(k)} (now {now.get(k)})" for k in names if then.get(k) != now.get(k)]:
        made = f"the calibration was made with {', '.join(other)}"
        _warn(f"{made}: it may not fit; calibrate again with these settings", calibration)
    return calibration


def apply_calibration(fields: Mapping[str, torch.Tensor], calibration: Calibration | None) -> dict[str, torch.Tensor]:
    """Correct the standard deviations of detections.

    Args:
        fields: Fields of Detections in pixels of the original image, see ``scale_fields``; ``std`` may have no columns.
        calibration: What `applicable` returned; without one the fields stay as they are.

    Returns:
        New fields: ``std`` corrected, ``sides`` with the factors of width, height and angle, so that l and r still add
        up to the width.
    """
    fields = dict(fields)
    if calibration is None or "std" not in fields or not fields["std"].shape[1]:
        return fields
    std = fields["std"]
    factor = std.new_tensor(calibration.scale.factor(std.detach().cpu().double().numpy()))
    fields["std"] = std * factor
    if "sides" in fields:
        sides = fields["sides"]
        fields["sides"] = torch.cat((sides[:, :5] * factor[:, SIDES], sides[:, 5:]), 1)
    return fields


def write_calibration(exporter: Any) -> None:
    """Callback ``on_export_start``: note the calibration in the exported file's metadata."""
    if (calibration := calibration_of(exporter.model)) is not None:
        exporter.metadata[METADATA_KEY] = json.dumps(calibration.as_dict())


def _warn(message: str, calibration: Calibration) -> None:
    """Warn once of each calibration, not for every image."""
    _warn_once(message, str(calibration.origin))


@cache
def _warn_once(message: str, _: str) -> None:
    LOGGER.warning(message)
