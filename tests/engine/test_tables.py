"""Tables of a validation: what they hold, by class and over all, and what is written."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from yolo_uncert.engine.metrics import score_results, summarise_matches
from yolo_uncert.engine.tables import Table, as_dict, as_text, interval_table, summaries, tables, titles, write_results
from yolo_uncert.functional.conformal import Conformal
from yolo_uncert.functional.records import Matches, Scored

NAMES = {0: "car", 1: "bus"}


@pytest.fixture
def metrics():
    """Three matches of cars and two of buses, oriented."""
    rng = np.random.default_rng(0)
    boxes = np.tile([50.0, 50.0, 30.0, 10.0, 0.1], (5, 1))
    matches = Matches(
        residual=rng.normal(size=(5, 5)),
        sigma=rng.uniform(0.5, 2, (5, 5)),
        boxes=boxes,
        iou=np.full(5, 0.8),
        conf=np.full(5, 0.9),
        cls=np.array([0, 1, 0, 1, 0]),
        image=np.zeros(5, int),
        shapes=np.array([[100.0, 100]]),
    )
    scored = Scored(
        conf=np.array([0.75, 0.25]),
        cls=np.array([0, 1]),
        correct=np.array([[True] * 10, [False] * 10]),
        matched=np.array([True, False]),
        iou=np.array([0.5, 0.0]),
        image=np.zeros(2, int),
        target_cls=np.array([0]),
        target_image=np.array([0]),
    )
    scores = score_results(scored, None)
    all_ap = np.array([np.linspace(0.9, 0, 10), np.linspace(0.7, 0, 10)])
    return SimpleNamespace(
        names=NAMES,
        prefixes=("", "angle_"),
        matches=matches,
        scored=scored,
        pdq=None,
        pdq_classes=None,
        further=[Table("COCO", ("Class", "AP"), [("all", math.nan)])],
        scores=scores,
        sigma=summarise_matches(matches),
        angle_sigma=summarise_matches(matches, angle=True),
        class_summaries=lambda angle: {
            cls: summarise_matches(matches.take(matches.cls == cls), angle=angle) for cls in (0, 1)
        },
        box=SimpleNamespace(all_ap=all_ap),
        ap_class_index=[0, 1],
        results_dict={"fitness": np.float64(0.5), "uncert/nll": math.nan},
    )


def test_each_class_has_its_rows_and_the_angle_its_own(metrics):
    found = summaries(metrics)
    assert list(found) == ["all", "car", "bus", "all angle (rad)", "car angle (rad)", "bus angle (rad)"]
    assert [s.n for s in found.values()] == [5, 3, 2] * 2
    cars = metrics.matches.take(metrics.matches.cls == 0)
    assert found["car"].error == pytest.approx(np.abs(cars.residual[:, :4]).mean())
    assert found["car angle (rad)"].sharpness == pytest.approx(cars.sigma[:, 4].mean())
    assert found["car"].relative == pytest.approx(cars.sigma[:, :4].mean() / math.sqrt(300))
    assert list(summaries(metrics, classes=False)) == ["all", "all angle (rad)"]


def test_tables(metrics):
    ap, sigma, coverage, scores = tables(metrics)
    name, *values = ap.rows[0]
    assert name == "all"
    assert values == pytest.approx([0.8, 0.8 * 7 / 9, 0.8 * 5 / 9, 0.8 * 4 / 9, 0.8 / 3, 0.8 / 9, 0, 0.4])
    assert [row[0] for row in ap.rows] == ["all", "car", "bus"]
    assert sigma.header[:3] == ("Class", "Boxes", "Error")
    assert len(sigma.rows) == len(coverage.rows) == 6
    # D-ECE: |0.75 - 1| and |0.25 - 0|, half of the detections each. LaECE0: |0.75 - 0.5| and |0.25 - 0|.
    assert scores.rows == [("all", 2, 0.25, 0.25), ("car", 1, 0.25, 0.25), ("bus", 1, 0.25, 0.25)]
    metrics.prefixes = ()
    assert [t.caption for t in tables(metrics)] == ["AP at IoU", "Scores"]


def test_text_is_aligned_and_marks_what_is_unknown():
    text = as_text(Table("Sigma (px)", ("Class", "Boxes", "NLL"), [("all", 12, 1.23456), ("bus", 0, math.nan)]))
    assert text.splitlines() == [
        "            Sigma (px)      Boxes        NLL",
        "                   all         12       1.23",
        "                   bus          0          -",
    ]


def test_json_holds_plain_values_only(metrics):
    found = as_dict(metrics, {"conf": 0.001})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["results"] == {"fitness": 0.5, "uncert/nll": None}
    assert found["sigma"]["bus angle (rad)"]["n"] == 2
    assert found["COCO"] == {"all": {"AP": None}}
    assert found["AP at IoU"]["car"]["AP50"] == pytest.approx(0.9)


def test_what_is_written_replaces_what_was_there(metrics, tmp_path):
    (tmp_path / "uncertainty.json").write_text("old")
    write_results(metrics, {"suppress": "hard"}, tmp_path)
    assert json.loads((tmp_path / "uncertainty.json").read_text())["settings"] == {"suppress": "hard"}
    assert (tmp_path / "uncertainty.csv").read_text().splitlines()[1].startswith("all,5,")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["uncertainty.csv", "uncertainty.json"]


def test_classes_that_share_a_name_have_rows_of_their_own():
    assert titles({0: "car", 1: "all", 2: "bus", 3: "bus"}) == {0: "car", 1: "all (1)", 2: "bus (2)", 3: "bus (3)"}


def test_intervals_hold_what_was_calibrated(metrics):
    # Scores 1 ... 99 of one coordinate: the 90 % interval reaches to rank 90, that is 90 sigma.
    scores = np.arange(1.0, 100)[:, None] * np.ones(6)
    conformal = Conformal(99, np.arange(1, 100), scores)
    residual = np.zeros((10, 5))
    residual[:, 0] = np.arange(10) * 10 + 5.0  # 5 ... 95: nine of ten within 90
    matches = Matches(**{**vars(metrics.matches), "residual": residual, "sigma": np.ones((10, 5))})
    table = interval_table(matches, conformal, ["x", "y", "w", "h", "angle"])
    rows = {row[0]: dict(zip(table.header[1:], row[1:], strict=True)) for row in table.rows}
    assert rows["x"]["in 90 %"] == pytest.approx(0.9)
    assert rows["x"]["in 50 %"] == pytest.approx(0.5)
    assert rows["y"]["in 50 %"] == 1
    assert rows["all"]["in 90 %"] == pytest.approx((0.9 + 4) / 5)
    assert rows["box-wise"]["in 90 %"] == pytest.approx(0.9)
    # At 0.05, 0.15 ... the share is 0.05 more, at 0.1, 0.2 ... it is the level.
    assert rows["x"]["Cal. error"] == pytest.approx(10 * 0.05 / 19)
    few = interval_table(matches, Conformal(9, np.arange(1, 10), scores[:9]), ["x", "y", "w", "h", "angle"])
    assert math.isnan(few.rows[0][-1]), "no interval of 95 % from nine boxes"
