"""From a name or file to the resolved dict, and what is refused on the way."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from ultralytics.utils import ROOT, YAML

from yolo_uncert.nn.yamls import load_model_yaml, resolve
from yolo_uncert.options import OptionError

STOCK = ROOT / "cfg" / "models"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a yaml of the given name into the working directory."""
    monkeypatch.chdir(tmp_path)

    def dump(content, name: str = "my.yaml") -> str:
        Path(name).write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return name

    return dump


def own_architecture(head: str = "UncertDetect") -> dict:
    """A full model of its own: two levels, four layers."""
    return {
        "nc": 3,
        "scales": {"n": [1.0, 1.0, 1024], "s": [1.0, 2.0, 1024]},
        "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 4]], [-1, 1, "Conv", [32, 3, 2]]],
        "head": [[[1, 2], 1, head, ["nc", 1] if "OBB" in head else ["nc"]]],
    }


def test_a_shipped_yaml_is_its_base_with_our_head_and_section():
    full = load_model_yaml("yolo11s-light.yaml")
    base = YAML.load(STOCK / "11" / "yolo11.yaml")
    assert full["head"][-1] == [*base["head"][-1][:2], "UncertDetect", base["head"][-1][3]]
    assert full["head"][:-1] == base["head"][:-1]
    assert full["backbone"] == base["backbone"]
    assert full["scale"] == "s"
    assert full["yaml_file"] == "yolo11s-light.yaml"
    assert full["uncertainty"] == {"gaussian": {}, "dfl": {}, "iou_aware": {}}
    assert "base" not in full


def test_a_name_needs_no_suffix():
    assert load_model_yaml("yolo11m-obb-kld")["scale"] == "m"
    assert load_model_yaml("yolov8l")["scale"] == "l"


def test_a_stock_yaml_comes_back_as_it_is():
    full = load_model_yaml("yolov8x-obb.yaml")
    assert full == {**YAML.load(STOCK / "v8" / "yolov8-obb.yaml"), "scale": "x", "yaml_file": "yolov8x-obb.yaml"}


@pytest.mark.parametrize(
    ("base", "task", "head", "args"),
    [
        ("yolov5.yaml", "obb", "UncertOBB", ["nc", 1]),
        ("yolo26.yaml", "obb", "UncertOBB26", ["nc", 1]),
        ("yolo26-obb.yaml", "obb", "UncertOBB26", ["nc", 1]),
        ("yolo26-obb.yaml", None, "UncertOBB26", ["nc", 1]),
        ("yolo11.yaml", None, "UncertDetect", ["nc"]),
    ],
)
def test_the_head_follows_base_and_task(base, task, head, args):
    cfg = {"base": base, "uncertainty": {"gaussian": {}}} | ({"task": task} if task else {})
    assert resolve(cfg)["head"][-1][2:] == [head, args]


def test_keys_beside_the_base_override_it():
    keys = {"nc": 7, "scale": "m", "reg_max": 8, "end2end": True}
    full = resolve({"base": "yolo11.yaml", "uncertainty": {"dfl": {}}, **keys})
    assert {k: full[k] for k in keys} == keys


@pytest.mark.parametrize(
    ("name", "content", "scale"),
    [
        ("yolo11l-mine.yaml", {"base": "yolo11s.yaml", "scale": "m"}, "l"),  # the file name has the last word
        ("mine.yaml", {"base": "yolo11s.yaml", "scale": "m"}, "m"),
        ("mine.yaml", {"base": "yolo11s.yaml"}, "s"),
    ],
)
def test_where_the_scale_comes_from(write, name, content, scale):
    assert load_model_yaml(write({**content, "uncertainty": {"gaussian": {}}}, name))["scale"] == scale


def test_without_any_scale_the_default_is_left_to_ultralytics(write):
    assert "scale" not in load_model_yaml(write({"base": "yolo11.yaml", "uncertainty": {"gaussian": {}}}))


@pytest.mark.parametrize("head", ["Detect", "UncertDetect", "OBB", "UncertOBB", "OBB26"])
def test_a_full_architecture_may_name_the_stock_head_or_ours(write, head):
    name = write({**own_architecture(head), "uncertainty": {"gaussian": {}}}, "yolo0s-mine.yaml")
    full = load_model_yaml(name)
    assert full["head"][-1][2] == (head if head.startswith("Uncert") else f"Uncert{head}")
    assert full["scale"] == "s"


