from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose

from yolo_uncert.functional.residuals import fit_temperature
from yolo_uncert.report.groups import border_distance, border_plot, box_size, size_plot


@pytest.mark.parametrize("plot", [size_plot, border_plot])
@pytest.mark.parametrize(("count", "oriented"), [(0, False), (0, True), (1, True), (2, False), (30, True)])
def test_any_number_of_matches_makes_an_image(make_matches, tmp_path, plot, oriented, count, coarse):
    figure = plot(make_matches(count, oriented), tmp_path / "plot.png")
    assert cv2.imread(str(tmp_path / "plot.png")).shape[0] == coarse * 5.6
    notes = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert ("no matched boxes" in notes) == (count == 0)


def test_size_is_the_root_of_the_area(make_matches):
    matches = make_matches(1)
    assert_allclose(box_size(replace(matches, boxes=np.array([[10.0, 20, 14, 29]]))), 6)
    oriented = replace(make_matches(1, oriented=True), boxes=np.array([[50.0, 50, 4, 9, 0.3]]))
    assert_allclose(box_size(oriented), 6)


@pytest.mark.parametrize(
    ("box", "distance"),
    [
        ((7, 30, 50, 60), 7),
        ((30, 5, 50, 60), 5),
        ((30, 30, 157, 60), 3),
        ((30, 30, 50, 118), 2),
        ((-4, 30, 50, 60), 0),  # beyond the border
        ((60, 60, 20, 10, 0), 50),  # left 50, top 55, right 90, bottom 55
        ((60, 60, 20, 10, math.pi / 2), 50),  # turned: left 55, top 50
        # a square of side 20 on its corner reaches 10 sqrt(2) from its centre
        ((60, 60, 20, 20, math.pi / 4), 60 - 10 * math.sqrt(2)),
        ((60, 60, 20, 20, -math.pi / 4), 60 - 10 * math.sqrt(2)),
    ],
)
def test_distance_is_that_of_the_outermost_corner(make_matches, box, distance):
    matches = replace(make_matches(1, len(box) == 5), boxes=np.array([box], dtype=float))
    assert_allclose(border_distance(matches), distance)


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize("oriented", [False, True])
def test_points_are_root_mean_squares_of_groups_by_size(make_matches, tmp_path, oriented):
    matches = make_matches(45, oriented)
    axes = size_plot(matches, tmp_path / "plot.png").axes
    columns = len(axes) // 2
    assert columns == 1 + oriented, "an angle has axes of its own"
    groups = np.argsort(box_size(matches)).reshape(3, 15)  # 45 boxes make 3 groups of 15
    for i, part in zip(range(columns), (slice(0, 4), slice(4, 5)), strict=False):
        residual, sigma = matches.residual[:, part], matches.sigma[:, part]
        shown = {line.get_label(): line.get_xydata() for line in axes[i].lines}
        assert_allclose(shown["RMS σ"][:, 1], [np.sqrt((sigma[g] ** 2).mean()) for g in groups])
        assert_allclose(shown["RMS error"][:, 1], [np.sqrt((residual[g] ** 2).mean()) for g in groups])
        assert_allclose(shown["RMS σ"][:, 0], [np.median(box_size(matches)[g]) for g in groups])
        ratio = axes[columns + i].lines[1].get_ydata()
        assert_allclose(ratio, [fit_temperature(residual[g], sigma[g]) for g in groups])


@pytest.mark.usefixtures("unwritten")
def test_overconfidence_of_small_boxes_is_seen(make_matches, tmp_path):
    matches = make_matches(400)
    small = box_size(matches) < np.median(box_size(matches))
    sigma = np.where(small[:, None], matches.sigma / 3, matches.sigma)
    ratio = size_plot(replace(matches, sigma=sigma), tmp_path / "plot.png").axes[1].lines[1].get_ydata()
    assert_allclose(ratio, [3, 3, 3, 3, 1, 1, 1, 1], rtol=0.2)


def test_boxes_at_the_border_are_on_the_axis(make_matches, tmp_path):
    matches = make_matches(40)
    matches.boxes[:20, 0] = 0
    _, lower = border_plot(matches, tmp_path / "plot.png").axes
    x = lower.lines[1].get_xdata()
    assert x[0] == 0
    assert lower.get_xlim()[0] < 0 < x[-1] < lower.get_xlim()[1]
