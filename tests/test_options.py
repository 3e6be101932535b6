"""Options: what is accepted, and what the message says when something is not."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields

import pytest

from yolo_uncert.config import (
    DFLOptions,
    GaussianOptions,
    IoUAwareOptions,
    KLDOptions,
    ModelOptions,
    QFLOptions,
    QualityOptions,
)
from yolo_uncert.options import OptionError, describe, parse_options, suggest
from yolo_uncert.run_options import RunOptions

BRANCH_OPTIONS = (GaussianOptions, DFLOptions, QualityOptions, QFLOptions, IoUAwareOptions, KLDOptions)
WHERE = "my.yaml: uncertainty.gaussian"


@pytest.mark.parametrize("cls", [*BRANCH_OPTIONS, RunOptions])
@pytest.mark.parametrize("values", [None, {}])
def test_no_options_are_the_defaults(cls, values):
    assert parse_options(cls, values, WHERE) == cls()


@pytest.mark.parametrize("cls", [*BRANCH_OPTIONS, RunOptions])
def test_defaults_pass_their_own_checks(cls):
    defaults = {f.name: f.default for f in fields(cls)}
    assert parse_options(cls, defaults, WHERE) == cls()


def test_given_values_are_taken_and_the_input_is_left_alone():
    values = {"loss": "nll", "gain": 2, "detach_mean": False}
    options = parse_options(GaussianOptions, values, WHERE)
    assert (options.loss, options.gain, options.detach_mean) == ("nll", 2, False)
    assert values == {"loss": "nll", "gain": 2, "detach_mean": False}
    with pytest.raises(FrozenInstanceError):
        options.gain = 3.0


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (
            GaussianOptions,
            {"gian": 1.0},
            r"unknown option 'gian' \(did you mean 'gain'\?\)\. Allowed: loss, gain, beta",
        ),
        (GaussianOptions, {"zzz": 1.0}, r"unknown option 'zzz'\. Allowed: loss"),
        (GaussianOptions, {1: 1.0}, r"unknown option 1\. Allowed: loss"),
        (
            GaussianOptions,
            {"loss": "kll"},
            r"loss is 'kll' \(did you mean 'kl'\?\)\. Allowed: kl, nll, laplace, l1, crps",
        ),
        (GaussianOptions, {"loss": None}, r"loss must be str, not None \(NoneType\)"),
        (GaussianOptions, {"gain": "1.0"}, r"gain must be float, not '1\.0' \(str\)"),
        (GaussianOptions, {"gain": True}, r"gain must be float, not True \(bool\)"),
        (GaussianOptions, {"detach_mean": 1}, r"detach_mean must be bool, not 1 \(int\)"),
        (GaussianOptions, {"gain": -0.5}, r"gain must be at least 0\.0, not -0\.5"),
        (GaussianOptions, {"beta": 1.5}, r"beta must be at most 1\.0, not 1\.5"),
        (GaussianOptions, {"gain": math.nan}, r"gain must be finite, not nan"),
        (GaussianOptions, {"gain": math.inf}, r"gain must be finite, not inf"),
        (GaussianOptions, {"init_sigma": 0}, r"init_sigma must be at least 0\.01, not 0"),
        (GaussianOptions, {"label_std": "2"}, r"label_std must be float or list\[float\] or None, not '2'"),
        (GaussianOptions, {"label_std": [1.0, True]}, r"label_std must be float or list\[float\] or None"),
        (DFLOptions, {"window": 1.0}, r"window must be int, not 1\.0 \(float\)"),
        (QualityOptions, {"topk": 0}, r"topk must be at least 1, not 0"),
        (KLDOptions, {"distance": "iou"}, r"distance is 'iou' \(did you mean 'kfiou'\?\)\. Allowed: kld, reverse"),
        (RunOptions, {"iou_alpha": 1.01}, r"iou_alpha must be at most 1\.0, not 1\.01"),
        (ModelOptions, {"nc": 0}, r"nc must be at least 1, not 0"),
        (ModelOptions, {"scale": "z"}, r"scale is 'z'\. Allowed: n, s, m, l, x"),
    ],
)
def test_the_message_names_place_option_and_what_is_allowed(cls, values, message):
    with pytest.raises(OptionError, match=rf"^{WHERE}: {message}"):
        parse_options(cls, values, WHERE)


@pytest.mark.parametrize("values", [True, 3, "kl", ["gain"]])
def test_options_must_be_a_mapping(values):
    with pytest.raises(OptionError, match=rf"^{WHERE}: expected options such as"):
        parse_options(GaussianOptions, values, WHERE)


def test_an_option_error_is_a_value_error():
    assert issubclass(OptionError, ValueError)


def test_suggest():
    known = {"gaussian": 1, "dfl": 2}
    assert suggest("gausian", known) == " (did you mean 'gaussian'?)"
    assert suggest("retina", known) == ""


@pytest.mark.parametrize("cls", [*BRANCH_OPTIONS, RunOptions, ModelOptions])
def test_every_option_is_described(cls):
    rows = describe(cls)
    assert [name for name, _, _ in rows] == [f.name for f in fields(cls)]
    assert all(doc.endswith(".") and len(doc) > 10 for _, _, doc in rows)


def test_description_lists_default_and_choices():
    rows = {name: (default, doc) for name, default, doc in describe(KLDOptions)}
    assert rows["mode"] == ("replace", "Replace the stock box loss, or join it. One of: replace, add.")
