"""Box algebra: round trips, representations and first-order covariances against sampling."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolo_uncert.functional.boxes import (
    UNKNOWN_ANGLE_STD,
    align_representation,
    rbox_covariance,
    rbox_std,
    rbox_to_sides,
    rotate,
    sides_to_rbox,
    wrap_angle,
    xyxy_to_xywhr,
)

QUARTER = math.pi / 2


def tensor(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def random_boxes(count: int) -> Tensor:
    unit = torch.rand(count, 5, dtype=torch.float64)
    return torch.cat((unit[:, :2] * 100, 1 + unit[:, 2:4] * 40, (unit[:, 4:] - 0.5) * 6 * math.pi), dim=1)


def corners(boxes: Tensor) -> Tensor:
    """Corners ``Tensor[N, 4, 2]`` ordered by polar angle around the centre, to compare boxes as shapes."""
    signs = torch.tensor([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]], dtype=boxes.dtype)
    arms = rotate(signs * boxes[:, None, 2:4], boxes[:, 4:].expand(-1, 4))
    order = torch.atan2(arms[..., 1], arms[..., 0]).argsort(dim=1)
    return boxes[:, None, :2] + arms.gather(1, order.unsqueeze(-1).expand(-1, -1, 2))


def random_noise(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Side deviations, angle deviations, offsets and angles."""
    unit = torch.rand(count, 8, dtype=torch.float64)
    return unit[:, :4] * 3, unit[:, 4] * 0.2, (unit[:, 5:7] - 0.5) * 60, (unit[:, 7] - 0.5) * 8


def test_horizontal_box_becomes_centre_size_and_zero() -> None:
    # Corners (10, 20) and (16, 40): centre (13, 30), 6 by 20.
    torch.testing.assert_close(xyxy_to_xywhr(tensor(10, 20, 16, 40)), tensor(13, 30, 6, 20, 0))
    assert xyxy_to_xywhr(torch.tensor([[40000.0, 40000, 40100, 40100]]).half()).isfinite().all()


def test_rotate_by_hand() -> None:
    # A quarter turn takes x to y and y to -x (the y axis points down, so it looks clockwise).
    torch.testing.assert_close(rotate(tensor(3, 1), torch.tensor([QUARTER]).double()), tensor(-1, 3))


def test_sides_by_hand() -> None:
    # Sides (1, 2, 5, 4) from the anchor (10, 10): w = 6, h = 6, offset (2, 1); turned by a quarter it is (-1, 2).
    sides, anchor = tensor(1, 2, 5, 4), tensor(10, 10)
    torch.testing.assert_close(sides_to_rbox(anchor, sides, tensor(0)[0]), tensor(12, 11, 6, 6, 0))
    torch.testing.assert_close(sides_to_rbox(anchor, sides, tensor(QUARTER)[0]), tensor(9, 12, 6, 6, QUARTER))


def test_an_anchor_outside_has_a_negative_side() -> None:
    torch.testing.assert_close(rbox_to_sides(tensor(0, 0), tensor(10, 0, 4, 2, 0)), tensor(-8, 1, 12, 1))


def test_sides_and_boxes_are_inverses() -> None:
    boxes, anchor = random_boxes(500), torch.rand(500, 2, dtype=torch.float64) * 100
    sides = rbox_to_sides(anchor, boxes)
    torch.testing.assert_close(sides_to_rbox(anchor, sides, boxes[:, 4]), boxes)
    torch.testing.assert_close(rbox_to_sides(anchor, sides_to_rbox(anchor, sides, boxes[:, 4])), sides)


def test_sides_at_angle_zero_are_the_horizontal_distances() -> None:
    xyxy, anchor = torch.tensor([[10.0, 20, 50, 90]]), torch.tensor([[30.0, 40]])
    expected = torch.cat((anchor - xyxy[:, :2], xyxy[:, 2:] - anchor), dim=1)
    torch.testing.assert_close(rbox_to_sides(anchor, xyxy_to_xywhr(xyxy)), expected)


def test_leading_dimensions_are_kept() -> None:
    boxes, anchor = random_boxes(12), torch.zeros(12, 2, dtype=torch.float64)
    batched = rbox_to_sides(anchor.view(3, 4, 2), boxes.view(3, 4, 5))
    torch.testing.assert_close(batched.view(12, 4), rbox_to_sides(anchor, boxes))


