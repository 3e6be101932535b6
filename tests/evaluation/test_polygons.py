"""Overlap of quadrilaterals, by hand, against shapely and against the package's operator on oriented boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely

from yolo_uncert.evaluation import corners, polygon_iou
from yolo_uncert.ops import rotated_iou

SQUARE = [[0, 0], [2, 0], [2, 2], [0, 2]]


def random_boxes(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(0, 4, (count, 2)))
    return np.column_stack((rng.uniform(0, 50, (count, 2)), sides, rng.uniform(-7, 7, count)))


def shapely_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    one, other = shapely.polygons(first), shapely.polygons(second)
    intersection = shapely.area(shapely.intersection(one, other))
    return intersection / (shapely.area(one) + shapely.area(other) - intersection)


class TestCorners:
    def test_by_hand(self):
        # A quarter turn puts the width of 4 on the y axis; corners in any order.
        turned = corners(np.array([[1.0, 2.0, 4.0, 2.0, math.pi / 2]]))
        assert sorted(turned[0].round(12).tolist()) == [[0, 0], [0, 4], [2, 0], [2, 4]]

    def test_angle_zero_is_the_horizontal_box(self):
        box = corners(np.array([[5.0, 6.0, 4.0, 2.0, 0.0]]))[0]
        assert [*box.min(axis=0), *box.max(axis=0)] == [3, 5, 7, 7]

    def test_empty(self):
        assert corners(np.zeros((0, 5))).shape == (0, 4, 2)


class TestPolygonIou:
    @pytest.mark.parametrize(
        ("second", "expected"),
        [
            (SQUARE, 1.0),
            (SQUARE[::-1], 1.0),  # the direction does not matter
            ([[1, 0], [3, 0], [3, 2], [1, 2]], 2 / 6),
            ([[2, 0], [4, 0], [4, 2], [2, 2]], 0.0),  # one edge in common
            ([[2, 2], [3, 2], [3, 3], [2, 3]], 0.0),  # one corner in common
            ([[5, 0], [6, 0], [6, 1], [5, 1]], 0.0),
            ([[0, 0], [1, 0], [1, 1], [0, 1]], 1 / 4),  # inside
            ([[0, 0], [4, 0], [2, 2], [0, 2]], 4 / 6),  # a trapezoid of area 6 around the square
            # Concave: the triangle (0, 0), (2, 0), (2, 2) of area 2 without the triangle (0, 0), (2, 0), (1.5, 0.5) of
            # area 1/2, all of it within the square.
            ([[0, 0], [1.5, 0.5], [2, 0], [2, 2]], 1.5 / 4),
            ([[0, 0], [2, 2], [2, 2], [0, 0]], 0.0),  # no area
        ],
    )
    def test_by_hand(self, second, expected):
        pair = np.array([SQUARE], dtype=float), np.array([second], dtype=float)
        assert polygon_iou(*pair)[0] == pytest.approx(expected, abs=1e-15)
        assert polygon_iou(*pair[::-1])[0] == pytest.approx(expected, abs=1e-15)

    def test_rectangles_against_the_operator_on_boxes(self):
        first, second = random_boxes(4000), random_boxes(4000, seed=1)
        second[:200] = first[:200]
        np.testing.assert_allclose(
            polygon_iou(corners(first), corners(second)), rotated_iou(first, second), rtol=0, atol=1e-12
        )

    def test_any_simple_polygon_against_shapely(self):
        quads = np.random.default_rng(2).uniform(0, 50, (2, 6000, 4, 2))
        simple = shapely.is_valid(shapely.polygons(quads)).all(axis=0)
        first, second = quads[:, simple]
        assert simple.sum() > 1000
        np.testing.assert_allclose(polygon_iou(first, second), shapely_iou(first, second), rtol=0, atol=1e-12)

    def test_far_from_the_origin(self):
        first, second = corners(random_boxes(500)), corners(random_boxes(500, seed=1))
        far = np.array([2e4, 1e4])
        np.testing.assert_allclose(
            polygon_iou(first + far, second + far), shapely_iou(first, second), rtol=0, atol=1e-10
        )

    def test_every_start_and_direction(self):
        first, second = corners(random_boxes(50)), corners(random_boxes(50, seed=1))
        expected = polygon_iou(first, second)
        for variant in (np.roll(first, 1, axis=1), np.roll(first, 3, axis=1), first[:, ::-1]):
            np.testing.assert_allclose(polygon_iou(variant, second), expected, rtol=0, atol=1e-13)

    def test_empty_and_unchanged_inputs(self):
        assert polygon_iou(np.zeros((0, 4, 2)), np.zeros((0, 4, 2))).shape == (0,)
        first, second = corners(random_boxes(9)), corners(random_boxes(9, seed=1))
        before = first.copy(), second.copy()
        polygon_iou(first, second)
        np.testing.assert_array_equal((first, second), before)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"got \[2, 5\] and \[2, 4, 2\]"):
            polygon_iou(np.zeros((2, 5)), np.zeros((2, 4, 2)))
