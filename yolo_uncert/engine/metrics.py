"""Detection metrics of Ultralytics and what they leave out: AP by overlap, what sigma and the scores are worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.utils.metrics import DetMetrics, OBBMetrics

from yolo_uncert.engine.records import KEYS as RECORDS
from yolo_uncert.engine.records import pdq_of, records_of
from yolo_uncert.functional.pdq import PdqSums
from yolo_uncert.functional.records import Matches, Scored
from yolo_uncert.functional.score_calibration import d_ece, la_ece
from yolo_uncert.functional.summary import SigmaSummary, summarise

KEYS = tuple(field.name for field in fields(SigmaSummary) if field.name != "n")
"""Numbers on sigma that a run reports."""

AP_COLUMNS = {50: 0, 60: 2, 70: 4, 75: 5, 80: 6, 90: 8, 95: 9}
"""Overlap in percent to the column of Ultralytics' AP. What voting gains shows at 75 to 90, not in the mean."""


def sigma_results(prefix: str, summary: SigmaSummary | None) -> dict[str, float]:
    """Return the results under their names; NaN before a validation, so that every epoch has the same columns."""
    keys = [key for key in KEYS if not (prefix and key == "relative")]  # an angle has no size
    return {f"uncert/{prefix}{key}": getattr(summary, key, math.nan) for key in keys}


def ap_results(all_ap: Sequence[Any] | np.ndarray) -> dict[str, float]:
    """Return the mean AP at the overlaps that the stock results lack; 0 without an object or detection, as there.

    Args:
        all_ap: Array[classes, 10], or empty.
    """
    mean = np.mean(all_ap, axis=0) if len(all_ap) else np.zeros(10)
    return {f"metrics/mAP{level}(B)": float(mean[column]) for level, column in AP_COLUMNS.items() if level != 50}


def score_results(scored: Scored | None, pdq: PdqSums | None) -> dict[str, float]:
    """Return how true the scores are, and the detection quality if it was asked for.

    Args:
        scored: All detections, None before a validation.
        pdq: Sums over the images, None unless asked for.
    """
    known = scored is not None and len(scored.conf) > 0
    results = {
        "scores/d_ece": d_ece(scored.conf, scored.matched) if scored is not None and known else math.nan,
        "scores/la_ece": la_ece(scored.conf, scored.iou, scored.cls) if scored is not None and known else math.nan,
    }
    if pdq is not None:
        results |= {
            "uncert/pdq": pdq.pdq,
            "uncert/pdq_spatial": pdq.spatial_quality,
            "uncert/pdq_label": pdq.label_quality,
        }
    return results


def blank_results(prefixes: Sequence[str], *, pdq: bool) -> dict[str, float]:
    """Return every result of ours with its value before a validation."""
    results = {**ap_results([]), **score_results(None, PdqSums() if pdq else None)}
    for prefix in prefixes:
        results.update(sigma_results(prefix, None))
    return results


class _SigmaMetrics(DetMetrics):
    """Collect records of matches and scores beside the stock statistics.

    Attributes:
        prefixes: What the model provides, see sigma_prefixes; set before each validation.
        sigma: Summary over the box coordinates in pixels, None without.
        angle_sigma: The same of the angle in rad (oriented boxes), None without.
        matches: The matched boxes with their errors, None before a validation.
        scored: All detections with their scores, None before a validation.
        pdq: Detection quality, None unless asked for.
        pdq_classes: The same by class.
        scores: What ``score_results`` says of them.
        further: Tables of evaluations by other rules, of a validation by itself.
    """

    def __init__(self, names: dict[int, str] | None = None) -> None:
        """Register the further statistics; gathering and clearing them is upstream's work."""
        super().__init__(names)
        self.stats.update({key: [] for key in RECORDS})
        self.prefixes: tuple[str, ...] = ()
        self.sigma: SigmaSummary | None = None
        self.angle_sigma: SigmaSummary | None = None
        self.matches: Matches | None = None
        self.scored: Scored | None = None
        self.pdq: PdqSums | None = None
        self.pdq_classes: dict[int, PdqSums] | None = None
        self.scores = score_results(None, None)
        self.further: list[Any] = []
        self._by_class: dict[bool, dict[int, SigmaSummary]] = {}

    def process(self, save_dir: Path = Path("."), plot: bool = False, on_plot: Any = None) -> dict[str, np.ndarray]:
        """Compute the stock metrics, the records and their summaries."""
        stats: dict[str, np.ndarray] = super().process(save_dir, plot, on_plot)
        self.matches, self.scored = records_of(stats)
        self._by_class = {}
        self.pdq_classes = pdq_of(stats)
        self.pdq = sum(self.pdq_classes.values(), PdqSums()) if self.pdq_classes else None
        self.sigma = summarise_matches(self.matches) if "" in self.prefixes else None
        self.angle_sigma = summarise_matches(self.matches, angle=True) if "angle_" in self.prefixes else None
        self.scores = score_results(self.scored, self.pdq)
        return stats

    def class_summaries(self, *, angle: bool = False) -> dict[int, SigmaSummary]:
        """Return the summary of each class that was matched, computed when it is first asked for.

        Args:
            angle: Of the angle in rad rather than of the box coordinates in pixels.
        """
        if angle not in self._by_class and self.matches is not None:
            matches = self.matches
            self._by_class[angle] = {
                int(cls): summarise_matches(matches.take(matches.cls == cls), angle=angle)
                for cls in np.unique(matches.cls)
            }
        return self._by_class.get(angle, {})

    @property
    def results_dict(self) -> dict[str, float]:
        """Return the stock results, AP at more overlaps, ``uncert/...`` in pixels and ``uncert/angle_...`` in rad."""
        results: dict[str, float] = {**super().results_dict, **ap_results(self.box.all_ap), **self.scores}
        for prefix in self.prefixes:
            results.update(sigma_results(prefix, self.angle_sigma if prefix else self.sigma))
        return results


def summarise_matches(matches: Matches, *, angle: bool = False) -> SigmaSummary:
    """Summarise sigma of the box coordinates in pixels, or of the angle in rad."""
    columns = slice(4, 5) if angle else slice(0, 4)
    sides = matches.boxes[:, 2:4] - (0 if matches.oriented else matches.boxes[:, :2])
    size = None if angle else np.sqrt(np.clip(sides, 1, None).prod(1))
    return summarise(matches.residual[:, columns], matches.sigma[:, columns], size)


class UncertDetMetrics(_SigmaMetrics):
    """Metrics of horizontal boxes with uncertainty."""


class UncertOBBMetrics(_SigmaMetrics, OBBMetrics):
    """Metrics of oriented boxes with uncertainty."""
