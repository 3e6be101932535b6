"""Options: who rejects ours, who lets them pass, and what the command line reuses."""

from __future__ import annotations

import numpy as np
import pytest
from ultralytics.cfg import _handle_deprecation, get_cfg, merge_equals_args, parse_key_value_pair
from ultralytics.utils import DEFAULT_CFG, DEFAULT_CFG_DICT, DEFAULT_CFG_PATH, ROOT, SETTINGS

from yolo_uncert import YOLO
from yolo_uncert.run_options import run_option_names

pytestmark = pytest.mark.seam("engine/options.py")

IMAGE = np.zeros((32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", run_option_names())
def test_no_option_of_ours_is_one_of_ultralytics(name):
    assert name not in DEFAULT_CFG_DICT
    with pytest.raises(SyntaxError, match=name):
        get_cfg(DEFAULT_CFG, {name: None})


@pytest.mark.seam("engine/options.py", "engine/train.py", "model.py")
def test_settings_without_overrides_are_not_checked():
    args = get_cfg({**DEFAULT_CFG_DICT, "iou_alpha": 0.3})
    assert args.iou_alpha == 0.3
    assert vars(args)["iou_alpha"] == 0.3, "a namespace that vars() and copies carry along"


@pytest.mark.seam("model.py")
def test_predict_takes_unchecked_overrides_of_the_model_also_when_its_predictor_is_ready():
    model = YOLO("yolo11n-iou-aware.yaml")
    quiet = {"imgsz": 32, "verbose": False, "conf": 0.9, "device": "cpu"}
    model.predict(IMAGE, iou_alpha=0.25, **quiet)
    first = model.predictor
    assert first.args.iou_alpha == 0.25
    model.predict(IMAGE, iou_alpha=0.75, **quiet)
    assert model.predictor is first, "the predictor is kept, so that streams and trackers go on"
    assert first.args.iou_alpha == 0.75
    model.predict(IMAGE, **quiet)
    assert first.args.iou_alpha == 0.5
    assert "iou_alpha" not in model.overrides


@pytest.mark.seam("model.py")
def test_facade_has_the_attributes_that_we_set_and_override():
    model = YOLO("yolo11n-gaussian.yaml")
    assert {"detect", "obb", "segment"} <= model.task_map.keys()
    assert {"model", "trainer", "validator", "predictor"} <= model.task_map["detect"].keys()
    assert model._smart_load("trainer") is model.task_map["detect"]["trainer"]
    assert "on_export_start" in model.callbacks
    assert (model.overrides["model"], model.overrides["task"]) == ("yolo11n-gaussian.yaml", "detect")
    assert not model.ckpt, "train() goes on from a checkpoint only if one was loaded"
    assert model.predictor is None
    model._check_is_pytorch_model()


@pytest.mark.seam("cli.py")
def test_command_line_syntax_is_parsed_by_ultralytics():
    assert merge_equals_args(["epochs", "=", "3", "train"]) == ["epochs=3", "train"]
    assert parse_key_value_pair("epochs=3") == ("epochs", 3)
    assert parse_key_value_pair("nms=False") == ("nms", False)
    assert parse_key_value_pair("data=a.yaml") == ("data", "a.yaml")
    with pytest.raises(AssertionError):
        parse_key_value_pair("epochs=")


@pytest.mark.seam("cli.py")
def test_deprecated_options_are_translated_by_ultralytics():
    assert _handle_deprecation({"half": True, "line_thickness": 2, "conf": 0.1}) == {
        "quantize": 16,
        "line_width": 2,
        "conf": 0.1,
    }


@pytest.mark.seam("help.py")
def test_default_settings_explain_each_option_behind_its_value():
    text = DEFAULT_CFG_PATH.read_text(encoding="utf-8")
    explained = {line.partition(":")[0] for line in text.splitlines() if line[:1].isalpha() and " # " in line}
    assert len(explained) > 0.9 * len(DEFAULT_CFG_DICT)


@pytest.mark.seam("data.py")
def test_data_sets_of_ultralytics_are_found_where_we_look():
    assert (ROOT / "cfg" / "datasets" / "coco8.yaml").is_file()
    assert SETTINGS["datasets_dir"]
