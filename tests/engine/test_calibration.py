from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from ultralytics.utils import ROOT, YAML
from ultralytics.utils.torch_utils import strip_optimizer

from yolo_uncert import YOLO
from yolo_uncert.cli import USAGE_ERROR, main
from yolo_uncert.compare import _check
from yolo_uncert.config import OptionError
from yolo_uncert.engine import calibration as module
from yolo_uncert.engine import checkpoints
from yolo_uncert.engine.calibrate import _fit, _noise, _quality, check_size, fit_calibration, measure
from yolo_uncert.engine.calibration import (
    ATTRIBUTE,
    Calibration,
    applicable,
    apply_calibration,
    calibration_of,
    settings_of,
)
from yolo_uncert.engine.checkpoints import store_calibration, target_file
from yolo_uncert.functional.calibrators import LEAST_BOXES, Isotonic, Temperature
from yolo_uncert.functional.conformal import Conformal
from yolo_uncert.functional.records import Matches
from yolo_uncert.paths import find_asset
from yolo_uncert.run_options import CalibrationOptions, RunOptions
from yolo_uncert.schema import Schema

QUIET = {"imgsz": 64, "batch": 8, "device": "cpu", "workers": 0}
PREDICT = {"imgsz": 64, "verbose": False, "device": "cpu", "conf": 0.1}
KINDS = pytest.mark.parametrize("kind", ["detect", "obb"])


def calibration(columns=4, conformal=False, **settings):
    """Factors 2, 3, 4, ..., and scores 1 ... 19 of every coordinate."""
    scores = np.repeat(np.arange(1.0, 20)[:, None], columns, axis=1)
    return Calibration(
        method="conformal" if conformal else "temperature",
        level=0.9,
        scale=Temperature(np.arange(2.0, 2 + columns)),
        conformal=Conformal.fit(scores, np.ones_like(scores)) if conformal else None,
        settings={"sigma_source": "gaussian", "imgsz": 64, "end2end": False, "var_vote": False, **settings},
        origin={"data": "a.yaml", "split": "val", "boxes": 19, "images": 7, "target": "coverage"}
        | {"calibration_error": [0.1, 0.02], "date": "2030-01-01", "version": "1"},
    )


def arguments(**given):
    return SimpleNamespace(**{**vars(RunOptions()), "imgsz": 64, "iou": 0.7, **given})


@pytest.fixture(autouse=True)
def _warn_again():
    module._warn_once.cache_clear()


def boxes(result):
    return result.boxes if result.obb is None else result.obb


@pytest.fixture
def weights(tiny, tmp_path):
    """Function that copies a trained checkpoint into the folder of the test."""
    return lambda kind: str(shutil.copy(tiny.weights(kind), tmp_path / f"{kind}.pt"))


@pytest.fixture
def marked(weights):
    """Function that returns a checkpoint with a made-up calibration."""

    def store(kind="detect", **given):
        file = weights(kind)
        store_calibration(file, file, calibration(5 if kind == "obb" else 4, **given).as_dict())
        return file

    return store


@pytest.fixture
def image(tiny):
    return lambda kind: str(sorted((tiny.data(kind).parent / "images" / "train").iterdir())[0])


def calibrate(file, tiny, task, **options):
    """Calibrate by the training images, which the tiny models know."""
    return YOLO(file).calibrate(data=str(tiny.data(task)), split="train", **{**QUIET, "method": "conformal", **options})


# --- applying, by hand ------------------------------------------------------------------------------------------------


def test_std_is_multiplied_and_nothing_else():
    fields = {"std": torch.tensor([[1.0, 1, 1, 1], [0.0, 2, 2, 0.5]]), "iou": torch.tensor([0.5, 0.6])}
    before = fields["std"].clone()
    found = apply_calibration(fields, calibration())
    assert_close(found["std"], torch.tensor([[2.0, 3, 4, 5], [0, 6, 8, 2.5]]))
    assert found["std"].dtype == torch.float32
    assert found["iou"] is fields["iou"]
    assert_close(fields["std"], before)


def test_sides_of_oriented_boxes_follow_width_height_and_angle():
    sides = torch.tensor([[3.0, 6, 4, 8, 0.1, 7, -7]])
    std = torch.tensor([[1.0, 1, 5, 10, 0.1]])  # w: hypot(3, 4), h: hypot(6, 8)
    found = apply_calibration({"std": std, "sides": sides}, calibration(5))
    # Factors of w, h and angle: 4, 5 and 6. The offset is no standard deviation.
    assert_close(found["sides"], torch.tensor([[12.0, 30, 16, 40, 0.6, 7, -7]]))
    assert_close(torch.hypot(found["sides"][:, 0], found["sides"][:, 2]), found["std"][:, 2])
    assert_close(torch.hypot(found["sides"][:, 1], found["sides"][:, 3]), found["std"][:, 3])


