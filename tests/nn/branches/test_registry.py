"""What holds for every branch, over the registry."""

from __future__ import annotations

import pytest
import torch

from yolo_uncert.nn.branches import BRANCHES, build_branches, check_uncertainty
from yolo_uncert.nn.branches.base import Borders, Branch, Decoded, Features, HeadSpec, flat
from yolo_uncert.options import OptionError
from yolo_uncert.schema import FIELDS

SPEC = {
    "detect": HeadSpec("detect", 3, 16, (8, 12), finest=16),
    "obb": HeadSpec("obb", 3, 16, (8, 12), (4, 6), finest=16),
}
TASKS = pytest.mark.parametrize("task", ["detect", "obb"])
EACH = pytest.mark.parametrize("name", BRANCHES)


def features(task: str) -> Features:
    sides = (4, 2)
    hidden = [torch.randn(2, c, s, s, requires_grad=True) for c, s in zip(SPEC[task].hidden, sides, strict=True)]
    boxes = [torch.randn(2, 64, s, s, requires_grad=True) for s in sides]
    angle = [torch.randn(2, c, s, s, requires_grad=True) for c, s in zip(SPEC[task].angle_hidden, sides, strict=False)]
    return Features(hidden, boxes, angle, borders=Borders(torch.randn(2, 128, 20), torch.ones(2, 4, 20)))


@EACH
def test_registered_under_its_name_with_a_field_of_the_schema(name):
    assert BRANCHES[name].name == name
    assert BRANCHES[name].field in (name, "")
    assert (name in FIELDS) == (BRANCHES[name].field == name)


@EACH
@TASKS
def test_modules_give_raw_predictions_and_these_the_channels_of_the_schema(name, task):
    (branch,) = build_branches({name: {}}, SPEC[task])
    modules, seen = branch.build(), features(task)
    raw = {"boxes": flat(seen.boxes), "angle": torch.rand(2, 1, 20)}
    if modules is not None:
        assert len(modules) == (4 if name == "border" else 2)
        raw[name] = branch.forward(modules, seen)
        assert raw[name].shape[::2] == (2, 20)
    if branch.field:
        decoded = Decoded(torch.rand(2, 4, 20), torch.rand(2, 20), torch.full((1, 20), 8.0), torch.rand(2, 4, 20))
        field = branch.decode(raw, decoded)
        assert field.shape == (2, FIELDS[name][task], 20)
        assert field.isfinite().all()


@EACH
def test_a_branch_that_adds_nothing_says_so(name):
    branch = Branch(None, SPEC["detect"])
    branch.name = name
    with pytest.raises(TypeError, match=f"branch '{name}' has no modules"):
        branch.forward(None, None)
    with pytest.raises(TypeError, match=f"branch '{name}' adds no channel"):
        branch.decode({}, None)
    with pytest.raises(TypeError, match=f"branch '{name}' has no loss"):
        branch.loss(None)


def test_the_order_is_that_of_the_registry():
    asked = dict.fromkeys(reversed(BRANCHES))
    assert [b.name for b in build_branches(asked, SPEC["detect"])] == list(BRANCHES)


@pytest.mark.parametrize("uncertainty", [None, "gaussian", ["gaussian"], 1])
def test_the_section_must_be_a_mapping(uncertainty):
    with pytest.raises(OptionError, match=r"^a\.yaml: uncertainty: expected branches such as \{gaussian: \{\}\}"):
        check_uncertainty(uncertainty, "a.yaml: uncertainty")


def test_an_unknown_branch_is_named_with_a_suggestion():
    with pytest.raises(
        OptionError,
        match=r"^u: unknown branch 'gausian' \(did you mean 'gaussian'\?\)\. Allowed: gaussian, dfl, quality",
    ):
        build_branches({"gausian": {}}, SPEC["detect"], "u")


def test_a_bad_option_is_named_with_its_branch():
    with pytest.raises(OptionError, match=r"^u\.kld: tau must be at least 0\.0, not -1"):
        check_uncertainty({"gaussian": {}, "kld": {"tau": -1}}, "u")


@pytest.mark.parametrize(
    ("uncertainty", "message"),
    [
        ({"dfl": {}}, r"u\.dfl: this head predicts distances without a distribution \(reg_max: 1\).*gaussian branch"),
        ({"quality": {}}, r"u\.quality: this head has no DFL distributions \(reg_max: 1\)"),
        ({"gaussian": {"loss": "kl_target", "label_std": [1.0, 2.0]}}, r"u\.gaussian: label_std has 2 values for 3"),
    ],
)
def test_a_branch_that_does_not_fit_the_head_is_named(uncertainty, message):
    with pytest.raises(OptionError, match=f"^{message}"):
        build_branches(uncertainty, HeadSpec("detect", 3, 1, (8,)), "u")


def test_more_probabilities_than_bins():
    with pytest.raises(OptionError, match=r"^u\.quality: topk: 9 exceeds the 8 bins"):
        build_branches({"quality": {"topk": 9}}, HeadSpec("detect", 3, 8, (8,)), "u")


def test_flat_keeps_the_order_of_levels_and_pixels():
    levels = [torch.arange(4.0).view(1, 1, 2, 2), torch.full((1, 1, 1, 1), 9.0)]
    assert flat(levels).tolist() == [[[0, 1, 2, 3, 9]]]
