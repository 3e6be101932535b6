"""Options of branches whose values depend on one another, and names that Ultralytics has already."""

from __future__ import annotations

import math

import pytest

from yolo_uncert.config import GaussianOptions, QFLOptions
from yolo_uncert.options import OptionError, parse_options
from yolo_uncert.run_options import run_option_names

WHERE = "my.yaml: uncertainty.gaussian"


@pytest.mark.parametrize("label_std", [2, 0.5, [0.5, 2.0]])
def test_label_noise_goes_with_its_loss(label_std):
    options = parse_options(GaussianOptions, {"loss": "kl_target", "label_std": label_std}, WHERE)
    assert options.label_std == label_std


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "kl_target"}, "label_std belongs to loss: kl_target, and that loss needs it"),
        ({"label_std": 1.0}, "label_std belongs to loss: kl_target, and that loss needs it"),
        ({"loss": "kl_target", "label_std": 0.0}, "label_std must be positive"),
        ({"loss": "kl_target", "label_std": [1.0, -1.0]}, "label_std must be positive"),
        ({"loss": "kl_target", "label_std": math.nan}, "label_std must be finite"),
        ({"loss": "kl_target", "label_std": [math.nan]}, "label_std must be positive"),
    ],
)
def test_label_noise_that_does_not_fit_names_the_place(values, message):
    with pytest.raises(OptionError, match=f"^{WHERE}: {message}"):
        parse_options(GaussianOptions, values, WHERE)


@pytest.mark.parametrize("beta", [0, 1, 2.5])
def test_exponents_that_the_quality_focal_loss_takes(beta):
    assert parse_options(QFLOptions, {"beta": beta}, WHERE).beta == beta


def test_an_exponent_with_an_infinite_slope_is_refused_when_the_yaml_is_read():
    with pytest.raises(OptionError, match=r"beta must be 0 or at least 1, not 0\.5"):
        parse_options(QFLOptions, {"beta": 0.5}, WHERE)


def test_run_options_do_not_collide_with_those_of_ultralytics():
    from ultralytics.utils import DEFAULT_CFG_DICT

    assert "sigma_source" in run_option_names()
    assert not set(run_option_names()) & DEFAULT_CFG_DICT.keys()