def test_nothing_to_apply():
    fields = {"std": torch.ones(2, 4)}
    assert apply_calibration(fields, None)["std"] is fields["std"]
    assert apply_calibration({"iou": torch.ones(2)}, calibration()).keys() == {"iou"}
    assert apply_calibration({"std": torch.ones(2, 0)}, calibration())["std"].shape == (2, 0)
    assert apply_calibration({"std": torch.ones(0, 4)}, calibration())["std"].shape == (0, 4)


# --- whether it fits --------------------------------------------------------------------------------------------------

SCHEMA = Schema("detect", 2, ("gaussian", "dfl"))


def test_applied_unless_switched_off(caplog):
    found = calibration()
    assert applicable(found, SCHEMA, arguments()) is found
    assert applicable(found, SCHEMA, arguments(imgsz=[32, 64])) is found, "the longer side"
    assert applicable(found, SCHEMA, arguments(suppress="soft", iou=0.2)) is found, "no vote, no change of sigma"
    assert applicable(found, SCHEMA, arguments(calibrated=False)) is None
    assert applicable(found, SCHEMA, arguments(sigma_source="none")) is None
    assert applicable(None, SCHEMA, arguments()) is None
    assert not caplog.messages


def test_another_source_of_sigma_is_left_alone(caplog):
    assert applicable(calibration(), SCHEMA, arguments(sigma_source="dfl")) is None
    assert "that of sigma_source=gaussian and not applied to sigma_source=dfl" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgsz": 96}, r"made with imgsz=64 (now 96): it may not fit"),
        ({"var_vote": True, "suppress": "soft"}, "made with var_vote=False (now True): it may not fit"),
    ],
)
def test_other_settings_are_warned_of_once(caplog, options, message):
    found = calibration()
    for _ in range(3):
        assert applicable(found, SCHEMA, arguments(**options)) is found
    assert caplog.text.count(message) == 1


def test_settings_of_a_vote_matter_only_when_boxes_vote():
    voting = settings_of(SCHEMA, arguments(var_vote=True, vote_sigma=0.1))
    assert voting["vote_sigma"] == 0.1
    assert "vote_sigma" not in settings_of(SCHEMA, arguments(vote_sigma=0.1))
    assert settings_of(SCHEMA, arguments(var_vote=True), end2end=True)["var_vote"] is False, "nothing votes there"


# --- fitting ----------------------------------------------------------------------------------------------------------


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
    assert np.mean(said) > 0.8 * _noise(600), "no better than a true sigma on as many boxes"


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


def test_round_trip_through_json():
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


# --- storing ----------------------------------------------------------------------------------------------------------


def test_where_it_is_written():
    source = Path("runs/best.pt")
    assert target_file(source, CalibrationOptions()) == Path("runs/best-calibrated.pt")
    assert target_file(Path("runs/best-calibrated.pt"), CalibrationOptions()) == Path("runs/best-calibrated.pt")
    assert target_file(source, CalibrationOptions(inplace=True)) == source
    assert target_file(source, CalibrationOptions(remove=True)) == source
    assert target_file(source, CalibrationOptions(out="x/y.pt", remove=True)) == Path("x/y.pt")


@pytest.mark.parametrize("option", ["inplace", "remove"])
def test_a_model_that_ships_stays_as_it_is(option):
    shipped = find_asset("uncert-bccd-n.pt", "weights")
    assert target_file(shipped, CalibrationOptions()) == Path("uncert-bccd-n-calibrated.pt"), "in the working directory"
    assert target_file(shipped, CalibrationOptions(out="mine.pt", remove=True)) == Path("mine.pt")
    with pytest.raises(OptionError, match=r"uncert-bccd-n\.pt ships with the package and stays as it is"):
        target_file(shipped, CalibrationOptions(**{option: True}))


def test_failure_leaves_the_old_file(weights, monkeypatch):
    file = Path(weights("detect"))
    before = file.read_bytes()

    def fail(checkpoint, stream):
        stream.write(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints.torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        store_calibration(file, file, calibration().as_dict())
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file], "no remains"


