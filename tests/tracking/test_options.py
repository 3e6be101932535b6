from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from ultralytics.utils import ROOT, YAML

from yolo_uncert.help import mode_help
from yolo_uncert.options import OptionError
from yolo_uncert.paths import list_assets
from yolo_uncert.tracking.options import BASES, TrackerOptions, resolve_tracker, tracker_options


@pytest.fixture
def write(tmp_path):
    """Writer of a tracker yaml: that of ByteTrack with changes."""

    def build(**changes):
        settings = {**YAML.load(resolve_tracker("bytetrack-uncert")), **changes}
        file = tmp_path / "mine.yaml"
        YAML.save(file, {key: value for key, value in settings.items() if value != "gone"})
        return file

    return build


@pytest.mark.parametrize("base", BASES)
def test_shipped_yamls_are_the_stock_ones_plus_a_section_with_the_defaults(base):
    settings = YAML.load(resolve_tracker(f"{base}-uncert.yaml"))
    assert settings.pop("uncertainty") == asdict(TrackerOptions())
    assert settings == YAML.load(ROOT / "cfg" / "trackers" / f"{base}.yaml")


def test_every_shipped_yaml_resolves():
    assert len(list_assets("trackers")) == len(BASES)
    for name in list_assets("trackers"):
        assert Path(resolve_tracker(name)).name == name


def test_stock_names_are_those_of_ultralytics():
    assert Path(resolve_tracker("tracktrack.yaml")) == ROOT / "cfg" / "trackers" / "tracktrack.yaml"


def test_the_suffix_may_be_left_out():
    assert Path(resolve_tracker("deepocsort")) == ROOT / "cfg" / "trackers" / "deepocsort.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [("", r"tracker_type is None\. One of: bytetrack"), ("tracker_type: bytetrak", r"did you mean 'bytetrack'")],
)
def test_a_yaml_of_no_type_of_tracker_is_refused(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=message):
        resolve_tracker(file)


def test_a_path_wins(write):
    file = write(track_buffer=60)
    assert resolve_tracker(file) == str(file)


def test_an_empty_section_has_the_defaults(write):
    resolve_tracker(write(uncertainty=None))
    assert tracker_options(None) == TrackerOptions()


def test_a_wrong_name_is_answered_with_the_closest():
    with pytest.raises(FileNotFoundError, match=r"bytetrak-uncert.*did you mean 'bytetrack-uncert.yaml'.*botsort.yaml"):
        resolve_tracker("bytetrak-uncert.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uncertainty": {"proces": 1.0}}, r"mine.yaml: uncertainty: unknown option 'proces' \(did you mean 'process'"),
        ({"uncertainty": {"process": -1.0}}, "process must be at least 0"),
        ({"uncertainty": {"association": "mahalanobis"}}, "Allowed: iou, fused"),
        ({"uncertanty": {}}, r"unknown key 'uncertanty' \(did you mean 'uncertainty'"),
        ({"track_bufer": 3}, r"unknown key 'track_bufer' \(did you mean 'track_buffer'"),
        ({"track_buffer": "gone"}, "track_buffer is missing"),
        ({"tracker_type": "ocsort"}, "only bytetrack and botsort take"),
    ],
)
def test_mistakes_are_named(write, changes, message):
    with pytest.raises(OptionError, match=message):
        resolve_tracker(write(**changes))


def test_help_explains_the_options():
    text = mode_help("trackers")
    for name, default in asdict(TrackerOptions()).items():
        assert f"{name}={default}" in text
    assert "bytetrack-uncert.yaml" in text
