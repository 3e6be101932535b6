from __future__ import annotations

import gc
import weakref

import cv2
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from yolo_uncert.report import plot_all, write_report
from yolo_uncert.report.calibration import coverage_plot
from yolo_uncert.report.style import canvas, quantile_groups

NAMES = {0: "<script>", 1: "plate"}


@pytest.mark.parametrize("oriented", [False, True])
def test_every_plot_is_written_and_described(make_matches, make_scored, tmp_path, oriented):
    pictures = plot_all(make_matches(5, oriented), make_scored(50), tmp_path / "new", NAMES)
    assert [picture.file.stem for picture in pictures] == [
        "coverage",
        "scores",
        "sigma_error",
        "sparsification",
        "size",
        "border",
        "worst",
        "best",
    ]
    assert sorted(picture.file for picture in pictures) == sorted((tmp_path / "new").iterdir())
    for picture in pictures:
        assert cv2.imread(str(picture.file)).std() > 0, picture
        assert picture.title
        assert picture.caption.endswith(".")
    file = write_report(tmp_path, "t", {}, [], pictures)
    assert file.stat().st_size > sum(picture.file.stat().st_size for picture in pictures)


def test_plots_leave_no_trace_in_matplotlib(make_matches, tmp_path):
    before, shown = dict(mpl.rcParams), plt.get_fignums()
    figure = weakref.ref(coverage_plot(make_matches(10), tmp_path / "plot.png"))
    gc.collect()
    assert figure() is None
    assert plt.get_fignums() == shown
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("count", "most", "least", "sizes"),
    [(0, 8, 15, []), (1, 8, 15, [1]), (29, 8, 15, [29]), (31, 8, 15, [16, 15]), (999, 8, 15, [125] * 7 + [124])],
)
def test_groups_are_equally_many_rows_in_order(count, most, least, sizes):
    x = np.random.default_rng(0).permutation(count)
    groups = quantile_groups(x, most, least)
    assert [len(rows) for rows in groups] == sizes
    assert [int(v) for rows in groups for v in x[rows]] == list(range(count))


def test_an_inch_has_160_pixels(tmp_path, monkeypatch):
    monkeypatch.undo()
    with canvas(tmp_path / "plot.png", (2, 1)) as figure:
        figure.subplots()
    assert cv2.imread(str(tmp_path / "plot.png")).shape == (160, 320, 3)
