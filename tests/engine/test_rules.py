"""Rows written by hand as (box, class scores, sigma of the sides[, angle]) become Tensor[1, C, A]."""

from __future__ import annotations

import math
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from yolo_uncert.engine import rules as rules_module
from yolo_uncert.engine.postprocess import postprocess
from yolo_uncert.engine.rules import check_rules, pick_source, sigma_prefixes
from yolo_uncert.options import OptionError
from yolo_uncert.run_options import RunOptions
from yolo_uncert.schema import Schema

NEAR = [50.0, 50.0, 20.0, 20.0]


def options(**given):
    defaults = {"conf": 0.01, "iou": 0.5, "max_det": 300, "agnostic_nms": False, "classes": None}
    return SimpleNamespace(**{**defaults, **asdict(RunOptions()), **given})


def anchors(*rows):
    return torch.tensor(rows).T[None]


def one(y, schema, **given):
    """Detections of the only image."""
    (found,) = postprocess(y, schema, options(**given))
    return found


def random_output(schema, anchors=200, batch=3):
    angle = schema.task == "obb"
    y = torch.rand(batch, 4 + schema.nc + schema.channels + angle, anchors)
    y[:, :2] *= 100
    y[:, 2:4] = 5 + 20 * y[:, 2:4]
    return y


PAIR = anchors(
    [50.0, 50.0, 20.0, 20.0, 0.9, 1.0, 1.0, 1.0, 1.0],
    [52.0, 50.0, 20.0, 20.0, 0.6, 2.0, 2.0, 2.0, 2.0],
)
"""Two boxes with IoU (18 * 20) / (800 - 360) = 9 / 11, and sigma 1 and 2 px."""
GAUSSIAN = Schema.of("detect", 1, ["gaussian"])
OVERLAP = 9 / 11


def test_soft_suppression_decays_the_score():
    found = one(PAIR, GAUSSIAN, suppress="soft")
    assert_close(found.conf, torch.tensor([0.9, 0.6 * math.exp(-(OVERLAP**2) / 0.5)]))
    found = one(PAIR, GAUSSIAN, suppress="soft-linear")
    assert_close(found.conf, torch.tensor([0.9, 0.6 * (1 - OVERLAP)]))


def test_voted_box_and_its_sigma_by_hand():
    found = one(PAIR, GAUSSIAN, var_vote=True)
    p = math.exp(-((1 - OVERLAP) ** 2) / 0.02)
    w = (p / 4) / (1 + p / 4)
    x1 = 40 + 2 * w
    var_x, var_y = ((1 - w) * (1 + (40 - x1) ** 2) + w * (4 + (42 - x1) ** 2)), (1 - w) + 4 * w
    assert_close(found.boxes, torch.tensor([[x1, 40.0, x1 + 20, 60.0]]))
    assert_close(found.fields["std"], torch.tensor([[var_x, var_y, var_x, var_y]]).sqrt())
    assert found.index.tolist() == [0]


def test_what_soft_suppression_has_decayed_is_voted_from_its_share_on():
    third = anchors([54.0, 50, 20, 20, 0.5, 1, 1, 1, 1])  # IoU 2 / 3 with the first, which leaves 0.411 of its score
    y = torch.cat((PAIR, third), 2)
    stays, moves = (one(y, GAUSSIAN, suppress="soft", var_vote=True, **share) for share in ({}, {"vote_share": 0.4}))
    assert stays.index.tolist() == moves.index.tolist() == [0, 2, 1]
    assert_close(stays.boxes[1], torch.tensor([44.0, 40, 64, 60]))
    assert_close(stays.fields["std"][1], torch.ones(4))
    assert 43 < moves.boxes[1, 0] < 44, "the second box draws it to the left"
    assert_close(moves.boxes[0], stays.boxes[0])


def test_without_sigma_the_scores_vote():
    found = one(PAIR, GAUSSIAN, var_vote=True, sigma_source="none")
    p = math.exp(-((1 - OVERLAP) ** 2) / 0.02) * 0.6
    assert_close(found.boxes[0, 0], torch.tensor(40 + 2 * p / (0.9 + p)))
    assert "std" not in found.fields


def test_vote_of_a_single_candidate_changes_nothing():
    alone = PAIR[..., :1]
    found, plain = one(alone, GAUSSIAN, var_vote=True), one(alone, GAUSSIAN)
    assert_close(found.boxes, plain.boxes)
    assert_close(found.fields["std"], plain.fields["std"])


