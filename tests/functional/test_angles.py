"""Conventions of oriented boxes: the rectangle stays, the range holds, foreign tools agree."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from ultralytics.utils.ops import regularize_rboxes, xyxyxyxy2xywhr

from yolo_uncert.evaluation import corners
from yolo_uncert.functional.angles import CONVENTIONS, swap_sides, swap_sides_covariance, to_convention

QUARTER = math.pi / 2
LONG = [name for name, convention in CONVENTIONS.items() if convention.long_edge]


def box(width: float, height: float, degrees: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([[100.0, 50.0, width, height, math.radians(degrees)]], dtype=dtype)


def random_boxes(count: int, seed: int = 0) -> Tensor:
    unit = torch.rand(count, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.cat((unit[:, :2] * 100, 1 + unit[:, 2:4] * 40, (unit[:, 4:] - 0.5) * 12 * math.pi), dim=1)


def as_shape(boxes: Tensor) -> np.ndarray:
    """Corners sorted around the centre by their direction as a point set: by x, then y, rounded against ties."""
    points = corners(boxes.double().numpy())
    keys = points.round(6)
    order = np.lexsort((keys[..., 1], keys[..., 0]), axis=-1)
    return np.take_along_axis(points, order[..., None], axis=1)


def in_range(boxes: Tensor, name: str) -> bool:
    low, high, long_edge, high_included = CONVENTIONS[name]
    angle = boxes[..., 4]
    fits = (angle > low) & (angle <= high) if high_included else (angle >= low) & (angle < high)
    return bool((fits & ((boxes[..., 2] >= boxes[..., 3]) if long_edge else True)).all())


# A box 40 long and 20 wide whose long side points 30 degrees down to the right, and the same turned to 120 and to 0
# degrees. 120 degrees is also 120 - 180 = -60; the short side lies 90 degrees from the long one: at 30 - 90 = -60, at
# 120 - 90 = 30 and at 0 - 90 = -90, which is also 90.
@pytest.mark.parametrize(
    ("name", "at30", "at120", "at0"),
    [
        ("oc", (40, 20, 30), (20, 40, 30), (20, 40, 90)),
        ("oc-negative", (20, 40, -60), (40, 20, -60), (20, 40, -90)),
        ("le90", (40, 20, 30), (40, 20, -60), (40, 20, 0)),
        ("le135", (40, 20, 30), (40, 20, 120), (40, 20, 0)),
        ("ultralytics", (40, 20, 30), (40, 20, 120), (40, 20, 0)),
        ("regular", (40, 20, 30), (20, 40, 30), (40, 20, 0)),
    ],
)
def test_values_by_hand(name, at30, at120, at0):
    for degrees, expected in ((30, at30), (120, at120), (0, at0)):
        for given_box in (box(40, 20, degrees), box(20, 40, degrees - 90), box(40, 20, degrees + 900)):
            found, swapped = to_convention(given_box, name)
            torch.testing.assert_close(found, box(*expected))
            assert swapped.item() == (expected[0] != given_box[0, 2].item())


# Long side straight down: 90 degrees is outside le90, which says -90; 135 degrees is outside le135, which says -45.
@pytest.mark.parametrize(
    ("name", "degrees", "expected"),
    [
        ("le90", 90, (40, 20, -90)),
        ("le90", -90, (40, 20, -90)),
        ("le135", 135, (40, 20, -45)),
        ("le135", -45, (40, 20, -45)),
        ("oc", 90, (40, 20, 90)),
        ("oc", 0, (20, 40, 90)),
        ("oc-negative", -90, (40, 20, -90)),
        ("regular", 90, (20, 40, 0)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_of_the_range(name, degrees, expected, dtype):
    found, _ = to_convention(box(40, 20, degrees, dtype), name)
    torch.testing.assert_close(found, box(*expected, dtype))
    assert in_range(found, name)


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(CONVENTIONS)),
    sides=st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3)),
    angle=st.one_of(
        st.floats(-60, 60),
        st.integers(-40, 40).map(lambda eighths: eighths * math.pi / 4),
        st.floats(-1e-15, 1e-15),
    ),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_rectangle_stays_and_the_range_holds(name, sides, angle, dtype):
    given_box = torch.tensor([[3.0, -7.0, *sides, angle]], dtype=dtype)
    found, swapped = to_convention(given_box, name)
    assert in_range(found, name)
    # 60 radians in float32 are good to 4e-6, over half a diagonal of 700.
    rounding = 1e-2 if dtype == torch.float32 else 1e-9
    near = np.abs(corners(found.numpy())[0][:, None] - corners(given_box.double().numpy())[0][None]).max(-1)
    assert (near.min(0) < rounding).all()
    assert (near.min(1) < rounding).all()
    assert torch.equal(swap_sides(given_box, swapped)[:, :4], found[:, :4])


@pytest.mark.parametrize("first", CONVENTIONS)
@pytest.mark.parametrize("second", CONVENTIONS)
def test_round_trips(first, second):
    there, swapped = to_convention(random_boxes(200), first)
    between, swapped_between = to_convention(there, second)
    back, swapped_back = to_convention(between, first)
    torch.testing.assert_close(back, there, rtol=0, atol=1e-12)
    assert torch.equal(swapped_between, swapped_back)
    np.testing.assert_allclose(as_shape(between), as_shape(there), atol=1e-9)
    again, none = to_convention(there, first)
    assert not none.any()
    torch.testing.assert_close(again, there, rtol=0, atol=0)
    assert swapped.any(), "otherwise nothing was tested"


@pytest.mark.parametrize("name", CONVENTIONS)
def test_squares_have_one_description(name):
    descriptions = torch.cat([box(30, 30, 20 + 90 * turns) for turns in range(-3, 4)])
    found, _ = to_convention(descriptions, name)
    torch.testing.assert_close(found, found[:1].expand_as(found))
    assert in_range(found, name)


def test_opencv_agrees():
    """OpenCV says (0, 90] from 4.5.1 to 4.12 and [-90, 0) before and since: a quarter turn and other sides apart."""
    boxes = random_boxes(300)
    for given_box, ours, negative in zip(
        boxes, to_convention(boxes, "oc")[0], to_convention(boxes, "oc-negative")[0], strict=True
    ):
        centre, (width, height), degrees = cv2.minAreaRect(corners(given_box.numpy())[0].astype(np.float32))
        expected = ours if degrees > 0 else negative
        np.testing.assert_allclose([*centre, width, height], expected[:4], atol=2e-4)
        assert math.radians(degrees) == pytest.approx(expected[4].item(), abs=2e-4)


def test_ultralytics_labels_agree():
    boxes = random_boxes(300)
    theirs = torch.from_numpy(xyxyxyxy2xywhr(corners(boxes.numpy())))
    torch.testing.assert_close(to_convention(boxes, "ultralytics")[0], theirs, rtol=0, atol=2e-4)


def test_ultralytics_regular_agrees():
    boxes = random_boxes(300)
    torch.testing.assert_close(to_convention(boxes, "regular")[0], regularize_rboxes(boxes), rtol=0, atol=1e-12)


def test_an_angle_just_below_the_range_stays_inside_it():
    # -1e-20 + pi/2 rounds to pi/2, which `regular` excludes: the nearest description inside is the angle 0.
    found, swapped = to_convention(torch.tensor([[0.0, 0, 40, 20, -1e-20]], dtype=torch.float64), "regular")
    assert found.tolist() == [[0, 0, 40, 20, 0]]
    assert not swapped.any()


@pytest.mark.parametrize("name", ["le135", "ultralytics"])
def test_an_angle_whose_sum_rounds_to_the_end_of_the_range_stays_inside_it(name):
    # The greatest float32 below pi/4: with pi/2 it rounds to 3pi/4, which is excluded.
    angle = torch.nextafter(torch.tensor(math.pi / 4), torch.tensor(0.0)).item()
    found, swapped = to_convention(torch.tensor([[0.0, 0, 20, 40, angle]]), name)
    assert in_range(found, name)
    assert found[0, 2:4].tolist() == [40, 20]
    assert swapped.all()
    assert torch.equal(to_convention(found, name)[0], found)


def test_spreads_follow_their_sides():
    boxes = torch.cat((box(40, 20, 30), box(20, 40, 30)))
    std = torch.tensor([[1.0, 2, 3, 4, 5]]).expand(2, 5)
    _, swapped = to_convention(boxes, "le90")
    assert swapped.tolist() == [False, True]
    assert swap_sides(std, swapped).tolist() == [[1, 2, 3, 4, 5], [1, 2, 4, 3, 5]]


@pytest.mark.parametrize("name", LONG)
def test_the_covariance_is_that_of_the_converted_samples(name):
    """Boxes drawn around a mean and converted have the converted covariance, far from the ends of the range."""
    factor = torch.rand(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.01
    noise = torch.randn(500, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) @ factor.T
    drawn = box(20, 40, 10) + noise
    converted, swapped = to_convention(drawn, name)
    assert swapped.all()
    torch.testing.assert_close(swap_sides_covariance(drawn.T.cov(), swapped[0]), converted.T.cov())


def test_any_leading_shape_and_no_boxes():
    boxes = random_boxes(12)
    found, swapped = to_convention(boxes.view(3, 4, 5), "le90")
    assert found.shape == (3, 4, 5)
    assert swapped.shape == (3, 4)
    assert torch.equal(found.view(12, 5), to_convention(boxes, "le90")[0])
    empty = torch.zeros(0, 5, requires_grad=True)
    found, swapped = to_convention(empty, "oc")
    assert (found.shape, swapped.shape, swapped.dtype) == ((0, 5), (0,), torch.bool)
    found.sum().backward()
    assert empty.grad is not None
    assert swap_sides(empty, swapped).shape == (0, 5)
    assert swap_sides_covariance(torch.zeros(0, 5, 5), swapped).shape == (0, 5, 5)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_gradients_follow_the_sides(name):
    boxes = random_boxes(50).requires_grad_()
    found, swapped = to_convention(boxes, name)
    weight = torch.tensor([1.0, 2, 3, 4, 5], dtype=torch.float64)
    (found * weight).sum().backward()
    # Every output is one of the inputs plus a constant, so that w and h trade their weights where they trade places.
    torch.testing.assert_close(boxes.grad, swap_sides(weight.expand(50, 5), swapped))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_stays_and_nothing_is_written_into_the_input(dtype):
    boxes = random_boxes(20).to(dtype)
    before = boxes.clone()
    for name in CONVENTIONS:
        found, swapped = to_convention(boxes, name)
        assert found.dtype == dtype
        assert in_range(found, name)
        swap_sides(boxes, swapped)
    assert torch.equal(boxes, before)


def test_messages():
    with pytest.raises(ValueError, match=r"convention is 'le180'\. One of: oc, oc-negative, le90, le135, ultralytics"):
        to_convention(torch.zeros(1, 5), "le180")
    with pytest.raises(ValueError, match=r"must be floating point Tensor\[..., 5\]; got torch.float32 \[3, 4\]"):
        to_convention(torch.zeros(3, 4), "le90")
    with pytest.raises(ValueError, match=r"got torch.int64 \[1, 5\]"):
        to_convention(torch.zeros(1, 5, dtype=torch.long), "le90")
