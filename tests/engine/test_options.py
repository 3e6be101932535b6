from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from ultralytics.cfg import get_cfg

from yolo_uncert import YOLO
from yolo_uncert.engine.options import check_options, put_options, split_options
from yolo_uncert.engine.predict import UncertDetectionPredictor, UncertOBBPredictor
from yolo_uncert.engine.val import UncertDetectionValidator, UncertOBBValidator
from yolo_uncert.options import OptionError
from yolo_uncert.run_options import RunOptions

ENGINES = {
    "detect": (UncertDetectionPredictor, UncertDetectionValidator),
    "obb": (UncertOBBPredictor, UncertOBBValidator),
}


@pytest.mark.parametrize(("task", "default"), [("detect", 0.7), ("obb", 0.5)])
def test_default_overlap_of_oriented_boxes_is_an_exact_one(task, default):
    predictor, validator = ENGINES[task]
    assert predictor().args.iou == validator().args.iou == default
    for iou in (0.7, 0.6):
        assert predictor(overrides={"iou": iou}).args.iou == validator(args={"iou": iou}).args.iou == iou
    assert validator(args=validator(args={"iou": 0.7}).args).args.iou == 0.7, "from a trainer, which has decided"


def test_oriented_training_and_prediction_agree_on_the_overlap(tiny):
    trainer = tiny.train(YOLO(tiny.yaml("obb")), "overlap", "obb", epochs=1, val=False)
    assert trainer.args.iou == trainer.validator.args.iou == 0.5
    model = YOLO(tiny.weights("obb"))
    image = np.zeros((64, 64, 3), np.uint8)
    for given, found in (({}, 0.5), ({}, 0.5), ({"iou": 0.7}, 0.7), ({}, 0.5)):
        model(image, device="cpu", imgsz=64, verbose=False, **given)
        assert model.predictor.args.iou == found


def test_split_separates_and_copies():
    given = {"conf": 0.3, "iou_alpha": 0.7, "retrofit": True, "nonsense": 1}
    stock, ours = split_options(given)
    assert stock == {"conf": 0.3, "nonsense": 1}, "what nobody knows is left to Ultralytics to refuse"
    assert ours == {"iou_alpha": 0.7, "retrofit": True}
    stock["conf"] = ours["iou_alpha"] = 0
    assert given["conf"] == 0.3
    assert given["iou_alpha"] == 0.7


@pytest.mark.parametrize("nothing", [None, {}, SimpleNamespace()])
def test_split_of_nothing(nothing):
    assert split_options(nothing) == ({}, {})


def test_split_reads_ultralytics_own_namespace():
    stock, ours = split_options(get_cfg(overrides={"conf": 0.3}))
    assert stock["conf"] == 0.3
    assert ours == {}


def test_put_fills_in_the_defaults():
    args = SimpleNamespace(conf=0.3)
    put_options(args, {"iou_alpha": 1}, "val")
    assert vars(args) == {"conf": 0.3, **asdict(RunOptions()), "iou_alpha": 1}


def test_put_keeps_what_a_checkpoint_brought_unless_it_is_given_anew():
    args = SimpleNamespace(iou_alpha=0.2, sigma_source="dfl")
    put_options(args, {"sigma_source": "none"}, "train")
    assert (args.iou_alpha, args.sigma_source) == (0.2, "none")


def test_put_refuses_ill_typed_values_and_says_where():
    with pytest.raises(OptionError, match=r"train: iou_alpha must be float, not 'half' \(str\)"):
        put_options(SimpleNamespace(), {"iou_alpha": "half"}, "train")


def test_check_returns_ours_among_all():
    assert check_options({"conf": 0.3, "iou_alpha": 0.25}, "predict") == RunOptions(iou_alpha=0.25)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("iou_alfa", "iou_alpha"), ("sigma_sorce", "sigma_source"), ("retrofitt", "retrofit"), ("dataroot", "data_root")],
)
def test_check_knows_what_was_meant(name, meant):
    with pytest.raises(OptionError, match=f"val: unknown option '{name}'.*{meant}"):
        check_options({name: 1}, "val")


@pytest.mark.parametrize("name", ["conff", "iuo", "epoch", "qwerty", "half"])
def test_check_leaves_ultralytics_names_to_ultralytics(name):
    assert check_options({name: 1}, "val") == RunOptions()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"sigma_source": "gausian"}, "sigma_source is 'gausian'.*gaussian"),
        ({"iou_alpha": 1.5}, "iou_alpha must be at most 1.0"),
        ({"retrofit": "yes"}, "retrofit must be bool"),
        ({"data_root": 3}, "data_root must be str or None"),
    ],
)
def test_check_refuses_bad_values(option, message):
    with pytest.raises(OptionError, match=message):
        check_options(option, "train")