def test_resolving_again_changes_nothing_and_the_input_is_left_alone():
    cfg = {"base": "yolo11n.yaml", "uncertainty": {"gaussian": {"gain": 2}}}
    before = deepcopy(cfg)
    full = resolve(cfg)
    assert cfg == before
    again = resolve(full)
    assert again == full
    again["head"][-1][2] = "x"
    again["uncertainty"]["gaussian"]["gain"] = 9
    assert full["head"][-1][2] == "UncertDetect"
    assert full["uncertainty"] == cfg["uncertainty"]


GOOD = {"base": "yolo11.yaml", "uncertainty": {"gaussian": {}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {**GOOD, "uncertanty": {}},
            r"unknown option 'uncertanty' \(did you mean 'uncertainty'\?\)\. Allowed: base, task",
        ),
        ({**GOOD, "backbone": []}, r"unknown option 'backbone'.*Allowed: base, task, uncertainty, nc, scale"),
        ({**GOOD, "task": "segment"}, r"task is 'segment'\. Allowed: detect, obb"),
        ({**GOOD, "task": None}, r"task must be str, not None"),
        ({**GOOD, "nc": True}, r"nc must be int, not True \(bool\)"),
        ({**GOOD, "nc": "3"}, r"nc must be int, not '3' \(str\)"),
        ({**GOOD, "reg_max": 0}, r"reg_max must be at least 1, not 0"),
        (
            {**GOOD, "scale": "xl"},
            r"scale is 'xl' \(did you mean 'x'\?\)\. Allowed: n, s, m, l, x|scale is 'xl'.*Allowed",
        ),
        ({**GOOD, "base": 11}, r"base must be str, not 11 \(int\)"),
        ({**GOOD, "base": "yolo11-uncert.yaml"}, r"base yolo11-uncert\.yaml is no full model yaml"),
        ({**GOOD, "base": "yolov10n.yaml"}, r"base yolov10n\.yaml has a head v10Detect; only Detect and OBB"),
        ({**GOOD, "base": "yolov8-world.yaml"}, r"base yolov8-world\.yaml has a head WorldDetect; only"),
        ({**GOOD, "base": "yolo11-seg.yaml"}, r"base yolo11-seg\.yaml has a head Segment; only"),
        (
            {**GOOD, "base": "yolo11-obb.yaml", "task": "detect"},
            r"base yolo11-obb\.yaml is an OBB model; use its detect",
        ),
        ({"base": "yolo11.yaml", "uncertainty": None}, r"uncertainty: expected branches such as"),
        ({"base": "yolo11.yaml", "uncertainty": {"gausian": {}}}, r"uncertainty: unknown branch 'gausian' \(did you"),
        (
            {"base": "yolo11.yaml", "uncertainty": {"gaussian": {"los": "kl"}}},
            r"uncertainty\.gaussian: unknown option 'los' \(did you mean 'loss'\?\)",
        ),
        (
            {"base": "yolo11.yaml", "uncertainty": {"gaussian": {"loss": "laplas"}}},
            r"uncertainty\.gaussian: loss is 'laplas' \(did you mean 'laplace'\?\)\. Allowed: kl, nll",
        ),
        ({"uncertainty": {"gaussian": {}}}, r"a model yaml needs either base: or backbone: and head:"),
        ("", r"a model yaml needs either base: or backbone: and head:"),
        ({**own_architecture(), "uncertanty": {}}, r"unknown key 'uncertanty' \(did you mean 'uncertainty'\?\)"),
        (own_architecture(), r"a head UncertDetect needs an uncertainty: section"),
        (
            {**own_architecture("v10Detect"), "uncertainty": {}},
            r"uncertainty needs a head row UncertDetect.*not v10Detect",
        ),
        ({**own_architecture("Segment"), "uncertainty": {}}, r"uncertainty needs a head row UncertDetect.*not Segment"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(write, content, message):
    with pytest.raises(OptionError, match=rf"^my\.yaml: (?:{message})"):
        load_model_yaml(write(content))


@pytest.mark.parametrize("name", ["yolo11-uncertain.yaml", "v8", "11"])
def test_a_missing_yaml_is_named_with_its_neighbours(name):
    with pytest.raises(FileNotFoundError, match=rf"no models yaml named '{name}'[\s\S]*Nor does Ultralytics have"):
        load_model_yaml(name)


def test_a_missing_base_is_named():
    with pytest.raises(FileNotFoundError, match="yolo99"):
        resolve({**GOOD, "base": "yolo99.yaml"})
