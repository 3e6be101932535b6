from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from yolo_uncert.functional.boxes import UNKNOWN_ANGLE_STD
from yolo_uncert.functional.reliability import LEVELS, calibration_error, coverage
from yolo_uncert.functional.sparsification import ause, sparsification
from yolo_uncert.functional.summary import summarise
from yolo_uncert.report.calibration import coverage_plot, sigma_error_plot, sparsification_plot


def lines(axes):
    """Data of the labelled lines by label."""
    return {line.get_label(): line.get_xydata() for line in axes.lines if not line.get_label().startswith("_")}


@pytest.mark.parametrize("plot", [coverage_plot, sparsification_plot, sigma_error_plot])
@pytest.mark.parametrize(("count", "oriented"), [(0, False), (0, True), (1, True), (2, False), (30, True)])
def test_any_number_of_matches_makes_an_image(make_matches, tmp_path, plot, oriented, count, coarse):
    figure = plot(make_matches(count, oriented), tmp_path / "plot.png")
    width, height = figure.get_size_inches()
    assert cv2.imread(str(tmp_path / "plot.png")).shape == (int(coarse * height), int(coarse * width), 3)
    notes = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert ("no matched boxes" in notes) == (count == 0)


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize(
    ("oriented", "names"), [(False, ["x1", "y1", "x2", "y2"]), (True, ["x", "y", "w", "h", "angle"])]
)
def test_coverage_has_a_line_per_coordinate(make_matches, tmp_path, oriented, names):
    matches = make_matches(60, oriented)
    upper, lower = coverage_plot(matches, tmp_path / "plot.png").axes
    expected = coverage(matches.residual, matches.sigma, LEVELS)
    errors = calibration_error(matches.residual, matches.sigma)
    shown = lines(upper)
    assert list(shown) == [f"{name}   calibration error {error:.3f}" for name, error in zip(names, errors, strict=True)]
    for i, line in enumerate(shown.values()):
        assert_allclose(line, np.column_stack((LEVELS, expected[:, i])))
    for i, name in enumerate(names):
        assert_allclose(lines(lower)[name][:, 1], expected[:, i] - LEVELS)


@pytest.mark.usefixtures("unwritten")
def test_band_of_chance_is_that_of_the_binomial_distribution(make_matches, tmp_path):
    (band,) = coverage_plot(make_matches(100), tmp_path / "plot.png").axes[0].collections
    half = band.get_paths()[0].vertices
    at_half = half[np.isclose(half[:, 0], 0.5), 1]
    # 100 fair coins show 40 to 60 heads with 95 % probability, a textbook value
    assert_allclose([at_half.min(), at_half.max()], [0.4, 0.6])


@pytest.mark.usefixtures("unwritten")
def test_an_unknown_angle_is_left_out(make_matches, tmp_path):
    matches = make_matches(40, oriented=True)
    matches.sigma[:, 4] = UNKNOWN_ANGLE_STD
    assert not any("angle" in label for label in lines(coverage_plot(matches, tmp_path / "plot.png").axes[0]))
    assert len(sigma_error_plot(matches, tmp_path / "plot.png").axes) == 1
    assert len(sparsification_plot(matches, tmp_path / "plot.png").axes) == 1


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize("oriented", [False, True])
def test_sparsification_draws_the_curves_and_the_area_of_the_summary(make_matches, tmp_path, oriented):
    matches = make_matches(60, oriented)
    figure = sparsification_plot(matches, tmp_path / "plot.png")
    assert len(figure.axes) == 1 + oriented
    for axes, columns in zip(figure.axes, (slice(0, 4), slice(4, 5)), strict=False):
        residual, sigma = matches.residual[:, columns], matches.sigma[:, columns]
        error, spread = np.abs(residual).mean(1), sigma.mean(1)
        curve, area = sparsification(error, spread), ause(error, spread)
        shown = lines(axes)
        assert_allclose(shown[f"largest σ first (AUSE {area:.3f})"], np.column_stack((curve.fraction, curve.by_sigma)))
        assert_allclose(shown["largest error first (oracle)"][:, 1], curve.oracle)
        assert_array_equal(shown["random order"][:, 1], 1)
        assert area == pytest.approx(summarise(residual, sigma).ause), "plot and table must not disagree"


@pytest.mark.usefixtures("unwritten")
def test_error_against_sigma_shows_every_value_and_the_rms_of_groups(make_matches, tmp_path):
    matches = make_matches(50)
    (axes,) = sigma_error_plot(matches, tmp_path / "plot.png").axes
    (points,) = axes.collections
    assert len(points.get_offsets()) == 200
    order = np.argsort(matches.sigma.ravel())
    # 200 values make 8 groups of 25
    sigma, error = matches.sigma.ravel()[order].reshape(8, 25), matches.residual.ravel()[order].reshape(8, 25)
    expected = np.column_stack((np.sqrt((sigma**2).mean(1)), np.sqrt((error**2).mean(1))))
    assert_allclose(lines(axes)["RMS error, each of 25 values"], expected)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_many_values_become_a_density(make_matches, tmp_path):
    (axes,) = sigma_error_plot(make_matches(300), tmp_path / "plot.png").axes
    (cells,) = axes.collections
    assert 100 < len(cells.get_offsets()) < 1200, "hexagons instead of 1200 points"


def test_zero_errors_and_zero_sigma_have_a_place(make_matches, tmp_path):
    matches = make_matches(20)
    (axes,) = sigma_error_plot(replace(matches, residual=0 * matches.residual), tmp_path / "plot.png").axes
    assert_array_equal(axes.collections[0].get_offsets()[:, 1], axes.get_ylim()[0])
    (axes,) = sigma_error_plot(replace(matches, sigma=0 * matches.sigma), tmp_path / "plot.png").axes
    assert_array_equal(axes.collections[0].get_offsets()[:, 0], axes.get_xlim()[0])
