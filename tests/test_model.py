from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import ultralytics
import yaml
from ultralytics.nn.tasks import DetectionModel, SegmentationModel

from yolo_uncert import YOLO
from yolo_uncert.engine.checkpoints import checkpoint_of
from yolo_uncert.model import ENGINE
from yolo_uncert.nn.models import MODELS
from yolo_uncert.options import OptionError

QUIET = {"imgsz": 64, "verbose": False, "device": "cpu"}


@pytest.fixture
def image(tiny):
    return str(next((tiny.data("detect").parent / "images" / "val").iterdir()))


@pytest.mark.parametrize(
    ("name", "task"),
    [("yolov8n-uncert.yaml", "detect"), ("yolo11n-obb-kld.yaml", "obb"), ("yolo11n.yaml", "detect")],
)
def test_detectors_get_our_engine(name, task):
    model = YOLO(name)
    assert isinstance(model, ultralytics.YOLO)
    assert model.task == task
    assert {role: model._smart_load(role) for role in ENGINE[task]} == ENGINE[task]


def test_other_tasks_stay_those_of_ultralytics():
    model = YOLO("yolo11n-seg.yaml")
    assert type(model.model) is SegmentationModel
    assert model.task == "segment"
    assert model.task_map["segment"] == ultralytics.YOLO("yolo11n-seg.yaml").task_map["segment"]


def test_checkpoint_is_read_with_its_task_and_branches(tiny):
    model = YOLO(tiny.weights("obb"))
    assert (model.task, type(model.model)) == ("obb", MODELS["obb"])
    assert list(model.model.yaml["uncertainty"]) == ["gaussian", "dfl", "iou_aware"]


def test_our_checkpoint_needs_our_package_and_no_registration(tiny):
    """Unpickling imports the classes by name: the stock facade detects with it, sigmas aside."""
    stock = ultralytics.YOLO(tiny.weights("detect"))
    assert type(stock.model) is MODELS["detect"]


def test_moments_are_lent_for_one_call(tiny, image, monkeypatch):
    # Layers that run at some places alone round otherwise.
    monkeypatch.setattr("yolo_uncert.engine.predict.least_class_score", lambda *_, **__: 0.0)
    model = YOLO(tiny.weights("stock"))
    before = model.model
    assert type(before) is DetectionModel
    (with_std,) = model(image, sigma_source="dfl", **QUIET)
    assert model.model is before
    (without,) = model(image, **QUIET)
    (again,) = model(image, sigma_source="dfl", **QUIET)
    assert with_std.boxes.std.shape == (len(with_std), 4)
    assert without.boxes.std is None
    assert torch.equal(again.boxes.std, with_std.boxes.std)
    assert torch.equal(without.boxes.data, with_std.boxes.data)


def test_model_is_given_back_when_a_call_fails(tiny):
    model = YOLO(tiny.weights("stock"))
    before = model.model
    with pytest.raises(FileNotFoundError):
        model("no-such-image.jpg", sigma_source="dfl", **QUIET)
    assert model.model is before


def test_options_of_one_prediction_are_not_those_of_the_next(tiny, image):
    model = YOLO(tiny.weights("detect"))
    overrides = dict(model.overrides)
    (plain,) = model(image, **QUIET)
    (other,) = model(image, iou_alpha=1.0, sigma_source="none", **QUIET)
    assert other.boxes.std is None
    assert model.overrides == overrides
    (after,) = model(image, **QUIET)
    assert torch.equal(after.boxes.data, plain.boxes.data)
    assert torch.equal(after.boxes.std, plain.boxes.std)


@pytest.mark.parametrize(("weights", "options"), [("stock", {"sigma_source": "dfl"}), ("detect", {"suppress": "soft"})])
def test_threads_that_share_a_model_find_what_one_alone_finds(tiny, image, weights, options):
    model = YOLO(tiny.weights(weights))
    overrides = dict(model.overrides)
    (alone,) = model(image, **options, **QUIET)
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(model, image, **options, **QUIET) for _ in range(24)]
    for call in calls:
        (found,) = call.result()
        assert torch.equal(found.boxes.data, alone.boxes.data)
        assert torch.equal(found.boxes.std, alone.boxes.std)
    assert model.overrides == overrides


def test_a_model_that_has_been_asked_can_be_collected(tiny, image):
    model = YOLO(tiny.weights("detect"))
    model.val(data=str(tiny.data("detect")), plots=False, workers=0, **QUIET)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("mode", ["train", "val", "predict", "export"])
