"""Options are checked where they are made, with messages that name the rule."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from yolo_uncert.ops import Suppression, soft_nms


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "softlinear"}, r"method is 'softlinear' \(did you mean 'soft-linear'\?\)\. Allowed: hard, soft, "),
        ({"vote": "variance"}, "vote is 'variance'.*Allowed: off, var, bayes"),
        ({"vote": True}, "vote must be str, not True"),
        ({"vote_pool": "al"}, "did you mean 'all'"),
        ({"merge": "sum"}, "Allowed: total, fused"),
        ({"sigma": 0}, "sigma must be at least 1e-06, not 0"),
        ({"sigma": float("nan")}, "sigma must be finite, not nan"),
        ({"sigma": "0.5"}, r"sigma must be float, not '0.5' \(str\)"),
        ({"vote_sigma": -1.0}, "vote_sigma must be at least"),
        ({"iou_threshold": 1.5}, "iou_threshold must be at most 1.0, not 1.5"),
        ({"score_threshold": -0.1}, "score_threshold must be at least 0.0"),
        ({"max_det": 0}, "max_det must be at least 1, not 0"),
        ({"max_det": 3.0}, r"max_det must be int, not 3.0 \(float\)"),
        ({"max_nms": True}, "max_nms must be int, not True"),
        ({"agnostic": 1}, "agnostic must be bool, not 1"),
    ],
)
def test_messages(values, message) -> None:
    with pytest.raises(ValueError, match=message):
        Suppression(**values)


def test_options_are_documented_and_fixed() -> None:
    assert all(spec.metadata["doc"].endswith(".") for spec in fields(Suppression))
    with pytest.raises(FrozenInstanceError):
        Suppression().sigma = 1.0


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="sigm"):
        soft_nms(None, None, sigm=0.4)
