"""Detection metrics of Ultralytics plus how well the standard deviations describe the errors of matched boxes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.utils.metrics import DetMetrics, OBBMetrics

from yolo_uncert.engine.candidates import pick_source
from yolo_uncert.engine.records import KEYS as RECORDS
from yolo_uncert.engine.records import records_of
from yolo_uncert.functional.records import Matches, Scored
from yolo_uncert.functional.residuals import SigmaSummary, summarise
from yolo_uncert.schema import Schema

KEYS = ("spearman", "nll", "temperature", "nll_calibrated", "nll_constant", "coverage68", "sharpness", "error")


def sigma_prefixes(schema: Schema, sigma_source: str | None) -> tuple[str, ...]:
    """Return the prefixes of the results that a model provides: ``""`` for the box, ``angle_`` for a predicted angle.

    Raises:
        OptionError: The model does not have the field asked for.
    """
    source = pick_source(schema.names, sigma_source)
    if source == "none":
        return ()
    return ("", "angle_") if schema.task == "obb" and source == "gaussian" else ("",)


def sigma_results(prefix: str, summary: SigmaSummary | None) -> dict[str, float]:
    """Return the results under their names; NaN before a validation, so that every epoch has the same columns."""
    return {f"uncert/{prefix}{key}": getattr(summary, key, math.nan) for key in KEYS}


class _SigmaMetrics(DetMetrics):
    """Collect residuals and standard deviations of matched boxes beside the stock statistics.

    Attributes:
        prefixes: What the model provides, see sigma_prefixes; set before each validation.
        sigma: Summary over the box coordinates in pixels, None without.
        angle_sigma: The same of the angle in rad (oriented boxes), None without.
        matches: The matched boxes with their errors, None before a validation.
        scored: All detections with their scores, None before a validation.
    """

    def __init__(self, names: dict[int, str] | None = None) -> None:
        """Register the further statistics; gathering and clearing them is upstream's work."""
        super().__init__(names)
        self.stats.update({key: [] for key in RECORDS})
        self.matches: Matches | None = None
        self.scored: Scored | None = None
        self.prefixes: tuple[str, ...] = ()
        self.sigma: SigmaSummary | None = None
        self.angle_sigma: SigmaSummary | None = None

    def process(self, save_dir: Path = Path("."), plot: bool = False, on_plot: Any = None) -> dict[str, np.ndarray]:
        """Compute the stock metrics and the summaries of sigma."""
        stats: dict[str, np.ndarray] = super().process(save_dir, plot, on_plot)
        self.matches, self.scored = records_of(stats)
        residual, sigma = stats["residual"], stats["sigma"]
        self.sigma = summarise(residual[:, :4], sigma[:, :4]) if "" in self.prefixes else None
        self.angle_sigma = summarise(residual[:, 4:], sigma[:, 4:]) if "angle_" in self.prefixes else None
        return stats

    @property
    def results_dict(self) -> dict[str, float]:
        """Return the stock results and ``uncert/...`` in pixels, ``uncert/angle_...`` in rad."""
        results: dict[str, float] = super().results_dict
        for prefix in self.prefixes:
            results.update(sigma_results(prefix, self.angle_sigma if prefix else self.sigma))
        return results


class UncertDetMetrics(_SigmaMetrics):
    """Metrics of horizontal boxes with uncertainty."""


class UncertOBBMetrics(_SigmaMetrics, OBBMetrics):
    """Metrics of oriented boxes with uncertainty."""
