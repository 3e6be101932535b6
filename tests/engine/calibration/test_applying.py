from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from yolo_uncert.engine.calibration import applicable, apply_calibration, settings_of
from yolo_uncert.run_options import RunOptions
from yolo_uncert.schema import Schema

SCHEMA = Schema("detect", 2, ("gaussian", "dfl"))


def test_std_is_multiplied_and_nothing_else(calibration):
    fields = {"std": torch.tensor([[1.0, 1, 1, 1], [0.0, 2, 2, 0.5]]), "iou": torch.tensor([0.5, 0.6])}
    before = fields["std"].clone()
    found = apply_calibration(fields, calibration())
    assert_close(found["std"], torch.tensor([[2.0, 3, 4, 5], [0, 6, 8, 2.5]]))
    assert found["std"].dtype == torch.float32
    assert found["iou"] is fields["iou"]
    assert_close(fields["std"], before)


def test_sides_of_oriented_boxes_follow_width_height_and_angle(calibration):
    sides = torch.tensor([[3.0, 6, 4, 8, 0.1, 7, -7]])
    std = torch.tensor([[1.0, 1, 5, 10, 0.1]])  # w: hypot(3, 4), h: hypot(6, 8)
    found = apply_calibration({"std": std, "sides": sides}, calibration(5))
    # Factors of w, h and angle: 4, 5 and 6. The offset is no standard deviation.
    assert_close(found["sides"], torch.tensor([[12.0, 30, 16, 40, 0.6, 7, -7]]))
    assert_close(torch.hypot(found["sides"][:, 0], found["sides"][:, 2]), found["std"][:, 2])
    assert_close(torch.hypot(found["sides"][:, 1], found["sides"][:, 3]), found["std"][:, 3])


def test_nothing_to_apply(calibration):
    fields = {"std": torch.ones(2, 4)}
    assert apply_calibration(fields, None)["std"] is fields["std"]
    assert apply_calibration({"iou": torch.ones(2)}, calibration()).keys() == {"iou"}
    assert apply_calibration({"std": torch.ones(2, 0)}, calibration())["std"].shape == (2, 0)
    assert apply_calibration({"std": torch.ones(0, 4)}, calibration())["std"].shape == (0, 4)


def arguments(**given):
    return SimpleNamespace(**{**vars(RunOptions()), "imgsz": 64, "iou": 0.7, **given})


def test_applied_unless_switched_off(caplog, calibration):
    found = calibration()
    assert applicable(found, SCHEMA, arguments()) is found
    assert applicable(found, SCHEMA, arguments(imgsz=[32, 64])) is found, "the longer side"
    assert applicable(found, SCHEMA, arguments(suppress="soft", iou=0.2)) is found, "no vote, no change of sigma"
    assert applicable(found, SCHEMA, arguments(calibrated=False)) is None
    assert applicable(found, SCHEMA, arguments(sigma_source="none")) is None
    assert applicable(None, SCHEMA, arguments()) is None
    assert not caplog.messages


def test_another_source_of_sigma_is_left_alone(caplog, calibration):
    assert applicable(calibration(), SCHEMA, arguments(sigma_source="dfl")) is None
    assert "that of sigma_source=gaussian and not applied to sigma_source=dfl" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgsz": 96}, r"made with imgsz=64 (now 96): it may not fit"),
        ({"var_vote": True, "suppress": "soft"}, "made with var_vote=False (now True): it may not fit"),
    ],
)
def test_other_settings_are_warned_of_once(caplog, options, message, calibration):
    found = calibration()
    for _ in range(3):
        assert applicable(found, SCHEMA, arguments(**options)) is found
    assert caplog.text.count(message) == 1


def test_settings_of_a_vote_matter_only_when_boxes_vote():
    voting = settings_of(SCHEMA, arguments(var_vote=True, vote_sigma=0.1))
    assert voting["vote_sigma"] == 0.1
    assert "vote_sigma" not in settings_of(SCHEMA, arguments(vote_sigma=0.1))
    assert settings_of(SCHEMA, arguments(var_vote=True), end2end=True)["var_vote"] is False, "nothing votes there"


def test_each_calibration_is_warned_of(caplog, calibration):
    for date in ("today", "yesterday", "today"):
        found = replace(calibration(), origin={"date": date})
        applicable(found, SCHEMA, arguments(imgsz=96))
    assert caplog.text.count("may not fit") == 2


def test_classes_are_a_set(caplog, calibration):
    found = replace(calibration(classes=[0, 1]), origin={"date": "of two classes"})
    for same in ([1, 0], (0, 1), np.array([0, 1])):
        applicable(found, SCHEMA, arguments(classes=same))
    assert "may not fit" not in caplog.text
