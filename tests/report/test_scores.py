from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose

from yolo_uncert.functional.score_calibration import d_ece, reliability_bins
from yolo_uncert.report.scores import BINS, score_plot


def curves(figure):
    """Points of precision, and of mean IoU if there is such a line."""
    upper = figure.axes[0]
    (precision,) = upper.containers
    overlap = [line.get_xydata() for line in upper.lines if line.get_label() == "mean IoU"]
    return precision.lines[0].get_xydata(), *overlap


@pytest.mark.parametrize("count", [0, 1, 200])
def test_any_number_of_detections_makes_an_image(make_scored, tmp_path, count, coarse):
    figure = score_plot(make_scored(count), tmp_path / "plot.png")
    assert cv2.imread(str(tmp_path / "plot.png")).shape == (6.6 * coarse, 5.6 * coarse, 3)
    assert ("no detections" in [text.get_text() for text in figure.axes[0].texts]) == (count == 0)


@pytest.mark.usefixtures("unwritten")
def test_lines_are_precision_and_overlap_of_the_used_bins(make_scored, tmp_path):
    scored = make_scored(25)
    figure = score_plot(scored, tmp_path / "plot.png")
    for line, target in zip(curves(figure), (scored.correct[:, 0], scored.iou), strict=True):
        bins = reliability_bins(scored.conf, target, BINS)
        used = bins.count > 0
        assert 0 < used.sum() < BINS, "some bins of this example are empty"
        assert_allclose(line, np.column_stack((bins.mean_conf, bins.mean_target))[used])
    assert [bar.get_height() for bar in figure.axes[1].patches] == bins.count.tolist()
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    error = d_ece(scored.conf, scored.correct[:, 0], BINS)
    assert texts == [f"precision at IoU 0.5 (D-ECE {error:.3f})", "mean IoU"]


@pytest.mark.usefixtures("unwritten")
def test_bars_are_wilson_intervals(make_scored, tmp_path):
    scored = make_scored(10)
    scored = replace(scored, conf=np.full(10, 0.72), matched=np.arange(10) < 7)  # 7 of 10 right
    (precision,) = score_plot(scored, tmp_path / "plot.png").axes[0].containers
    (bar,) = precision.lines[2][0].get_segments()
    # p = 0.7, n = 10, z = 1.96: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    assert_allclose(bar[:, 1], [0.39677, 0.89221], atol=1e-4)


@pytest.mark.usefixtures("unwritten")
def test_unknown_overlaps_are_left_out(make_scored, tmp_path):
    scored = make_scored(30)
    some = scored.iou.copy()
    some[:10] = np.nan
    _, overlap = curves(score_plot(replace(scored, iou=some), tmp_path / "plot.png"))
    bins = reliability_bins(scored.conf[10:], scored.iou[10:], BINS)
    assert_allclose(overlap[:, 1], bins.mean_target[bins.count > 0])
    assert len(curves(score_plot(replace(scored, iou=np.full(30, np.nan)), tmp_path / "plot.png"))) == 1
