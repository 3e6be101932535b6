"""Comparison of models and settings: variants, intervals, table and files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from yolo_uncert.compare import compare
from yolo_uncert.compare.settings import combinations, short_names
from yolo_uncert.compare.tables import table, write
from yolo_uncert.compare.variants import Interval, Variant, variants_of
from yolo_uncert.functional.records import Matches, Scored
from yolo_uncert.model import YOLO
from yolo_uncert.options import OptionError

QUIET = {"imgsz": 64, "batch": 8, "device": "cpu", "workers": 0, "verbose": False}


def test_interval_by_hand():
    # The first value is the data set itself; 95 % of 1 ... 101 lie between 3.5 and 98.5, around a mean of 51.
    interval = Interval.of(np.array([51.0, *range(1, 102)]))
    assert (interval.value, interval.low, interval.high) == pytest.approx((51, 3.5, 98.5))
    moved = Interval.of(np.array([7.0, *range(1, 102)]))
    assert (moved.low, moved.high) == pytest.approx((3.5 - 44, 98.5 - 44)), "a bias of the draws is taken out"
    assert interval.significant
    assert not Interval(0.5, -0.1, 1.0).significant
    assert Interval(-0.5, -0.9, -0.1).significant
    assert np.isnan(Interval.of(np.full(4, np.nan)).low)


def test_options_with_several_values_make_variants():
    options = {"suppress": "hard,soft", "var_vote": (False, True), "classes": [0, 1], "conf": 0.1}
    assert combinations(options) == [{"suppress": s, "var_vote": v} for s in ("hard", "soft") for v in (False, True)]
    assert options == {"classes": [0, 1], "conf": 0.1}, "a list of classes is one value"
    options = {"suppress": "soft", "iou": [0.5], "imgsz": (640,)}
    assert combinations(options) == [{}]
    assert options == {"suppress": "soft", "iou": 0.5, "imgsz": 640}, "a list of one is its value"
    assert combinations({"vote_sigma": "0.02, 0.05"}) == [{"vote_sigma": 0.02}, {"vote_sigma": 0.05}]
    options = {"data_root": "2024,5", "iou": "0.5"}
    assert combinations(options) == [{}]
    assert options["data_root"] == "2024,5", "a folder is what it is called"
    assert combinations({"var_vote": "True,False"}) == [{"var_vote": True}, {"var_vote": False}]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a/weights/best.pt", "runs/b/weights/best.pt"], ["a", "b"]),
        (["best.pt", "last.pt"], ["best", "last"]),
        (["x/a/best.pt", "y/a/best.pt"], ["x", "y"]),
        (["a/best.pt", "a/last.pt", "b/last.pt"], ["a/best", "a/last", "b/last"]),
        (["a/best.pt", "a/best.pt"], ["best", "best (2)"]),
    ],
)
def test_names_are_as_short_as_they_can_be(paths, names):
    assert short_names(paths) == names


def test_table_and_files(tmp_path):
    first = Variant("a", {"AP": Interval(60.91, 57.94, 64.0)}, {})
    second = Variant("b", {"AP": Interval(61.5, 58, 65)}, {"AP": Interval(0.59, 0.31, 0.84)})
    assert table([first, second]).splitlines() == [
        "                        AP",
        "a        60.9 (57.9..64.0)",
        "b        61.5 (58.0..65.0)",
        "  gain  +0.6* (+0.3..+0.8)",
        "gain over a; 95% bootstrap intervals over images, * where 0 lies outside",
    ]
    write([first, second], tmp_path / "new")
    rows = list(csv.DictReader((tmp_path / "new" / "comparison.csv").open(encoding="utf-8")))
    assert [row["gain_value"] for row in rows] == ["", "0.59"]
    assert json.loads((tmp_path / "new" / "comparison.json").read_text())[1]["gains"]["AP"]["low"] == 0.31
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_what_is_unknown_is_null_in_json_and_a_dash_in_the_table(tmp_path):
    unknown = Interval(float("nan"), float("nan"), float("nan"))
    variants = [Variant("a", {"NLL": unknown}, {}), Variant("b", {"NLL": Interval(1, 0, 2)}, {"NLL": unknown})]
    assert "nan" not in table(variants)
    write(variants, tmp_path)
    found = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert found[0]["results"]["NLL"] == {"value": None, "low": None, "high": None}


def test_settings_of_one_model(tiny, tmp_path, caplog):
    variants = compare(
        tiny.weights("detect"),
        data=str(tiny.data("detect")),
        samples=20,
        out=tmp_path,
        suppress="hard,soft",
        project=str(tmp_path),
        **QUIET,
    )
    assert [v.name for v in variants] == ["suppress=hard", "suppress=soft"]
    for variant in variants:
        assert variant.results["AP50"].low <= variant.results["AP50"].value + 1e-9
        assert list(variant.results) == ["AP", "AP50", "AP75", "AP90", "NLL", "cal. error", "Spearman"]
    gain = variants[1].results["AP"].value - variants[0].results["AP"].value
    assert variants[1].gains["AP"].value == pytest.approx(gain)
    assert "gain over suppress=hard" in "\n".join(caplog.messages)
    assert (tmp_path / "comparison.json").is_file()


def test_what_was_validated_before_a_failure_is_kept(tiny, tmp_path, monkeypatch, caplog):
    val = YOLO.val

    def fails_at_last(self, **options):
        if options["suppress"] == "iou-guided":
            raise OSError("disk full")
        return val(self, **options)

    monkeypatch.setattr(YOLO, "val", fails_at_last)
    options = {"data": str(tiny.data("detect")), "out": tmp_path, "samples": 20, "project": str(tmp_path), **QUIET}
    with pytest.raises(OSError, match="disk full"):
        compare(tiny.weights("detect"), suppress="hard,soft,iou-guided", **options)
    assert f"the comparison ends here; what was validated so far is in {tmp_path}" in caplog.text
    names = [variant["name"] for variant in json.loads((tmp_path / "comparison.json").read_text())]
    assert names == ["suppress=hard", "suppress=soft"]


def test_models_of_different_tasks_are_not_compared(tiny, monkeypatch):
    monkeypatch.setattr(YOLO, "val", lambda *_, **__: pytest.fail("validates"))
    with pytest.raises(OptionError, match=r"is of task detect, .* is of task obb; their boxes"):
        compare([tiny.weights("detect"), tiny.weights("obb")], data=str(tiny.data("obb")))


def test_none_is_a_value_of_its_own():
    assert combinations({"sigma_source": "dfl,none"}) == [{"sigma_source": "dfl"}, {"sigma_source": "none"}]
    assert combinations({"score_fusion": "none, quality"}) == [{"score_fusion": "none"}, {"score_fusion": "quality"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou": "0.7,7"}, "'iou=7' is an invalid value"),
        ({"iou": "0.7,0.6", "out": "file"}, "out: cannot write to file"),
        ({"score_fusion": "none,gaussian", "sigma_source": "none"}, "score_fusion=gaussian needs standard deviations"),
        ({"vote_weight": "both,bayes", "sigma_source": "none", "var_vote": True}, "vote_weight=bayes"),
        ({"pdq": "False,True", "sigma_source": "none"}, "pdq=True needs horizontal boxes with standard deviations"),
    ],
)
def test_mistakes_are_found_before_the_first_validation(tiny, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(YOLO, "val", lambda *_, **__: pytest.fail("validated"))
    with pytest.raises((OSError, ValueError), match=message):
        compare(f"{tiny.weights('detect')},", data=str(tiny.data("detect")), **options, **QUIET)


def test_what_one_of_the_models_cannot_do_is_found_before_the_first_validation(tiny, monkeypatch):
    monkeypatch.setattr(YOLO, "val", lambda *_, **__: pytest.fail("validated"))
    with pytest.raises(OptionError, match="sigma_source=gaussian: this model has no such branch"):
        compare([tiny.weights("detect"), tiny.weights("stock")], sigma_source="gaussian", **QUIET)


def test_a_model_with_and_without_sigma(tiny, tmp_path):
    weights = [tiny.weights("detect"), tiny.weights("stock")]
    options = {"data": str(tiny.data("detect")), "samples": 5, "out": tmp_path, "project": str(tmp_path)}
    with_sigma, without = compare(weights, **options, **QUIET)
    assert np.isfinite(with_sigma.results["NLL"].value)
    assert np.isnan(without.results["NLL"].value)
    assert np.isfinite(without.gains["AP"].value)


def test_the_same_model_twice_differs_by_nothing(tiny, tmp_path):
    weights = [tiny.weights("detect")] * 2
    options = {"data": str(tiny.data("detect")), "samples": 5, "out": tmp_path, "project": str(tmp_path)}
    _, again = compare(weights, **options, **QUIET)
    assert all(i == Interval(0, 0, 0) for i in again.gains.values())


def test_images_are_paired_by_name_whatever_their_order():
    rng = np.random.default_rng(0)
    image, files, shapes = np.arange(30) % 3, ("a", "b", "c"), np.full((3, 2), 100.0)
    sigma, iou, conf = np.ones((30, 4)), rng.uniform(0.5, 1, 30), rng.uniform(0, 1, 30)
    residual = rng.normal(0, 1, (30, 4)) * (1 + 3 * image[:, None])  # images differ
    correct, cls = iou[:, None] > np.linspace(0.5, 0.95, 10), np.zeros(30, int)
    found = np.ones(30, bool)
    runs = []
    for order in ([0, 1, 2], [1, 2, 0]):  # in the second run image 0 is "b"
        index = np.argsort(order)[image]
        names = tuple(files[i] for i in order)
        matches = Matches(residual, sigma, sigma * 10, iou, conf, cls, index, shapes, names)
        runs.append((names[0], matches, Scored(conf, cls, correct, found, iou, index, cls, index)))
    first, second = variants_of(runs, 20)
    assert first.results["NLL"].high > first.results["NLL"].low
    assert all(gain == Interval(0, 0, 0) for gain in second.gains.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "nothing to compare"), ({"suppress": "hard,soft", "samples": 1}, "samples must be a whole number")],
)
def test_bad_requests(options, message):
    with pytest.raises(OptionError, match=message):
        compare("a.pt", **options)