def test_weights_and_everything_else_stay(weights):
    file = Path(weights("detect"))
    file.chmod(0o640)
    before = checkpoints.torch_load(file, map_location="cpu")
    store_calibration(file, file.with_name("new.pt"), calibration().as_dict())
    after = checkpoints.torch_load(file.with_name("new.pt"), map_location="cpu")
    assert after.keys() - before.keys() == {ATTRIBUTE}
    assert file.with_name("new.pt").stat().st_mode & 0o777 == 0o640
    for (name, old), (_, new) in zip(
        before["model"].state_dict().items(), after["model"].state_dict().items(), strict=True
    ):
        assert torch.equal(old, new), name
        assert old.dtype == new.dtype
    store_calibration(file.with_name("new.pt"), file.with_name("new.pt"), None)
    again = checkpoints.torch_load(file.with_name("new.pt"), map_location="cpu")
    assert again.keys() == before.keys()
    assert calibration_of(again["model"]) is None


def test_copies_halves_and_fused_models_keep_it(marked):
    from copy import deepcopy

    file = marked()
    strip_optimizer(file)
    model = YOLO(file).model
    for kept in (model, deepcopy(model), model.half(), model.float().fuse(verbose=False)):
        assert calibration_of(kept).scale.factors.tolist() == [2, 3, 4, 5]
    assert calibration_of(nn.Identity()) is None


# --- the modes --------------------------------------------------------------------------------------------------------


@KINDS
def test_prediction_is_calibrated(marked, tiny, image, kind):
    raw = boxes(YOLO(tiny.weights(kind))(image(kind), **PREDICT)[0])
    model = YOLO(marked(kind, conformal=True))
    found = boxes(model(image(kind), **PREDICT)[0])
    columns = raw.std.shape[1]
    assert len(found) > 0
    assert_close(found.data, raw.data, rtol=0, atol=0)
    assert_close(found.std, raw.std * torch.arange(2.0, 2 + columns))
    # Rank ceil(20 * 0.9) = 18 of the scores 1 ... 19.
    centre = (found.xyxy if kind == "detect" else found.xywhr)[..., None]
    reach = 18 * found.std[..., None] * torch.tensor([-1.0, 1.0])
    assert_close(found.interval(0.9), centre + reach)
    if kind == "obb":
        sides = raw.fields["sides"].clone()
        sides[:, :5] *= torch.tensor([4.0, 5, 4, 5, 6])
        assert_close(found.fields["sides"], sides)
    plain = boxes(model(image(kind), calibrated=False, **PREDICT)[0])
    assert_close(plain.std, raw.std)
    assert plain.conformal is None
    assert_close(boxes(model(image(kind), **PREDICT)[0]).std, found.std)


@KINDS
def test_tracks_keep_their_intervals(marked, image, tmp_path, kind):
    scene = cv2.imread(image(kind))
    video = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 64))
    for shift in range(6):
        video.write(np.roll(scene, shift, axis=1))
    video.release()
    settings = YAML.load(ROOT / "cfg" / "trackers" / "bytetrack.yaml")
    low = {"track_high_thresh": 0.2, "track_low_thresh": 0.05, "new_track_thresh": 0.2}
    YAML.save(tmp_path / "t.yaml", {**settings, **low})
    model = YOLO(marked(kind, conformal=True))
    results = [boxes(r) for r in model.track(str(tmp_path / "v.mp4"), tracker=str(tmp_path / "t.yaml"), **PREDICT)]
    tracked = [found for found in results if found.is_track and len(found)]
    assert tracked
    for found in tracked:
        width = found.interval(0.9).diff(dim=2)[..., 0]
        assert_close(width, 36 * found.std)


def test_validation_is_calibrated(marked, tiny):
    options = {**QUIET, "data": str(tiny.data("detect")), "split": "train", "plots": False}
    raw = YOLO(tiny.weights("detect")).val(**options).matches
    model = YOLO(marked())
    assert model.val(**options).matches.sigma == pytest.approx(raw.sigma * [2, 3, 4, 5])
    assert model.val(calibrated=False, **options).matches.sigma == pytest.approx(raw.sigma)


@pytest.fixture
def few_suffice(monkeypatch):
    """Let the some twenty boxes that the tiny models find be enough."""
    monkeypatch.setitem(LEAST_BOXES, "temperature", 1)