@pytest.mark.parametrize("weight", ["variance", "score", "both", "bayes"])
@pytest.mark.parametrize("suppress", ["hard", "soft", "soft-linear"])
def test_oriented_vote_at_angle_0_is_the_horizontal_one(suppress, weight):
    names = ["gaussian"]
    schema = Schema.of("obb", 2, names)
    y = random_output(schema)
    y[:, -1] = 0.0
    flat = Schema.of("detect", 2, names)
    horizontal = torch.cat((y[:, :6], y[:, 6:10]), 1)
    given = {"suppress": suppress, "var_vote": True, "vote_weight": weight, "conf": 0.3}
    pairs = zip(postprocess(y, schema, options(**given)), postprocess(horizontal, flat, options(**given)), strict=True)
    for oriented, expected in pairs:
        assert len(expected.conf)
        assert torch.equal(oriented.index, expected.index)
        centre, half = oriented.boxes[:, :2], oriented.boxes[:, 2:4] / 2
        corners = torch.cat((centre - half, centre + half), 1)
        assert_close(corners, expected.boxes, rtol=1e-5, atol=1e-3)
        assert_close(oriented.fields["sides"][:, :4], expected.fields["std"], rtol=1e-4, atol=1e-4)


def test_ranked_by_predicted_iou():
    y = anchors([*NEAR, 0.9, 0.5], [51.0, *NEAR[1:], 0.5, 0.8])
    found = one(y, Schema.of("detect", 1, ["iou_aware"]), suppress="iou-guided", iou_alpha=1.0)
    assert found.index.tolist() == [1], "the better located box stays"
    assert_close(found.conf, torch.tensor([0.9]), msg="with the best score of the cluster")


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (["gaussian"], {"suppress": "iou-guided"}, "no iou_aware branch"),
        (["iou_aware"], {"var_vote": True, "vote_weight": "bayes"}, "this model has no sigma"),
        (["gaussian"], {"var_vote": True, "vote_weight": "bayes", "sigma_source": "none"}, "sigma_source=none"),
    ],
)
def test_options_that_the_model_cannot_serve(names, given, message):
    schema = Schema.of("detect", 1, names)
    with pytest.raises(OptionError, match=message):
        postprocess(torch.rand(1, 5 + schema.channels, 3), schema, options(**given))


@pytest.mark.parametrize("backend", ["numba", "torch", "triton"])
def test_backends_agree(backend):
    if backend == "triton":
        pytest.importorskip("triton")
    schema = Schema.of("obb", 2, ["gaussian"])
    y = random_output(schema, anchors=60)
    given = {"suppress": "soft", "var_vote": True, "max_det": 5}
    expected = postprocess(y, schema, options(**given))
    forced = postprocess(y, schema, options(suppress_backend=backend, **given))
    for a, b in zip(forced, expected, strict=True):
        assert torch.equal(a.index, b.index)
        assert_close(a.boxes, b.boxes)
        assert_close(a.fields["std"], b.fields["std"])


def test_rules_without_effect_are_mentioned(monkeypatch):
    seen = []
    monkeypatch.setattr(rules_module.LOGGER, "warning", seen.append)
    check_rules(Schema.of("detect", 1, ["gaussian"]), options(), end2end=True)
    assert not seen
    check_rules(Schema.of("detect", 1, ["gaussian"]), options(var_vote=True), end2end=True)
    assert "have no effect" in seen[0]


@pytest.mark.parametrize(
    "given", [{"suppress": "iou-guided"}, {"var_vote": True, "vote_weight": "bayes"}, {"score_fusion": "gaussian"}]
)
def test_impossible_rules_are_refused_before_the_first_image(given):
    with pytest.raises(OptionError):
        check_rules(Schema.of("detect", 1, []), options(conf=None, **given))


@pytest.mark.parametrize(
    ("task", "names", "source", "prefixes"),
    [
        ("detect", ("gaussian", "dfl"), None, ("",)),
        ("detect", ("gaussian",), "none", ()),
        ("detect", (), None, ()),
        ("obb", ("gaussian", "dfl"), None, ("", "angle_")),
        ("obb", ("gaussian", "dfl"), "dfl", ("",)),
        ("obb", ("iou_aware",), None, ()),
    ],
)
def test_prefixes_name_what_the_model_predicts(task, names, source, prefixes):
    assert sigma_prefixes(Schema.of(task, 1, names), source) == prefixes


def test_prefixes_of_a_missing_source():
    with pytest.raises(OptionError, match="sigma_source=dfl"):
        sigma_prefixes(Schema.of("detect", 1, ["gaussian"]), "dfl")


@pytest.mark.parametrize(
    ("names", "wanted", "source"),
    [
        (("gaussian", "dfl"), None, "gaussian"),
        (("gaussian", "dfl"), "dfl", "dfl"),
        (("gaussian", "dfl"), "none", "none"),
        (("dfl", "iou_aware"), None, "dfl"),
        (("iou_aware",), None, "none"),
        ((), "none", "none"),
    ],
)
def test_source_of_sigma(names, wanted, source):
    assert pick_source(names, wanted) == source
    schema = Schema.of("detect", 1, names)
    y = torch.cat((torch.tensor([*NEAR, 0.9]), torch.rand(schema.channels)))[None, :, None]
    assert ("std" in one(y, schema, sigma_source=wanted).fields) == (source != "none")


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        (("dfl",), "gaussian", "sigma_source=gaussian: this model has no such branch. It has: dfl"),
        (("iou_aware",), "dfl", "It has: none"),
    ],
)
def test_missing_source_is_an_error(names, wanted, message):
    with pytest.raises(OptionError, match=message):
        pick_source(names, wanted)
