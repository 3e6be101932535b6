"""Geometry of the drawable classes and their drawing."""

import math

import cv2
import numpy as np
import pytest

from yolo_uncert.synthetic.paint import paint
from yolo_uncert.synthetic.shapes import SHAPES, corners, fill, outline, rotation


def test_corners_of_a_quarter_turn():
    # w = 8 now runs along y and h = 4 along x: x in 10 -+ 2, y in 20 -+ 4.
    points = corners((10.0, 20.0, 8.0, 4.0, math.pi / 2))
    np.testing.assert_allclose(sorted(points.tolist()), [[8, 16], [8, 24], [12, 16], [12, 24]], atol=1e-12)


def test_positive_angles_turn_right_to_down():
    np.testing.assert_allclose(rotation(math.pi / 2) @ [1, 0], [0, 1], atol=1e-15)


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("angle", [0.0, 0.7, 4.0])
def test_outline_touches_all_sides_of_its_box(name, angle):
    points = (outline(name, (50.0, 60.0, 40.0, 22.0, angle)) - [50, 60]) @ rotation(angle)
    np.testing.assert_allclose(points.min(axis=0), [-20, -11], atol=1e-9)
    np.testing.assert_allclose(points.max(axis=0), [20, 11], atol=1e-9)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_arrows_alone_show_where_they_point(name):
    points = outline(name, (0.0, 0.0, 40.0, 20.0, 0.0))
    tip, tail = np.ptp(points[points[:, 0] > 15, 1]), np.ptp(points[points[:, 0] < -15, 1])
    assert (abs(tip - tail) > 1) == (name == "arrow")


def test_fill_covers_whole_pixels_of_an_aligned_box():
    mask = fill(corners((16.0, 12.0, 8.0, 4.0, 0.0)), (32, 40), subpixels=4) / 255
    # Columns 12..19 and rows 10..13; OpenCV also fills the subpixels that the border touches, at most a quarter pixel.
    assert mask[10:14, 12:20].min() == 1
    assert mask.sum() == pytest.approx(32, abs=0.25 * 2 * (8 + 4) + 0.5)
    assert np.count_nonzero(mask[:9]) + np.count_nonzero(mask[15:]) == 0


def test_fill_has_the_area_of_an_ellipse():
    mask = fill(outline("disc", (40.0, 40.0, 50.0, 30.0, 0.4)), (80, 80), subpixels=4) / 255
    assert mask.sum() == pytest.approx(math.pi * 25 * 15, rel=0.02)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_sharp_objects_change_their_box_only(name, rng):
    image = np.full((96, 96, 3), 128, np.float32)
    paint(rng, image, name, (48.0, 48.0, 40.0, 24.0, 0.0), blur=0.0)
    changed = np.abs(image - 128).max(axis=2) > 8
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    # The box is x 28..68, y 36..60, that is pixels 28..67 and 36..59; one more pixel for the soft edge.
    assert abs(columns[0] - 28) <= 1
    assert abs(columns[-1] - 67) <= 1
    assert abs(rows[0] - 36) <= 1
    assert abs(rows[-1] - 59) <= 1


@pytest.mark.parametrize("centre", [(6.0, 60.0), (60.0, 3.0), (62.0, 62.0)])
def test_drawing_over_the_border_equals_a_crop(centre):
    small, large = np.full((64, 64, 3), 90, np.float32), np.full((192, 192, 3), 90, np.float32)
    box = (40.0, 22.0, 0.6)
    paint(np.random.default_rng(1), small, "arrow", (*centre, *box), 3.0)
    paint(np.random.default_rng(1), large, "arrow", (centre[0] + 64, centre[1] + 64, *box), 3.0)
    assert np.abs(small - 90).max() > 20
    np.testing.assert_allclose(small, large[64:128, 64:128], atol=0.01)


def test_more_blur_spreads_the_object(rng):
    spread = []
    for blur in (0.0, 1.0, 2.0, 4.0):
        image = np.full((128, 128, 3), 128, np.float32)
        paint(np.random.default_rng(3), image, "plate", (64.0, 64.0, 50.0, 40.0, 0.3), blur)
        edges = np.hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))
        spread.append(edges.max())
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 4 * spread[-1]