@KINDS
@pytest.mark.usefixtures("few_suffice")
def test_calibrating_a_model(weights, tiny, image, caplog, kind):
    file = weights(kind)
    model = YOLO(file)
    raw = boxes(model(image(kind), **PREDICT)[0])
    target = model.calibrate(data=str(tiny.data(kind)), split="train", method="conformal", level=0.8, **QUIET)
    assert target == Path(file).with_name(f"{kind}-calibrated.pt")
    assert calibration_of(YOLO(file).model) is None, "the source stays"
    found = calibration_of(YOLO(target).model)
    assert (found.method, found.level) == ("conformal", 0.8)
    assert found.settings == {"sigma_source": "gaussian", "imgsz": 64, "end2end": False, "var_vote": False}
    assert found.origin["boxes"] == found.conformal.n >= 9
    assert (found.origin["data"], found.origin["split"]) == (tiny.data(kind).name, "train")
    assert "Calibration (conformal) from" in caplog.text
    expected = raw.std * torch.tensor(found.scale.factors, dtype=torch.float32)
    for other in (model, YOLO(target)):
        assert_close(boxes(other(image(kind), **PREDICT)[0]).std, expected, rtol=1e-4, atol=1e-5)
    again = model.calibrate(data=str(tiny.data(kind)), split="train", method="conformal", level=0.5, **QUIET)
    assert again == target
    assert calibration_of(YOLO(target).model).scale.factors == pytest.approx(found.scale.factors), "by raw sigma"
    assert model.calibrate(remove=True) == target
    assert calibration_of(YOLO(target).model) is None
    assert_close(boxes(model(image(kind), **PREDICT)[0]).std, raw.std, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("few_suffice")
def test_images_of_the_fit_are_told_from_others(weights, tiny, tmp_path, caplog):
    options = {**QUIET, "data": str(tiny.data("detect")), "plots": False, "project": str(tmp_path), "exist_ok": True}
    model = YOLO(weights("detect"))
    model.calibrate(split="train", level=0.5, **options)
    model.val(split="val", name="other", **options)
    assert "was calibrated on these images" not in caplog.text
    model.val(split="train", name="same", **options)
    assert f"was calibrated on these images ({tiny.data('detect').name}, split=train)" in caplog.text
    said = {name: json.loads((tmp_path / name / "uncertainty.json").read_text()) for name in ("other", "same")}
    assert said["other"]["settings"]["calibration"]["split"] == "train"
    model.val(split="val", name="raw", calibrated=False, **options)
    assert json.loads((tmp_path / "raw" / "uncertainty.json").read_text())["settings"]["calibration"] is None


@pytest.mark.usefixtures("few_suffice")
def test_a_calibration_of_some_classes_is_not_that_of_all(weights, tiny, image, caplog):
    model = YOLO(weights("detect"))
    calibrate(model.ckpt_path, tiny, "detect", classes="disc", method="temperature", inplace=True)
    model = YOLO(model.ckpt_path)
    model(image("detect"), classes=[0], **PREDICT)
    assert "may not fit" not in caplog.text
    model(image("detect"), **PREDICT)
    assert "the calibration was made with classes=[0] (now None): it may not fit" in caplog.text
    found = replace(calibration(classes=[0, 1]), origin={"date": "of two classes"})
    caplog.clear()
    for same in ([1, 0], (0, 1), np.array([0, 1])):
        applicable(found, SCHEMA, arguments(classes=same))
    assert "may not fit" not in caplog.text


def test_each_calibration_is_warned_of(caplog):
    for date in ("today", "yesterday", "today"):
        found = replace(calibration(), origin={"date": date})
        applicable(found, SCHEMA, arguments(imgsz=96))
    assert caplog.text.count("may not fit") == 2


@pytest.mark.usefixtures("few_suffice")
def test_stock_model_is_calibrated_by_its_moments(weights, tiny, image):
    file = weights("stock")
    calibrate(file, tiny, "detect", sigma_source="dfl", inplace=True, level=0.5)
    model = YOLO(file)
    factors = torch.tensor(calibration_of(model.model).scale.factors, dtype=torch.float32)
    found = model(image("detect"), sigma_source="dfl", **PREDICT)[0].boxes
    raw = model(image("detect"), sigma_source="dfl", calibrated=False, **PREDICT)[0].boxes
    assert_close(found.std, raw.std * factors)
    lent = model(image("detect"), **PREDICT)[0].boxes
    assert_close(lent.std, found.std)
    assert lent.interval(0.5) is not None
    _check([file], [{"pdq": True}, {"score_fusion": "gaussian"}])  # what compare refuses of other stock models
    assert model(image("detect"), calibrated=False, **PREDICT)[0].boxes.std is None
    assert model(image("detect"), sigma_source="none", **PREDICT)[0].boxes.std is None
    exported = YOLO(model.export(format="torchscript", imgsz=64, device="cpu"))
    assert_close(exported(image("detect"), **PREDICT)[0].boxes.std, found.std, rtol=1e-4, atol=1e-4)
    assert Path(file).parent.joinpath("stock-calibrated.pt").exists() is False


def test_refusals(tiny, weights, tmp_path, monkeypatch):
    data = {"data": str(tiny.data("detect")), **QUIET}
    with pytest.raises(OptionError, match=r"needs at least 999 boxes matched with an object, and there are \d+:"):
        YOLO(weights("detect")).calibrate(method="conformal", level=0.999, **data)
    with monkeypatch.context() as patch:
        patch.setattr(YOLO, "val", lambda *_, **__: pytest.fail("validated"))
        with pytest.raises(OptionError, match="a stock model predicts no standard deviations; sigma_source=dfl reads"):
            YOLO(weights("stock")).calibrate(**data)
        with pytest.raises(OptionError, match="this model predicts no standard deviations, or sigma_source=none"):
            YOLO(weights("detect")).calibrate(sigma_source="none", **data)
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match=r"calibrate: out: cannot write to .*file"):
            YOLO(weights("detect")).calibrate(out=tmp_path / "file" / "x.pt", **data)
        (tmp_path / "file").unlink()
    with pytest.raises(OptionError, match=r"a calibration is stored in a checkpoint, give a trained \.pt file"):
        YOLO("yolov8n-uncert.yaml").calibrate(**data)
    with pytest.raises(OptionError, match=r"give a trained \.pt file"):
        YOLO("yolov8n-uncert.yaml").load(weights("detect")).calibrate(**data)
    with pytest.raises(SyntaxError, match="methd"):
        YOLO(weights("detect")).calibrate(methd="isotonic", **data)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["detect.pt", "stock.pt"], "nothing was written"


