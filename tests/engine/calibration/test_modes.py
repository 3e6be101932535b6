from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch.testing import assert_close
from ultralytics.utils import ROOT, YAML

from yolo_uncert import YOLO
from yolo_uncert.cli import USAGE_ERROR, main
from yolo_uncert.compare.run import check
from yolo_uncert.engine.calibration import calibration_of
from yolo_uncert.functional.calibrators import LEAST_BOXES
from yolo_uncert.options import OptionError

QUIET = {"imgsz": 64, "batch": 8, "device": "cpu", "workers": 0}
PREDICT = {"imgsz": 64, "verbose": False, "device": "cpu", "conf": 0.1}
KINDS = pytest.mark.parametrize("kind", ["detect", "obb"])


def boxes(result):
    return result.boxes if result.obb is None else result.obb


@pytest.fixture
def image(tiny):
    return lambda kind: str(sorted((tiny.data(kind).parent / "images" / "train").iterdir())[0])


@pytest.fixture
def few_suffice(monkeypatch):
    """Let the some twenty boxes that the tiny models find be enough."""
    monkeypatch.setitem(LEAST_BOXES, "temperature", 1)


def calibrate(file, tiny, task, **options):
    """Calibrate by the training images, which the tiny models know."""
    return YOLO(file).calibrate(data=str(tiny.data(task)), split="train", **{**QUIET, "method": "conformal", **options})


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


def test_a_level_that_the_calibration_cannot_support_is_refused_before_anything_runs(marked, image, tmp_path):
    model = YOLO(marked("detect", conformal=True))
    with pytest.raises(OptionError, match=r"predict: .*0\.99"):
        model.predict(image("detect"), rows="jsonl", interval_level=0.99, project=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("few_suffice")
def test_images_of_the_fit_are_told_from_others(weights, tiny, tmp_path, caplog):
    options = {**QUIET, "data": str(tiny.data("detect")), "plots": False, "project": str(tmp_path), "exist_ok": True}
    model = YOLO(weights("detect"))
    model.calibrate(split="train", level=0.5, **options)
    model.val(split="val", name="other", **options)
    assert "was calibrated on" not in caplog.text
    model.val(split="train", name="same", **options)
    assert f"was calibrated on {tiny.data('detect').name}, split=train. If that is this data set" in caplog.text
    said = {name: json.loads((tmp_path / name / "uncertainty.json").read_text()) for name in ("other", "same")}
    assert said["other"]["settings"]["calibration"]["split"] == "train"
    model.val(split="val", name="raw", calibrated=False, **options)
    assert json.loads((tmp_path / "raw" / "uncertainty.json").read_text())["settings"]["calibration"] is None


@pytest.mark.usefixtures("few_suffice")
def test_so_they_are_with_a_data_set_that_is_looked_for(weights, tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content = yaml.safe_load(tiny.data("detect").read_text())
    data = tmp_path / "shipped.yaml"  # resolved to a copy whose name has a digest
    data.write_text(yaml.safe_dump({**content, "local": tiny.data("detect").parent.name}))
    where = {"data": str(data), "data_root": str(tiny.data("detect").parents[1])}
    options = {**QUIET, **where, "split": "train", "plots": False, "project": str(tmp_path), "exist_ok": True}
    model = YOLO(weights("detect"))
    model.calibrate(level=0.5, **options)
    model.val(name="same", **options)
    assert "was calibrated on shipped.yaml, split=train. If that is this data set" in caplog.text


@pytest.mark.usefixtures("few_suffice")
def test_a_calibration_of_some_classes_is_not_that_of_all(weights, tiny, image, caplog):
    model = YOLO(weights("detect"))
    calibrate(model.ckpt_path, tiny, "detect", classes="disc", method="temperature", inplace=True)
    model = YOLO(model.ckpt_path)
    model(image("detect"), classes=[0], **PREDICT)
    assert "may not fit" not in caplog.text
    model(image("detect"), **PREDICT)
    assert "the calibration was made with classes=[0] (now None): it may not fit" in caplog.text


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
    check([file], [{"pdq": True}, {"score_fusion": "gaussian"}])  # what compare refuses of other stock models
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
        YOLO("yolov8n-light.yaml").calibrate(**data)
    with pytest.raises(OptionError, match=r"give a trained \.pt file"):
        YOLO("yolov8n-light.yaml").load(weights("detect")).calibrate(**data)
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
