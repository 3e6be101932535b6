"""Plot of what the scores of all detections are worth: precision and overlap at each score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

from yolo_uncert.functional.records import Floats, Integers, Scored
from yolo_uncert.functional.score_calibration import ScoreBins, d_ece, reliability_bins
from yolo_uncert.report.style import BLUE, GREY, ORANGE, canvas, hint, log_scale, note

BINS = 20


def score_plot(scored: Scored, file: Path) -> Figure:
    """Plot precision at IoU 0.5 and mean overlap against the score, and the number of detections below.

    Detections whose overlap is not finite have no part in the mean overlap.

    Args:
        scored: All detections.
        file: Image to write.

    Returns:
        The figure, as written.
    """
    with canvas(file, (5.6, 6.6)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        upper.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1.2)
        hint(upper, 0.98, 0.05, "below the diagonal:\nscore too high", ha="right")
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="precision, mean IoU")
        upper.set_title("Score reliability")
        lower.set(xlabel="score", ylabel="detections")
        if len(scored.conf):
            bins = reliability_bins(scored.conf, scored.matched, BINS)
            _precision(upper, bins, d_ece(scored.conf, scored.matched, BINS))
            _overlap(upper, scored)
            upper.legend(loc="upper left", reverse=True)
            lower.bar(bins.edges[:-1], bins.count, np.diff(bins.edges), align="edge", color=BLUE, alpha=0.6, ec="white")
            lower.set_ylim(0.7, 1.5 * bins.count.max())
            log_scale(lower, "y")
        else:
            note(upper, "no detections")
    return figure


def _precision(axes: Axes, bins: ScoreBins, error: float) -> None:
    """Draw the precision of every bin with its 95 % interval."""
    used = bins.count > 0
    y = bins.mean_target[used]
    spread = np.abs(_wilson(y, bins.count[used]) - y)
    label = f"precision at IoU 0.5 (D-ECE {error:.3f})"
    axes.errorbar(bins.mean_conf[used], y, spread, color=BLUE, marker="o", elinewidth=1, label=label)


def _overlap(axes: Axes, scored: Scored) -> None:
    """Draw the mean overlap of every bin."""
    known = np.isfinite(scored.iou)
    if known.any():
        bins = reliability_bins(scored.conf[known], scored.iou[known].clip(0, 1), BINS)
        used = bins.count > 0
        axes.plot(bins.mean_conf[used], bins.mean_target[used], color=ORANGE, marker="s", label="mean IoU")


def _wilson(share: Floats, count: Integers) -> Floats:
    """Return Array[2, B], Wilson's 95 % interval of each share."""
    tests = [binomtest(round(p * n), int(n)).proportion_ci(method="wilson") for p, n in zip(share, count, strict=True)]
    return np.array([(test.low, test.high) for test in tests]).T