def test_other_tasks_are_calibrated_by_ultralytics():
    with pytest.raises(ValueError, match="only supported for depth models"):
        YOLO("yolo11n-seg.yaml").calibrate(data="x.yaml")


def test_loading_other_weights_drops_it(marked, tiny):
    model = YOLO(marked())
    assert calibration_of(model.model) is not None
    model.load(tiny.weights("detect"))
    assert calibration_of(model.model) is None


def test_further_training_drops_it(marked, tiny, caplog):
    model = YOLO(marked())
    trainer = tiny.train(model, "further", epochs=1, val=False)
    assert "The calibration of the given model is dropped" in caplog.text
    assert calibration_of(trainer.model) is None
    assert calibration_of(model.model) is None
    assert calibration_of(YOLO(trainer.best).model) is None


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit", "ignore:Converting", "ignore:.*legacy TorchScript", "ignore:The feature will"
)
@pytest.mark.parametrize(("kind", "form"), [("obb", "onnx"), ("detect", "torchscript")])
def test_exported_file_is_calibrated(marked, tiny, image, kind, form):
    file = YOLO(marked(kind, conformal=True)).export(format=form, imgsz=64, device="cpu")
    expected = boxes(YOLO(tiny.weights(kind))(image(kind), **PREDICT)[0])
    model = YOLO(file)
    found = boxes(model(image(kind), **PREDICT)[0])
    assert len(found) == len(expected) > 0
    assert_close(found.std, expected.std * torch.arange(2.0, 2 + found.std.shape[1]), rtol=1e-3, atol=1e-3)
    assert found.conformal.n == 19
    assert_close(boxes(model(image(kind), calibrated=False, **PREDICT)[0]).std, expected.std, rtol=1e-3, atol=1e-3)
    with pytest.raises(OptionError, match=r"give a trained \.pt file as model=; export it afterwards"):
        model.calibrate(data="x.yaml")


@pytest.mark.usefixtures("few_suffice")
def test_command_line(weights, tiny, tmp_path, capsys, caplog):
    file = weights("detect")
    words = [f"model={file}", f"data={tiny.data('detect')}", "split=train", "imgsz=64", "batch=8", "device=cpu"]
    assert main(["calibrate", *words, "method=conformal", "level=0.8", f"out={tmp_path / 'new' / 'c.pt'}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "new" / "c.pt")
    assert main(["info", f"model={tmp_path / 'new' / 'c.pt'}"]) == 0
    assert "calibration:  conformal, level 0.8" in capsys.readouterr().out
    assert main(["calibrate", f"model={tmp_path / 'new' / 'c.pt'}", "remove=True"]) == 0
    assert calibration_of(YOLO(tmp_path / "new" / "c.pt").model) is None
    assert main(["calibrate", *words, "method=conformal", "level=0.999"]) == USAGE_ERROR
    assert "needs at least 999 boxes" in caplog.text