def test_the_round_trip_has_a_gradient() -> None:
    boxes, anchor = random_boxes(4).requires_grad_(), torch.rand(4, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda b: rbox_to_sides(anchor, b), boxes)
    sides, angle = rbox_to_sides(anchor, boxes).detach().requires_grad_(), boxes[:, 4].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda s, a: sides_to_rbox(anchor, s, a), (sides, angle))


@pytest.mark.parametrize(
    ("delta", "period", "expected"),
    [
        (0.3, math.pi, 0.3),
        (math.pi + 0.3, math.pi, 0.3),
        (-math.pi - 0.3, math.pi, -0.3),
        # The ends are half open: +pi/2 and -pi/2 are the same rectangle, and -pi/2 is its name.
        (QUARTER, math.pi, -QUARTER),
        (-QUARTER, math.pi, -QUARTER),
        (1.5, QUARTER, 1.5 - QUARTER),
        (3.5, 2 * math.pi, 3.5 - 2 * math.pi),
        (1e-12, math.pi, 1e-12),
    ],
)
def test_wrap_angle_by_hand(delta: float, period: float, expected: float) -> None:
    wrapped = wrap_angle(tensor(delta), period).item()
    assert wrapped == pytest.approx(expected, abs=1e-14, rel=1e-12)


@given(st.floats(-1e3, 1e3), st.sampled_from([QUARTER, math.pi, 2 * math.pi]))
@settings(max_examples=100, deadline=None)
def test_wrap_angle_stays_within_one_period(delta: float, period: float) -> None:
    wrapped = wrap_angle(tensor(delta), period).item()
    assert -period / 2 - 1e-12 <= wrapped <= period / 2 + 1e-12
    turns = (delta - wrapped) / period
    assert turns == pytest.approx(round(turns), abs=1e-9)


