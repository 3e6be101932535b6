"""The choice of the anchors that a head runs at, and what becomes of the others."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.head import OBB, Detect

from yolo_uncert.nn.parts import by_image, can_be_local, chosen, everywhere

SHAPES = [(4, 6), (2, 3)]


@pytest.fixture
def maps():
    return [torch.randn(2, 16, *shape) for shape in SHAPES]


@pytest.fixture
def scores():
    """Logits of two classes: in the first image two anchors of level 0 and one of level 1 have 0.6, the rest little."""
    levels = [torch.full((2, 2, *shape), -5.0) for shape in SHAPES]
    high = math.log(0.6 / 0.4)
    levels[0][0, 0, 1, 2], levels[0][0, 1, 3, 5], levels[1][0, 1, 0, 1] = high, high, high
    return levels


def test_places_have_a_class_score_above_the_bound(scores):
    lists = [[level.tolist() for level in image] for image in chosen(scores, 0.59, 30)]
    assert lists == [[[8, 23], [1]], [[], []]]
    assert all(len(level) == 0 for image in chosen(scores, 0.61, 30) for level in image)


def test_more_places_than_asked_for_are_no_answer(scores):
    assert chosen(scores, 0.59, 2) is None
    assert chosen(scores, 0.59, 3) is not None


def test_a_broken_score_is_looked_at(scores):
    scores[1][1, 0, 1, 2] = math.nan
    assert [level.tolist() for level in chosen(scores, 0.59, 30)[1]] == [[], [5]]


@torch.no_grad()
@pytest.mark.parametrize("head", [Detect(2, 16, ch=(16, 16)).eval(), OBB(2, 1, 16, ch=(16, 16)).eval()])
@pytest.mark.parametrize("around", [False, True])
def test_parts_are_those_of_the_head_everywhere(head, maps, scores, around):
    heads = head.cv2, getattr(head, "cv4", None)
    whole = everywhere(maps, [lambda _, y=y: y for y in scores], heads)
    assert whole.index is None
    places = [[torch.tensor([8, 23]), torch.tensor([1])], [torch.tensor([0]), torch.tensor([], dtype=torch.long)]]
    first, second = by_image(maps, scores, heads, places, around=around)
    assert first.index.tolist() == [8, 23, 25]
    assert second.index.tolist() == [0, 24], "a level without a place has nothing at its first"
    assert len(first.features.around) == (2 if around else 0)
    assert bool(first.features.angles) == isinstance(head, OBB)
    for image, (part, looked) in enumerate(((first, 3), (second, 1))):
        for name in ("hidden", "boxes", "angle_hidden", "angles"):
            ours, theirs = (getattr(x.features, name) for x in (part, whole))
            for mine, level in zip(flat(ours), flat(theirs, image, part.index), strict=True):
                torch.testing.assert_close(mine[:, :looked], level[:, :looked])
                assert not mine[:, looked:].any()
        for mine, level in zip(flat(part.classes), flat(scores, image, part.index), strict=True):
            assert torch.equal(mine, level)


def flat(levels, image=0, index=None):
    """Tensor[C, A] of an image, at some anchors, or nothing of no levels."""
    if not levels:
        return []
    joined = torch.cat([level[image].flatten(1) for level in levels], 1)
    return [joined if index is None else joined[:, index]]


def test_an_image_without_a_place_has_no_part(maps, scores):
    heads = Detect(2, 16, ch=(16, 16)).eval().cv2, None
    first, second = by_image(maps, scores, heads, chosen(scores, 0.59, 30))
    assert first is not None
    assert second is None


@torch.no_grad()
def test_gradients_and_other_precisions_devices_and_layers_ask_for_the_head_everywhere(maps):
    heads = Detect(2, 16, ch=(16, 16)).cv2, OBB(2, 1, 16, ch=(16, 16)).cv4
    assert can_be_local(maps, heads)
    assert can_be_local(maps, (heads[0], None))
    with torch.enable_grad():
        assert not can_be_local(maps, heads)
    assert not can_be_local([level.bfloat16() for level in maps], heads)
    assert not can_be_local([level.to("meta") for level in maps], heads)
    heads[1][0][0] = nn.Identity()
    assert not can_be_local(maps, heads)
