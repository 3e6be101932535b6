"""Where points lie along the sides of boxes, and what layers read there."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from yolo_uncert.functional.boxes import rbox_to_sides, sides_to_rbox
from yolo_uncert.nn.branches.base import Places
from yolo_uncert.nn.branches.sides import (
    POINTS,
    at_anchors,
    at_points,
    border_points,
    by_matrix,
    by_side,
    mixed_at_points,
)

SIZE = (64.0, 32.0)
SIDES = torch.tensor([[[4.0], [6], [8], [2]]])
ANCHOR = torch.tensor([[20.0], [16]])


def in_pixels(points):
    return (points + 1) / 2 * torch.tensor(SIZE)


def test_points_of_a_horizontal_box_by_hand(places_of):
    # The box from (16, 10) to (28, 18): a sixth of its width is 2 px, of its height 4 / 3.
    points = border_points(places_of(SIDES, ANCHOR))
    assert points.shape == (1, 4, POINTS, 1, 2)
    x, y = [18.0, 22, 26], [10 + 4 / 3, 14, 18 - 4 / 3]
    expected = [[[16, v] for v in y], [[v, 10] for v in x], [[28, v] for v in y], [[v, 18] for v in x]]
    assert_close(in_pixels(points)[0, :, :, 0], torch.tensor(expected))


def test_points_beside_the_sides_by_hand(places_of):
    # A quarter of the box is 3 px of its width, 2 px of its height.
    points = in_pixels(border_points(places_of(SIDES, ANCHOR), 0.25))[0, :, :, 0].unflatten(1, (3, POINTS))
    on = in_pixels(border_points(places_of(SIDES, ANCHOR)))[0, :, :, 0]
    for side, out in enumerate([(-3.0, 0), (0, -2), (3, 0), (0, 2)]):
        for row, step in enumerate([-1, 0, 1]):
            assert_close(points[side, row], on[side] + step * torch.tensor(out))


@pytest.mark.parametrize("beside", [0.0, 0.15])
def test_points_of_oriented_boxes_lie_along_their_sides(beside, places_of):
    generator = torch.Generator().manual_seed(0)
    sides, angle = 9 * torch.rand(2, 4, 50, generator=generator), 3 * torch.rand(2, 1, 50, generator=generator) - 1
    anchors = 20 * torch.rand(2, 50, generator=generator)
    points = in_pixels(border_points(places_of(sides, anchors, angle), beside))
    count = points.shape[2]
    boxes = sides_to_rbox(anchors.T.expand(2, -1, -1), sides.transpose(1, 2), angle[:, 0])
    # Seen from a point of a side, that side is at a distance of 0 or, from inside, of a share of the box, negative from
    # outside; the two next to it are 1, 3 and 5 sixths away.
    distances = rbox_to_sides(points, boxes[:, None, None].expand(-1, 4, count, -1, -1))
    part = ((torch.arange(POINTS) + 0.5) / POINTS).repeat(count // POINTS)[:, None]
    inside = torch.tensor([beside, 0, -beside] if beside else [0.0]).repeat_interleave(POINTS)[:, None]
    for side in range(4):
        found, other = distances[:, side], (side + 1) % 2
        across = (found[..., side] + found[..., (side + 2) % 4]) * inside
        assert_close(found[..., side], across, atol=2e-5, rtol=1e-5)
        whole = found[..., other] + found[..., other + 2]
        assert_close(found[..., other], whole * part, atol=2e-5, rtol=1e-5)


def test_an_angle_of_zero_is_the_horizontal_box(places_of):
    sides, anchors = torch.rand(1, 4, 9), torch.rand(2, 9)
    level = border_points(places_of(sides, anchors, torch.zeros(1, 1, 9)))
    assert torch.equal(border_points(places_of(sides, anchors)), level)


def test_layers_at_some_anchors_are_those_of_all():
    layers = nn.ModuleList(nn.Conv2d(3, 5, 1) for _ in range(3))
    levels = [torch.randn(2, 3, size, size + 1) for size in (8, 4, 2)]
    every = at_anchors(layers, levels, None)
    assert_close(every[:, :, 72:92], layers[1](levels[1]).flatten(2))
    ends = torch.tensor([0, 71, 72, 91, 92, 97])  # the first and last of each level
    index = torch.stack((ends, ends.flip(0)))
    picked = at_anchors(layers, levels, index)
    for image, places in enumerate(index):
        assert_close(picked[image], every[image][:, places])


@pytest.mark.parametrize("bias", [True, False])
def test_products_of_matrices_are_the_convolutions(bias):
    grouped, x = nn.Conv1d(12, 20, 1, groups=4, bias=bias), torch.randn(2, 12, 7)
    assert_close(by_side(grouped, x.unflatten(1, (4, -1))), grouped(x))
    whole = nn.Conv2d(12, 5, 1)
    assert_close(by_matrix(whole, x), whole(x[..., None])[..., 0])


def test_points_of_maps_by_hand(places_of):
    # On a map whose cells hold their place a point reads where it lies.
    x, y = (torch.arange(8) * 8.0 + 4).expand(4, 8), (torch.arange(4) * 8.0 + 4)[:, None].expand(4, 8)
    points, one = border_points(places_of(SIDES, ANCHOR)), torch.stack((x, y))[None, None]
    found = at_points(one, points)
    assert found.shape == (1, 4, 2 * POINTS, 1)
    assert_close(found[0, :, :, 0].unflatten(1, (2, POINTS)), in_pixels(points)[0, :, :, 0].transpose(1, 2))


def test_a_map_is_mixed_at_points_as_it_is_everywhere(places_of):
    points = border_points(places_of(9 * torch.rand(2, 4, 7), 30 * torch.rand(2, 7)), 0.15)
    maps, layer = torch.rand(2, 5, 6, 10), torch.nn.Conv2d(5, 3, 1, bias=False)
    assert_close(mixed_at_points(layer, maps, points), at_points(layer(maps)[:, None], points))


def test_one_map_for_all_sides_is_that_map_for_each(places_of):
    places = places_of(9 * torch.rand(2, 4, 7), 30 * torch.rand(2, 7), torch.rand(2, 1, 7))
    one, points = torch.rand(2, 1, 3, 6, 10), border_points(places)
    assert_close(at_points(one, points), at_points(one.expand(-1, 4, -1, -1, -1), points))


def test_half_precision_finds_the_same_points(places_of):
    sides, anchors, angle = 2000 * torch.rand(1, 4, 99), torch.arange(198.0).view(2, 99), torch.rand(1, 1, 99)
    places = places_of(sides.half().float(), anchors, angle.half().float(), stride=32.0)
    half = Places(places.sides.half(), places.anchors.half(), places.strides.half(), angle.half(), SIZE)
    exact = Places(*(x.half().float() for x in (places.sides, places.anchors, places.strides, angle)), SIZE)
    assert torch.equal(border_points(half), border_points(exact))
