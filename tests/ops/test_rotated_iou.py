"""Exact IoU of oriented boxes, against shapely, torchvision and values by hand."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import shapely
import torch
from torch import Tensor
from torchvision.ops import box_iou

from yolo_uncert.functional.boxes import rotate
from yolo_uncert.ops import pairwise_rotated_iou, rotated_iou

QUARTER = math.pi / 2
module = importlib.import_module("yolo_uncert.ops.rotated_iou")  # the package's name for it is the function's


def boxes_of(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def random_boxes(count: int, spread: float = 50.0, low: float = 1.0, high: float = 40.0, origin: float = 0.0) -> Tensor:
    """Centres within ``spread`` pixels of the origin, log-uniform sides from ``low`` to ``high``, any angle."""
    unit = torch.rand(count, 5, dtype=torch.float64)
    sides = low * (high / low) ** unit[:, 2:4]
    return torch.cat((origin + unit[:, :2] * spread, sides, (unit[:, 4:] - 0.5) * 4 * math.pi), dim=1)


def polygons(boxes: Tensor) -> np.ndarray:
    signs = torch.tensor([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]], dtype=torch.float64)
    arms = rotate(signs * boxes[:, None, 2:4], boxes[:, 4:].expand(-1, 4))
    return shapely.polygons((boxes[:, None, :2] + arms).numpy())


def shapely_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    polygons1, polygons2 = polygons(boxes1.double()), polygons(boxes2.double())
    intersection = shapely.area(shapely.intersection(polygons1, polygons2))
    return torch.from_numpy(intersection / (shapely.area(polygons1) + shapely.area(polygons2) - intersection))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # Half of each: 2 / (4 + 4 - 2).
        ((0, 0, 2, 2, 0), (1, 0, 2, 2, 0), 1 / 3),
        # A square and itself turned by 45 degrees: octagon of area 8 (sqrt 2 - 1); union 8 - that.
        ((0, 0, 2, 2, 0), (0, 0, 2, 2, math.pi / 4), 8 * (math.sqrt(2) - 1) / (16 - 8 * math.sqrt(2))),
        # A cross of two 6 x 2 bars: 4 / (12 + 12 - 4).
        ((5, 5, 6, 2, 0.4), (5, 5, 6, 2, 0.4 + QUARTER), 0.2),
        # Concentric, half the sides: 1/4.
        ((3, 4, 8, 6, 1.0), (3, 4, 4, 3, 1.0), 0.25),
        # A diamond whose corner reaches half a pixel into a box: triangle of area 1/4; union 4 + 2 - 1/4.
        ((0, 0, 2, 2, 0), (1.5, 0, math.sqrt(2), math.sqrt(2), math.pi / 4), 0.25 / 5.75),
        # The same rectangle in its other representations.
        ((1, 2, 8, 3, 0.3), (1, 2, 3, 8, 0.3 + QUARTER), 1.0),
        ((1, 2, 8, 3, 0.3), (1, 2, 8, 3, 0.3 - 5 * math.pi), 1.0),
        # Edge to edge, corner to corner, apart.
        ((0, 0, 2, 2, 0), (2, 0, 2, 2, 0), 0.0),
        ((0, 0, 2, 2, 0), (2, 2, 2, 2, 0), 0.0),
        ((0, 0, 2, 2, 0), (9, 9, 2, 2, 1.0), 0.0),
        # Circles and bounding boxes overlap, the boxes do not: two parallel diagonal bars one pixel apart.
        ((0, 0, 10, 1, math.pi / 4), (-math.sqrt(2), math.sqrt(2), 10, 1, math.pi / 4), 0.0),
    ],
)
def test_values_by_hand(first: tuple[float, ...], second: tuple[float, ...], expected: float) -> None:
    first_box, second_box = boxes_of(first), boxes_of(second)
    assert rotated_iou(first_box, second_box).item() == pytest.approx(expected, abs=1e-12)
    assert rotated_iou(second_box, first_box).item() == pytest.approx(expected, abs=1e-12)
    assert pairwise_rotated_iou(first_box, second_box).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"origin": 1e4},
        {"low": 1e-3, "high": 1e3},
        {"low": 1e-3, "high": 1e3, "origin": 1e4},
        {"spread": 1e-3, "low": 1e-4, "high": 1e-3},
        {"spread": 200.0},
    ],
    ids=["ordinary", "far origin", "thin", "thin at a far origin", "tiny", "mostly disjoint"],
)
def test_equals_shapely(options: dict[str, float]) -> None:
    boxes1, boxes2 = random_boxes(4000, **options), random_boxes(4000, **options)
    iou, expected = rotated_iou(boxes1, boxes2), shapely_iou(boxes1, boxes2)
    assert (expected > 0).sum() > 40
    torch.testing.assert_close(iou, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(rotated_iou(boxes2, boxes1), iou, rtol=0, atol=1e-9)
    assert iou.min() >= 0
    assert iou.max() <= 1


def test_float32_boxes_are_clipped_in_float64() -> None:
    boxes1, boxes2 = random_boxes(2000, origin=1e4).float(), random_boxes(2000, origin=1e4).float()
    iou = rotated_iou(boxes1, boxes2)
    assert iou.dtype == torch.float32
    torch.testing.assert_close(iou.double(), shapely_iou(boxes1, boxes2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("origin", [0.0, 1e4])
def test_every_box_equals_itself(origin: float) -> None:
    boxes = random_boxes(2000, low=1e-3, high=1e3, origin=origin)
    torch.testing.assert_close(rotated_iou(boxes, boxes), torch.ones(2000).double(), rtol=0, atol=1e-12)


def test_nested_boxes_have_the_ratio_of_their_areas() -> None:
    boxes = random_boxes(2000)
    inner = boxes.clone()
    inner[:, 2:4] *= 0.3
    # Pushed until two of its edges lie on edges of the outer box.
    inner[:, :2] += rotate(boxes[:, 2:4] * 0.35, boxes[:, 4])
    torch.testing.assert_close(
        rotated_iou(inner, boxes), torch.full((2000,), 0.09, dtype=torch.float64), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        rotated_iou(boxes, inner), torch.full((2000,), 0.09, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_boxes_that_share_an_edge_line_overlap_by_their_common_part() -> None:
    boxes = random_boxes(2000)
    moved = boxes.clone()
    # A quarter of the width along the own x axis: two pairs of edges are collinear; 3/4 of the area is common.
    moved[:, :2] += rotate(boxes[:, 2:4] * torch.tensor([0.25, 0.0]), boxes[:, 4])
    torch.testing.assert_close(
        rotated_iou(boxes, moved), torch.full((2000,), 0.6, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_touching_boxes_do_not_overlap() -> None:
    boxes = random_boxes(2000)
    neighbour = boxes.clone()
    neighbour[:, :2] += rotate(boxes[:, 2:4] * torch.tensor([1.0, 0.0]), boxes[:, 4])
    assert rotated_iou(boxes, neighbour).max() < 1e-12


def test_separated_boxes_have_exactly_zero() -> None:
    boxes1, boxes2 = random_boxes(4000, spread=80), random_boxes(4000, spread=80)
    apart = torch.from_numpy(shapely.distance(polygons(boxes1), polygons(boxes2))) > 1e-6
    assert apart.sum() > 1000
    assert (rotated_iou(boxes1, boxes2)[apart] == 0).all()


def test_zero_angle_equals_torchvision() -> None:
    boxes1, boxes2 = random_boxes(60), random_boxes(80)
    boxes1[:, 4], boxes2[:, 4] = 0, math.pi
    xyxy1, xyxy2 = (torch.cat((b[:, :2] - b[:, 2:4] / 2, b[:, :2] + b[:, 2:4] / 2), dim=1) for b in (boxes1, boxes2))
    torch.testing.assert_close(pairwise_rotated_iou(boxes1, boxes2), box_iou(xyxy1, xyxy2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(0.0, 5.0), (5.0, 0.0), (0.0, 0.0), (-2.0, 5.0), (-2.0, -5.0)])
def test_boxes_without_area_overlap_nothing(size: tuple[float, float]) -> None:
    flat, whole = boxes_of((0, 0, *size, 0.3)), boxes_of((0, 0, 10, 10, 0.3))
    for first, second in ((flat, whole), (whole, flat), (flat, flat)):
        assert rotated_iou(first, second).item() == 0
        assert pairwise_rotated_iou(first, second).item() == 0


def test_pairwise_equals_elementwise_over_all_pairs() -> None:
    boxes1, boxes2 = random_boxes(50, spread=100), random_boxes(70, spread=100)
    every_pair = rotated_iou(boxes1.repeat_interleave(70, dim=0), boxes2.repeat(50, 1)).view(50, 70)
    torch.testing.assert_close(pairwise_rotated_iou(boxes1, boxes2), every_pair, rtol=0, atol=1e-14)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes1, boxes2 = random_boxes(50), random_boxes(50)
    whole, pairwise = rotated_iou(boxes1, boxes2), pairwise_rotated_iou(boxes1, boxes2)
    monkeypatch.setattr(module, "_PAIRS_PER_CHUNK", 7)
    monkeypatch.setattr(module, "_TESTS_PER_CHUNK", 120)
    # Not bit for bit: vector units round sine and cosine differently from the scalar rest of a chunk.
    torch.testing.assert_close(rotated_iou(boxes1, boxes2), whole, rtol=0, atol=1e-14)
    torch.testing.assert_close(pairwise_rotated_iou(boxes1, boxes2), pairwise, rtol=0, atol=1e-14)


def test_far_pairs_are_not_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    clipped = 0
    clip = module._iou

    def count(boxes1: Tensor, boxes2: Tensor) -> Tensor:
        nonlocal clipped
        clipped += len(boxes1)
        return clip(boxes1, boxes2)

    monkeypatch.setattr(module, "_iou", count)
    # A row of unit squares 10 apart: each meets only itself.
    boxes = torch.stack([torch.tensor([10.0 * i, 0, 1, 1, 0.1 * i]) for i in range(20)])
    torch.testing.assert_close(pairwise_rotated_iou(boxes, boxes), torch.eye(20))
    assert clipped == 20


@pytest.mark.parametrize(
    ("dtype1", "dtype2", "expected"),
    [
        (torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.int64, torch.int64, torch.float32),
    ],
)
def test_result_type(dtype1: torch.dtype, dtype2: torch.dtype, expected: torch.dtype) -> None:
    boxes = torch.tensor([[4, 4, 2, 2, 0]])
    for iou in (rotated_iou, pairwise_rotated_iou):
        result = iou(boxes.to(dtype1), boxes.to(dtype2))
        assert result.dtype == expected
        assert result.item() == 1


def test_single_precision_arithmetic_is_close() -> None:
    """The precision used where the device has no float64."""
    boxes1, boxes2 = random_boxes(2000), random_boxes(2000)
    single = module._iou(boxes1.float(), boxes2.float())
    torch.testing.assert_close(single.double(), rotated_iou(boxes1, boxes2), rtol=0, atol=2e-5)


def test_inputs_are_not_mutated_and_the_result_has_no_graph() -> None:
    boxes1, boxes2 = random_boxes(20).requires_grad_(), random_boxes(20)
    before = boxes1.detach().clone(), boxes2.clone()
    assert not rotated_iou(boxes1, boxes2).requires_grad
    assert not pairwise_rotated_iou(boxes1, boxes2).requires_grad
    assert torch.equal(boxes1, before[0])
    assert torch.equal(boxes2, before[1])


def test_arrays_come_back_as_arrays() -> None:
    boxes1, boxes2 = random_boxes(20), random_boxes(20)
    array1, array2 = boxes1.numpy()[::-1], boxes2.numpy().copy()
    array2.flags.writeable = False
    iou, pairwise = rotated_iou(array1, array2), pairwise_rotated_iou(array1.astype(np.float32), array2)
    assert (type(iou), iou.dtype, pairwise.shape) == (np.ndarray, np.float64, (20, 20))
    np.testing.assert_array_equal(iou, rotated_iou(boxes1.flip(0), boxes2).numpy())


def test_empty_inputs() -> None:
    empty, boxes = torch.zeros(0, 5), random_boxes(3).float()
    assert rotated_iou(empty, empty).shape == (0,)
    assert pairwise_rotated_iou(empty, boxes).shape == (0, 3)
    assert pairwise_rotated_iou(boxes, empty).shape == (3, 0)


@pytest.mark.parametrize("shapes", [((3, 5), (2, 5)), ((3, 5), (1, 5)), ((3, 4), (3, 4)), ((5,), (5,))])
def test_elementwise_shapes_are_checked(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"boxes must both be \[N, 5\]; got"):
        rotated_iou(*map(torch.ones, shapes))


@pytest.mark.parametrize("shapes", [((3, 4), (3, 5)), ((3, 5), (3, 4)), ((5,), (3, 5))])
def test_pairwise_shapes_are_checked(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"boxes must be \[N, 5\]; got"):
        pairwise_rotated_iou(*map(torch.ones, shapes))
