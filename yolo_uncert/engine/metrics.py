"""Detection metrics of Ultralytics plus how well the standard deviations describe the errors of matched boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.utils.metrics import DetMetrics, OBBMetrics

from yolo_uncert.functional.residuals import SigmaSummary, summarise

KEYS = ("spearman", "nll", "temperature", "nll_calibrated", "nll_constant", "coverage68", "sharpness", "error")


class _SigmaMetrics(DetMetrics):
    """Collect residuals and standard deviations of matched boxes beside the stock statistics.

    Attributes:
        sigma: Summary over the box coordinates in pixels, None before the first validation.
        angle_sigma: The same of the angle in rad (oriented boxes), None without.
    """

    def __init__(self, names: dict[int, str] | None = None) -> None:
        """Register the two further statistics; gathering and clearing them is upstream's work."""
        super().__init__(names)
        self.stats["residual"] = []
        self.stats["sigma"] = []
        self.sigma: SigmaSummary | None = None
        self.angle_sigma: SigmaSummary | None = None

    def process(self, save_dir: Path = Path("."), plot: bool = False, on_plot: Any = None) -> dict[str, np.ndarray]:
        """Compute the stock metrics and the summaries of sigma."""
        stats: dict[str, np.ndarray] = super().process(save_dir, plot, on_plot)
        residual, sigma = stats["residual"], stats["sigma"]
        self.sigma = summarise(residual[:, :4], sigma[:, :4])
        known = sigma.shape[1] == 5 and len(sigma) and np.ptp(sigma[:, 4]) > 0
        self.angle_sigma = summarise(residual[:, 4:], sigma[:, 4:]) if known else None
        return stats

    @property
    def results_dict(self) -> dict[str, float]:
        """Return the stock results and ``uncert/...`` in pixels, ``uncert/angle_...`` in rad."""
        results: dict[str, float] = super().results_dict
        for prefix, summary in (("", self.sigma), ("angle_", self.angle_sigma)):
            if summary is not None:
                results.update({f"uncert/{prefix}{k}": v for k, v in summary.as_dict().items() if k in KEYS})
        return results


class UncertDetMetrics(_SigmaMetrics):
    """Metrics of horizontal boxes with uncertainty."""


class UncertOBBMetrics(_SigmaMetrics, OBBMetrics):
    """Metrics of oriented boxes with uncertainty."""
