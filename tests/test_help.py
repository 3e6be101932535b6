from __future__ import annotations

import inspect
import re
from dataclasses import asdict

import numpy as np
import pytest
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_uncert.cli import parse
from yolo_uncert.compare import compare
from yolo_uncert.demo import demo
from yolo_uncert.help import WIDTH, mode_help, overview
from yolo_uncert.model import YOLO
from yolo_uncert.modes import MODES
from yolo_uncert.nn.branches import BRANCHES
from yolo_uncert.options import OptionError, describe
from yolo_uncert.run_options import CalibrationOptions, RunOptions
from yolo_uncert.scenes import detect_scene


def options_of(text):
    """Lines that introduce an option, by its name."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("  ") and not line.startswith("   ")]
    heads = [line.split()[0] for line in lines]
    return {head.split("=")[0]: head for head in heads}


def test_overview_names_every_mode():
    text = overview()
    for name, mode in MODES.items():
        assert name in text
        assert mode.doc in text


@pytest.mark.parametrize("name", MODES)
def test_help_lists_each_option_that_the_mode_heeds(name):
    shown = options_of(mode_help(name))
    for option in MODES[name].ours:
        assert shown[option] == f"{option}={asdict(RunOptions())[option]}"
    assert set(MODES[name].own) <= shown.keys()
    expected = {"info": {"model"}, "prepare": {"source", "out"}}
    assert expected.get(name, {"model", "imgsz", "device"}) <= shown.keys()


@pytest.mark.parametrize(
    ("name", "stock"),
    [
        ("train", {"epochs", "lr0", "val", "plots", "resume", "pretrained"}),
        ("val", {"data", "batch", "iou", "save_json", "split", "visualize", "cache", "classes"}),
        ("predict", {"source", "conf", "save_txt", "line_width", "channels_last", "cfg"}),
        ("track", {"source", "tracker"}),
        ("export", {"format", "opset", "dynamic"}),
        ("demo", {"epochs", "data"}),
        ("calibrate", {"data", "split", "conf", "workers"}),
        ("info", {"model", "task"}),
    ],
)
def test_help_lists_ultralytics_options_with_their_defaults(name, stock):
    shown = options_of(mode_help(name))
    assert stock <= shown.keys()
    assert "mode" not in shown
    for option, head in shown.items():
        default = MODES[name].defaults.get(option, DEFAULT_CFG_DICT.get(option))
        if default is not None and option not in {*asdict(RunOptions()), *MODES[name].own}:
            assert head == f"{option}={default}"


class StoppedError(Exception):
    """Ends a run once its settings are known."""


@pytest.mark.parametrize(
    ("mode", "event", "options"),
    [
        ("predict", "on_predict_start", {"source": np.zeros((64, 64, 3), np.uint8), "save": True}),
        ("track", "on_predict_start", {"source": np.zeros((64, 64, 3), np.uint8), "save": True}),
        ("val", "on_val_start", {"workers": 0}),  # the CPU has none anyway
        ("export", "on_export_start", {}),
    ],
)
def test_defaults_that_are_shown_are_those_that_a_mode_runs_with(tiny, tmp_path, mode, event, options):
    used = {}

    def stop(engine):
        used.update(vars(engine.args))
        raise StoppedError

    model = YOLO("yolov8n-light.yaml")
    model.add_callback(event, stop)
    given = {**options, "imgsz": 64, "project": str(tmp_path), "device": "cpu"}
    with pytest.raises(StoppedError):
        getattr(model, mode)(**given, **({"data": str(tiny.data("detect"))} if mode == "val" else {}))
    defaults = {k: v.partition("=")[2] for k, v in options_of(mode_help(mode)).items() if "=" in v}
    shown = {k: v for k, v in defaults.items() if v != "model's" and k in DEFAULT_CFG_DICT and k not in given}
    assert len(shown) >= 6
    assert {k: str(used[k]) for k in shown} == shown


@pytest.mark.parametrize(("mode", "function"), [("scene", detect_scene), ("compare", compare), ("demo", demo)])
def test_defaults_that_are_written_out_are_those_of_the_function(mode, function):
    defaults = {name: entry.default for name, entry in inspect.signature(function).parameters.items()}
    said = {name: re.search(r"\(default ([^):]+)\)", doc) for name, doc in MODES[mode].own.items()}
    told = {name: match[1] for name, match in said.items() if match and defaults[name] is not None}
    assert told
    for name, text in told.items():
        default = defaults[name]
        listed = ",".join(f"{x:g}" for x in default) if isinstance(default, tuple) else str(default)
        assert text == listed, name


def test_the_help_knows_its_topics():
    with pytest.raises(OptionError, match="no help on 'branch' \\(did you mean 'branches'"):
        mode_help("branch")


def test_every_option_of_ours_is_explained_somewhere():
    explained = {option for mode in MODES.values() for option in mode.ours}
    assert explained == asdict(RunOptions()).keys()


def test_every_option_that_is_listed_exists():
    for mode in MODES.values():
        assert set(mode.stock) <= DEFAULT_CFG_DICT.keys()
        assert set(mode.ours) <= asdict(RunOptions()).keys()


def test_help_on_calibration_tells_defaults():
    text = " ".join(mode_help("calibrate").split())
    for option, default, doc in describe(CalibrationOptions):
        assert f"{option} {doc} (default {default})" in text


@pytest.mark.parametrize("name", MODES)
def test_examples_are_valid_commands(name):
    program, *words = MODES[name].example.split()
    assert program == "yolo-uncert"
    assert parse(words)[0] == name


def test_help_on_branches_lists_every_option():
    text = mode_help("branches")
    for name, branch in BRANCHES.items():
        part = text.split(f"\n{name}: ")[1].split("\n\n")[0]
        for option, default, _ in describe(branch.options_class):
            assert options_of(part)[option].startswith(f"{option}={default.split()[0]}")


@pytest.mark.parametrize("name", [*MODES, "branches"])
def test_lines_fit_a_terminal(name):
    texts = [line for line in mode_help(name).splitlines() if line.startswith("  ")]
    assert max(map(len, texts)) <= WIDTH


def test_unknown_mode():
    with pytest.raises(OptionError, match=r"no help on 'trian' \(did you mean 'train'\?\). One of: train, val"):
        mode_help("trian")