def test_wrap_angle_passes_the_gradient() -> None:
    delta = torch.linspace(-9.1, 9.3, 20, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(wrap_angle(delta).sum(), delta)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize(
    ("angle", "reference", "expected"),
    [
        (0.1, 0.0, (8, 3, 0.1)),
        # Almost a quarter turn away: swapped sides are 0.1 away.
        (QUARTER - 0.1, 0.0, (3, 8, -0.1)),
        # The same rectangle half a turn further.
        (math.pi + 0.1, 0.0, (8, 3, 0.1)),
        # Three quarter turns: swapped.
        (0.1, 3 * QUARTER, (3, 8, 3 * QUARTER + 0.1)),
    ],
)
def test_align_representation_by_hand(angle: float, reference: float, expected: tuple[float, float, float]) -> None:
    aligned = align_representation(tensor(1, 2, 8, 3, angle), tensor(reference)[0])
    torch.testing.assert_close(aligned, tensor(1, 2, *expected))


def test_aligned_boxes_are_the_same_shapes_near_the_reference() -> None:
    boxes, reference = random_boxes(1000), (torch.rand(1000, dtype=torch.float64) - 0.5) * 20
    before = boxes.clone()
    aligned = align_representation(boxes, reference)
    assert (aligned[:, 4] - reference).abs().max() <= math.pi / 4 + 1e-12
    torch.testing.assert_close(corners(aligned), corners(boxes))
    torch.testing.assert_close(align_representation(aligned, reference), aligned)
    assert torch.equal(boxes, before)


def test_alignment_passes_gradients_to_the_swapped_sides() -> None:
    boxes = tensor(1, 2, 8, 3, QUARTER - 0.1).requires_grad_()
    weights = tensor(1, 2, 3, 4, 5)
    (gradient,) = torch.autograd.grad((align_representation(boxes, tensor(0)[0]) * weights).sum(), boxes)
    torch.testing.assert_close(gradient, tensor(1, 2, 4, 3, 5))


def test_covariance_equals_the_published_formulas() -> None:
    sides_std, angle_std, offset, angle = random_noise(50)
    v_l, v_t, v_r, v_b = sides_std.square().unbind(1)
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack((cos, -sin, sin, cos), dim=1).reshape(-1, 2, 2)
    derivative = torch.stack((-sin, -cos, cos, -sin), dim=1).reshape(-1, 2, 2)
    g = derivative @ offset.unsqueeze(-1)
    axes = torch.diag_embed(torch.stack(((v_l + v_r) / 4, (v_t + v_b) / 4), dim=1))
    spread = angle_std.square()[:, None, None]
    expected = torch.zeros(50, 5, 5, dtype=torch.float64)
    expected[:, :2, :2] = rotation @ axes @ rotation.mT + spread * g @ g.mT
    expected[:, :2, 2:4] = rotation @ torch.diag_embed(torch.stack(((v_r - v_l) / 2, (v_b - v_t) / 2), dim=1))
    expected[:, 2:4, :2] = expected[:, :2, 2:4].mT
    expected[:, :2, 4:] = spread * g
    expected[:, 4:, :2] = (spread * g).mT
    expected[:, 2, 2], expected[:, 3, 3], expected[:, 4, 4] = v_l + v_r, v_t + v_b, angle_std.square()
    torch.testing.assert_close(rbox_covariance(sides_std, angle_std, offset, angle), expected)


def test_covariance_equals_the_covariance_of_decoded_samples() -> None:
    sides, sides_std = torch.tensor([30.0, 12, 55, 40]), torch.tensor([2.0, 0.5, 3.0, 1.5])
    angle, angle_std, count = torch.tensor([0.6]), torch.tensor([0.02]), 200_000
    noisy_sides = sides + sides_std * torch.randn(count, 4)
    noisy_angle = angle + angle_std * torch.randn(count)
    samples = sides_to_rbox(torch.zeros(2), noisy_sides, noisy_angle).double()
    offset = (sides[2:] - sides[:2]).unsqueeze(0) / 2
    covariance = rbox_covariance(sides_std.unsqueeze(0), angle_std, offset, angle)[0].double()
    std = covariance.diagonal().sqrt()
    # Entries in units of their deviations, so that one tolerance serves pixels and radians; sampling noise is 0.3 %.
    torch.testing.assert_close(samples.T.cov() / std.outer(std), covariance / std.outer(std), rtol=0, atol=0.015)
    torch.testing.assert_close(rbox_std(sides_std.unsqueeze(0), angle_std, offset, angle)[0].double(), std)


def test_std_is_the_root_of_the_diagonal() -> None:
    noise = random_noise(200)
    diagonal = rbox_covariance(*noise).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(rbox_std(*noise), diagonal.sqrt())


def test_covariance_is_symmetric_and_positive_semidefinite() -> None:
    covariance = rbox_covariance(*random_noise(200))
    assert torch.equal(covariance, covariance.mT)
    assert torch.linalg.eigvalsh(covariance).min() > -1e-9


def test_horizontal_box_with_a_certain_angle_has_the_horizontal_std() -> None:
    sides_std, _, offset, _ = random_noise(100)
    std = rbox_std(sides_std, torch.zeros(100), offset, torch.zeros(100))
    width, height = sides_std[:, ::2].norm(dim=1), sides_std[:, 1::2].norm(dim=1)
    torch.testing.assert_close(std[:, :4], torch.stack((width / 2, height / 2, width, height), 1))
    assert (std[:, 4] == 0).all()


def test_a_quarter_turn_swaps_the_centre_std() -> None:
    sides_std, angle_std, offset, angle = random_noise(100)
    std, turned = (rbox_std(sides_std, angle_std, offset, angle + turn) for turn in (0, QUARTER))
    torch.testing.assert_close(turned, std[:, [1, 0, 2, 3, 4]])


@pytest.mark.parametrize("unknown", [UNKNOWN_ANGLE_STD, math.inf])
def test_an_unknown_angle_does_not_reach_the_centre(unknown: float) -> None:
    sides_std, angle_std, offset, angle = random_noise(100)
    # Even an offset of zero, where infinity times zero would be NaN.
    offset[0] = 0
    std = rbox_std(sides_std, torch.full_like(angle_std, unknown), offset, angle, angle_known=False)
    certain = rbox_std(sides_std, torch.zeros_like(angle_std), offset, angle)
    torch.testing.assert_close(std[:, :4], certain[:, :4])
    assert (std[:, 4] == unknown).all()


def test_unknown_angle_std_is_that_of_a_uniform_angle() -> None:
    angles = torch.linspace(-QUARTER, QUARTER, 100_001, dtype=torch.float64)
    assert angles.std().item() == pytest.approx(UNKNOWN_ANGLE_STD, rel=1e-4)


def test_empty_inputs() -> None:
    empty = torch.zeros(0, 5)
    assert rbox_to_sides(empty[:, :2], empty).shape == (0, 4)
    assert sides_to_rbox(empty[:, :2], empty[:, :4], empty[:, 4]).shape == (0, 5)
    assert align_representation(empty, empty[:, 4]).shape == (0, 5)
    assert rbox_covariance(empty[:, :4], empty[:, 4], empty[:, :2], empty[:, 4]).shape == (0, 5, 5)
    assert rbox_std(empty[:, :4], empty[:, 4], empty[:, :2], empty[:, 4]).shape == (0, 5)