def test_unknown_options_are_refused_with_a_suggestion(tiny, mode):
    model = YOLO(tiny.weights("detect"))
    with pytest.raises((OptionError, SyntaxError), match="iou_alpha"):
        getattr(model, mode)(iou_alfa=0.3)


def test_a_model_that_does_not_exist_is_named():
    with pytest.raises((OptionError, FileNotFoundError), match="yolo99n-uncert"):
        YOLO("yolo99n-uncert.yaml")


def test_after_a_training_the_model_is_its_checkpoint(tiny, tmp_path):
    start = tmp_path / "start.pt"
    start.write_bytes(Path(tiny.weights("detect")).read_bytes())
    for source in ("yolov8n-uncert.yaml", str(start)):
        model = YOLO(source)
        trainer = tiny.train(model, "again", epochs=1, val=False)
        assert Path(model.ckpt_path) == checkpoint_of(model) == Path(trainer.save_dir) / "weights" / "best.pt"


def test_a_finished_training_is_not_resumed(tiny, monkeypatch):
    monkeypatch.setattr("ultralytics.engine.model.Model.train", lambda *args, **given: pytest.fail("trains"))
    for source in (tiny.weights("detect"), "yolov8n-uncert.yaml"):
        with pytest.raises(OptionError, match=r"nothing to resume, .* holds no unfinished training"):
            YOLO(source).train(resume=True)


def test_a_file_that_is_no_model_is_named(tmp_path):
    for name, content in (("text.pt", b"garbage\n"), ("cut.pt", b"PK\x03\x04"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            (ValueError, TypeError), match=rf"{name} is (no model, or damaged|not a loadable checkpoint)"
        ):
            YOLO(tmp_path / name)


def test_conf_none_is_the_default(tiny, image):
    model = YOLO(tiny.weights("detect"))
    model(image, conf=0.9, **QUIET)
    assert len(model(image, conf=None, **QUIET)[0].boxes) == len(model(image, conf=0.25, **QUIET)[0].boxes)


@pytest.mark.parametrize(
    ("classes", "index"), [("plate", 1), ("1", 1), (["disc"], 0), (" [ 'plate' ] ", 1), ([1, "1"], 1)]
)
def test_classes_by_name(tiny, image, classes, index):
    model = YOLO(tiny.weights("detect"))
    by_name, by_index = (model(image, classes=c, conf=0.01, **QUIET)[0].boxes for c in (classes, [index]))
    assert len(by_name)
    assert torch.equal(by_name.data, by_index.data)


def test_an_unknown_class_is_named(tiny, image):
    model = YOLO(tiny.weights("detect"))
    for call in (lambda: model(image, classes="plat", **QUIET), lambda: model.val(classes=["plat"], **QUIET)):
        with pytest.raises(
            OptionError, match=r"no class 'plat' \(did you mean 'plate'\?\). This model has: 0 disc, 1 plate"
        ):
            call()


@pytest.mark.parametrize("classes", [9, [0, 9], [1.5], torch.tensor([9])])
def test_numbers_of_classes_are_looked_at_too(tiny, image, classes):
    model = YOLO(tiny.weights("detect"))
    with pytest.raises(OptionError, match=r"no class '(9|1.5)'.*This model has: 0 disc, 1 plate"):
        model(image, classes=classes, **QUIET)
    assert len(model(image, classes=0, conf=0.01, **QUIET)[0].boxes)


def test_our_options_are_refused_for_other_tasks(image):
    model = YOLO("yolo11n-cls.yaml")
    with pytest.raises(OptionError, match="predict: sigma_source is for models of task detect or obb, not classify"):
        model(image, sigma_source="dfl", **QUIET)


def test_data_of_the_training_are_the_default_of_a_validation(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("ultralytics.engine.model.Model.val", lambda self, validator=None, **given: seen.update(given))
    (tmp_path / "bccd").mkdir()
    YOLO("uncert-bccd-n.pt").val(data_root=str(tmp_path))
    assert yaml.safe_load(Path(seen["data"]).read_text(encoding="utf-8"))["path"] == str(tmp_path / "bccd")


@pytest.mark.parametrize(("verb", "message"), [("tune", "use_ray=True"), ("benchmark", "for classes")])
def test_what_upstream_would_do_with_stock_models_is_refused(tiny, monkeypatch, verb, message):
    called = []
    monkeypatch.setattr(f"ultralytics.engine.model.Model.{verb}", lambda *args, **given: called.append(verb))
    with pytest.raises(OptionError, match=f"^{verb}: .*{message}"):
        getattr(YOLO("yolo11n-uncert.yaml"), verb)(data="x.yaml")
    assert not called
    getattr(YOLO("yolo11n.yaml"), verb)(data="x.yaml")
    assert called == [verb]
