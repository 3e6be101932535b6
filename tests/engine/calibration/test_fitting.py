from __future__ import annotations

import json

import numpy as np
import pytest

from yolo_uncert import YOLO
from yolo_uncert.engine.calibrate import _fit, _quality, check_size, fit_calibration, measure
from yolo_uncert.engine.calibration import Calibration
from yolo_uncert.engine.calibration_table import noise
from yolo_uncert.functional.calibrators import Isotonic, Temperature
from yolo_uncert.functional.records import Matches
from yolo_uncert.options import OptionError
from yolo_uncert.run_options import CalibrationOptions


def records(n=2000, images=100, columns=4, seed=0):
    """Matches whose sigma is half of what it should be, of heavy-tailed errors."""
    rng = np.random.default_rng(seed)
    sigma = np.exp(rng.normal(size=(n, columns)))
    values = {"iou": np.ones(n), "conf": np.ones(n), "cls": np.zeros(n, int), "boxes": np.ones((n, columns))}
    residual = 2 * sigma * rng.standard_t(5, size=sigma.shape)
    image = np.arange(n) % images
    return Matches(residual=residual, sigma=sigma, image=image, shapes=np.full((images, 2), 64.0), **values)


@pytest.mark.parametrize("method", ["temperature", "isotonic", "conformal"])
@pytest.mark.parametrize("columns", [4, 5])
def test_every_method_calibrates_what_it_was_not_fitted_on(method, columns):
    before, after = measure(records(columns=columns), CalibrationOptions(method=method))
    assert (before.error > 0.15).all()
    assert (after.error < 0.03).all()
    assert (after.nll < before.nll).all()
    assert before.within68.mean() < 0.5
    assert after.within68 == pytest.approx([0.683] * columns, abs=0.04)
    if method == "conformal":
        assert after.within == pytest.approx([0.9] * columns, abs=0.02)
        assert after.boxwise == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("method", ["temperature", "conformal"])
def test_what_is_said_of_a_calibration_holds_on_a_fresh_sample(method):
    """Heavy tails and a scale of each image's own: a fit to some images is not quite right on others."""

    def sample(seed):
        random = np.random.default_rng(seed)
        plain = records(1200, 80, seed=seed)
        scale = np.exp(0.3 * random.standard_normal(80))[plain.image, None]
        return Matches(**{**vars(plain), "residual": plain.sigma * scale * random.standard_t(4, plain.sigma.shape)})

    options, said, seen = CalibrationOptions(method=method), [], []
    for seed in range(6):
        fitted, fresh = sample(seed), sample(seed + 100).take(np.arange(600))
        said.append(measure(fitted, options)[1].error.mean())
        scale, conformal = _fit(fitted.take(np.arange(600)), options)
        seen.append(_quality(fresh, fresh.sigma * scale.factor(fresh.sigma), conformal, 0.9).error.mean())
    assert np.mean(said) == pytest.approx(np.mean(seen), rel=0.35)
    assert np.mean(said) > 0.8 * noise(600), "no better than a true sigma on as many boxes"


def test_each_half_of_the_images_is_calibrated_by_the_other(monkeypatch):
    """Fitted on itself, a half would have the temperature of its own errors."""
    matches = records(400, 2)
    doubled = np.where(matches.image == 0, 4.0, 1.0)[:, None]
    matches = Matches(**{**vars(matches), "residual": matches.residual * doubled})
    _, after = measure(matches, CalibrationOptions())
    (by_first, by_second) = (Temperature.fit(*(x[matches.image == i] for x in pair(matches))).factors for i in (0, 1))
    assert (by_first > 3 * by_second).all()
    within = np.abs(matches.residual) <= matches.sigma * np.where(matches.image[:, None] == 0, by_second, by_first)
    assert after.within68 == pytest.approx(within.mean(0))


def pair(matches):
    return matches.residual, matches.sigma


def test_record_and_table():
    found, table = fit_calibration(
        records(), CalibrationOptions(method="conformal", level=0.8), {"a": 1}, "b.yaml", "val"
    )
    assert (found.method, found.level, found.settings) == ("conformal", 0.8, {"a": 1})
    assert found.conformal.n == 2000
    assert {k: found.origin[k] for k in ("data", "split", "boxes", "images", "target")} == {
        "data": "b.yaml", "split": "val", "boxes": 2000, "images": 100, "target": "coverage",
    }  # fmt: skip
    before, after = found.origin["calibration_error"]
    assert after < 0.03 < before
    head, names, *rows = table.splitlines()
    assert "2000 boxes of 100 images; measured on halves" in head
    assert "within 0.8" in names
    assert [row.split()[0] for row in rows] == ["x1", "y1", "x2", "y2", "all", "box"]
    assert all(row.count("->") == 4 for row in rows[:-1])


def test_round_trip_through_json(calibration):
    for found in (calibration(), calibration(5, conformal=True)):
        again = Calibration.from_dict(json.loads(json.dumps(found.as_dict())))
        assert json.dumps(again.as_dict()) == json.dumps(found.as_dict())
    isotonic, _ = fit_calibration(records(), CalibrationOptions(method="isotonic"), {}, "b.yaml", "val")
    assert type(Calibration.from_dict(json.loads(json.dumps(isotonic.as_dict()))).scale) is Isotonic


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (
            29,
            {"method": "conformal"},
            "method=conformal needs at least 30 boxes .* there are 29: give more images$",
        ),
        (98, {"method": "conformal", "level": 0.99}, "at level=0.99 needs at least 99 boxes .* 98: .*lower level"),
        (
            29,
            {"method": "temperature"},
            "method=temperature needs at least 30 boxes matched with an object, and there are 29: give more images",
        ),
        (199, {"method": "isotonic"}, "needs at least 200 boxes"),
        (0, {}, "there are 0"),
    ],
)
def test_too_few_boxes(n, options, message):
    options = CalibrationOptions(**options)
    with pytest.raises(OptionError, match=message):
        fit_calibration(records(n), options, {}, "b.yaml", "val")
    if n:
        check_size(n + 1, options)


def test_halves_that_are_too_small_are_not_measured():
    found, table = fit_calibration(records(40, 10), CalibrationOptions(method="temperature"), {}, "b.yaml", "val")
    assert found.origin["calibration_error"][1] is None
    assert "too few boxes to measure it by halves" in table
    assert "->" not in table
    assert measure(records(400, 1), CalibrationOptions())[1] is None, "one image has no halves"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.0}, "level must be between 0 and 1, not 1.0"),
        ({"level": 0}, "level must be between 0 and 1"),
        ({"method": "temprature"}, "did you mean 'temperature'"),
        ({"target": "sharp"}, "Allowed: coverage, nll"),
        ({"out": "a.onnx"}, "out must be a .pt file"),
        ({"out": "a.pt", "inplace": True}, "either out or inplace=True"),
    ],
)
def test_bad_options(tiny, options, message):
    with pytest.raises(OptionError, match=f"calibrate.*{message}"):
        YOLO(tiny.weights("detect")).calibrate(data="nowhere.yaml", **options)
