"""Covariances of detections, by hand and against those of the parts they are made of."""

from __future__ import annotations

import math

import numpy as np
from numpy.testing import assert_allclose

from yolo_uncert.functional.boxes import UNKNOWN_ANGLE_STD
from yolo_uncert.tracking.noise import detection_covariance


def test_horizontal_boxes_with_a_floor(detect):
    # var(x) = (9 + 9) / 4, var(w) = 18; the box has 40 x 90 px: the floor adds (0.1 * 60)^2 = 36 to all.
    covariance = detection_covariance(detect([[0, 0, 40, 90]], std=3), 0.1)
    assert_allclose(covariance[0], np.diag([4.5 + 36, 4.5 + 36, 18 + 36, 18 + 36]), rtol=1e-5)


def test_without_std_there_is_none(detect):
    assert detection_covariance(detect([[0, 0, 40, 90]]), 0.1) is None
    assert detection_covariance(object(), 0.1) is None


def test_unknown_std_stays_unknown(detect):
    std = [[1, 1, 1, 1], [np.nan] * 4, [np.inf, 1, 1, 1]]
    with np.errstate(invalid="ignore"):
        covariance = detection_covariance(detect([[0, 0, 40, 90]] * 3, std), 0.0)
    assert np.isfinite(covariance).all((1, 2)).tolist() == [True, False, False]


def test_oriented_boxes_with_std_alone_are_independent(orient):
    covariance = detection_covariance(orient([[50, 50, 40, 20, 0.3]], std=[[1, 2, 3, 4, 0.1]]), 0.0)
    assert_allclose(covariance[0], np.diag([1, 4, 9, 16]), rtol=1e-6)


def test_sides_of_a_box_at_angle_zero_are_those_of_a_horizontal_one(orient, detect):
    sides = [[1, 2, 3, 4, 0.0, 5, -2]]
    oriented = orient([[50, 50, 40, 20, 0]], std=[[1, 1, 1, 1, 0]], sides=sides)
    horizontal = detect([[30, 40, 70, 60]], std=[[1, 2, 3, 4]])
    assert_allclose(detection_covariance(oriented, 0.05), detection_covariance(horizontal, 0.05), rtol=1e-5, atol=1e-6)


def test_a_quarter_turn_exchanges_x_and_y_but_not_w_and_h(orient):
    sides = [[1, 2, 3, 4, 0.0, 0, 0]]
    level, upright = (
        detection_covariance(orient([[50, 50, 40, 20, a]], std=[[1] * 5], sides=sides), 0.0)[0]
        for a in (0, math.pi / 2)
    )
    assert_allclose(np.diagonal(upright), np.diagonal(level)[[1, 0, 2, 3]], rtol=1e-6)


def test_an_uncertain_angle_moves_a_centre_far_from_its_anchor(orient):
    # The offset (10, 0) px swings by 0.1 rad: 1 px in y. An angle of which nothing is known is left out.
    def covariance(spread):
        sides = [[1, 1, 1, 1, spread, 10, 0]]
        return detection_covariance(orient([[50, 50, 40, 20, 0]], std=[[1] * 5], sides=sides), 0.0)[0]

    assert_allclose(covariance(0.1) - covariance(0.0), np.diag([0, 1, 0, 0]), atol=1e-6)
    assert_allclose(covariance(UNKNOWN_ANGLE_STD), covariance(0.0))


def test_no_boxes(detect, orient):
    assert detection_covariance(detect([], std=1), 0.1).shape == (0, 4, 4)
    assert detection_covariance(orient([], std=np.empty((0, 5)), sides=np.empty((0, 7))), 0.1).shape == (0, 4, 4)
