from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from ultralytics.utils.metrics import DetMetrics

from yolo_uncert.engine.metrics import (
    KEYS,
    UncertDetMetrics,
    UncertOBBMetrics,
    ap_results,
    blank_results,
    sigma_results,
)
from yolo_uncert.functional.summary import summarise

COLUMNS = [f"uncert/{key}" for key in KEYS]
ANGLE_COLUMNS = [f"uncert/angle_{key}" for key in KEYS if key != "relative"]


def collect(cls, prefixes, residual, sigma):
    """Metrics of one class over two images with one detected object each, and the given matches."""
    metrics = cls({0: "a"})
    metrics.prefixes = prefixes
    for file, rows in zip("xy", np.array_split(np.arange(len(residual)), 2), strict=True):
        one = {"tp": np.ones((1, 10), bool), "conf": np.ones(1), "pred_cls": np.zeros(1), "im_name": f"{file}.jpg"}
        targets = {"target_cls": np.zeros(1), "target_img": np.zeros(1)}
        boxes = np.tile([0.0, 0.0, 9.0, 9.0, 0.0][: residual.shape[1]], (len(rows), 1))
        records = {
            "matched": np.column_stack((boxes, np.full((len(rows), 3), [0.8, 0.9, 0.0]))),
            "hit": np.array([True]),
            "overlap": np.array([0.8]),
            "image": np.array([[20.0, 30.0, 1, 1, len(rows)]]),
            "file": np.array([f"{file}.jpg"], dtype=object),
            "pdq": np.zeros((0, 7)),
            "boxes": boxes[:0],
            "target_boxes": boxes[:0],
        }
        metrics.update_stats({**one, **targets, **records, "residual": residual[rows], "sigma": sigma[rows]})
    metrics.process()
    return metrics


@pytest.fixture
def matches():
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 5)), rng.uniform(0.5, 2.0, (7, 5))


def test_box_and_angle_are_summarised_apart(matches):
    residual, sigma = matches
    metrics = collect(UncertOBBMetrics, ("", "angle_"), residual, sigma)
    assert metrics.sigma == summarise(residual[:, :4], sigma[:, :4], np.full(7, 9.0))
    assert astuple(metrics.angle_sigma) == pytest.approx(astuple(summarise(residual[:, 4:], sigma[:, 4:])), nan_ok=True)
    results = metrics.results_dict
    assert results["uncert/nll"] == metrics.sigma.nll
    assert results["uncert/angle_nll"] == metrics.angle_sigma.nll
    assert [key for key in results if key.startswith("uncert/")] == COLUMNS + ANGLE_COLUMNS


def test_stock_results_stay_as_they_are(matches):
    residual, sigma = (m[:, :4] for m in matches)
    metrics = collect(UncertDetMetrics, ("",), residual, sigma)
    stock = DetMetrics.results_dict.fget(metrics)
    assert {k: v for k, v in metrics.results_dict.items() if k in stock} == stock
    assert stock["metrics/mAP50(B)"] == pytest.approx(0.995), "two of two objects found"
    assert len(metrics.keys) == len(metrics.mean_results()) == len(metrics.class_result(0)) == 4


@pytest.mark.parametrize(
    ("cls", "prefixes", "columns"),
    [
        (UncertDetMetrics, (), []),
        (UncertDetMetrics, ("",), COLUMNS),
        (UncertOBBMetrics, ("", "angle_"), COLUMNS + ANGLE_COLUMNS),
    ],
)
def test_columns_do_not_depend_on_what_was_matched(cls, prefixes, columns):
    width = 5 if cls is UncertOBBMetrics else 4
    fresh = cls({0: "a"})
    fresh.prefixes = prefixes
    for metrics in (fresh, collect(cls, prefixes, np.zeros((0, width)), np.zeros((0, width)))):
        ours = {k: v for k, v in metrics.results_dict.items() if k.startswith("uncert/")}
        assert list(ours) == columns
        assert all(math.isnan(v) for v in ours.values())
    assert [key for prefix in prefixes for key in sigma_results(prefix, None)] == columns
    stock = DetMetrics.results_dict.fget(fresh)
    assert list(blank_results(prefixes, pdq=False)) == [key for key in fresh.results_dict if key not in stock]


def test_statistics_are_cleared_for_the_next_validation(matches):
    residual, sigma = (m[:, :4] for m in matches)
    metrics = collect(UncertDetMetrics, ("",), residual, sigma)
    metrics.clear_stats()
    assert metrics.stats["residual"] == metrics.stats["sigma"] == []
    assert metrics.sigma.n == 7, "the results stay"


def test_records_know_their_image(matches):
    residual, sigma = matches
    metrics = collect(UncertOBBMetrics, ("", "angle_"), residual, sigma)
    assert metrics.matches.image.tolist() == [0] * 4 + [1] * 3
    assert metrics.matches.files == ("x.jpg", "y.jpg")
    assert metrics.matches.shapes.tolist() == [[20, 30]] * 2
    assert np.array_equal(metrics.matches.residual, residual)
    assert metrics.matches.take(metrics.matches.image == 1).sigma.tolist() == sigma[4:].tolist()
    assert metrics.scored.image.tolist() == metrics.scored.target_image.tolist() == [0, 1]
    assert metrics.scored.iou.tolist() == [0.8, 0.8]


def test_ap_by_overlap():
    all_ap = np.array([np.linspace(0.9, 0.0, 10), np.linspace(0.8, 0.8, 10)])  # 0.50, 0.55 ... 0.95
    found = ap_results(all_ap)
    assert found == pytest.approx(
        {
            "metrics/mAP60(B)": (0.7 + 0.8) / 2,
            "metrics/mAP70(B)": (0.5 + 0.8) / 2,
            "metrics/mAP75(B)": (0.4 + 0.8) / 2,
            "metrics/mAP80(B)": (0.3 + 0.8) / 2,
            "metrics/mAP90(B)": (0.1 + 0.8) / 2,
            "metrics/mAP95(B)": (0.0 + 0.8) / 2,
        }
    )
    assert set(ap_results([]).values()) == {0.0}


def test_classes_are_summarised_once_and_anew_after_each_validation(matches, monkeypatch):
    residual, sigma = matches
    metrics = collect(UncertOBBMetrics, ("", "angle_"), residual, sigma)
    assert metrics.class_summaries() == {0: metrics.sigma}, "there is one class"
    assert metrics.class_summaries(angle=True)[0].nll == metrics.angle_sigma.nll
    with monkeypatch.context() as patch:
        patch.setattr("yolo_uncert.engine.metrics.summarise", lambda *_: pytest.fail("summarised again"))
        assert metrics.class_summaries()[0].n == 7
    metrics.stats["sigma"] = [2 * part for part in metrics.stats["sigma"]]
    metrics.process()
    assert metrics.class_summaries()[0].sharpness == pytest.approx(2 * sigma[:, :4].mean())
    assert UncertOBBMetrics({0: "a"}).class_summaries() == {}, "before a validation"
