"""Covariances of boxes: values by hand, round trips, and sampling."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose

from yolo_uncert.functional.box_covariance import (
    CENTRE_TO_CORNERS,
    aspect_to_size,
    corner_covariance,
    propagate,
    size_to_aspect,
)

BOX = np.array([[100.0, 50, 40, 80]])


def test_corner_covariance_by_hand():
    # var(x) = (1 + 9) / 4, var(w) = 1 + 9, cov(x, w) = (9 - 1) / 2; y and h: (4 + 4) / 4, 4 + 4, 0.
    want = [[2.5, 0, 4, 0], [0, 2, 0, 0], [4, 0, 10, 0], [0, 0, 0, 8]]
    assert_allclose(corner_covariance(np.array([[1.0, 2, 3, 2]]))[0], want)


def test_corners_come_back():
    std = np.random.default_rng(0).uniform(0.1, 9, (20, 4))
    back = propagate(corner_covariance(std), CENTRE_TO_CORNERS)
    assert_allclose(back, std[:, :, None] ** 2 * np.eye(4), atol=1e-12)


def test_aspect_by_hand():
    # a = w / h = 0.5: da = dw / 80 - 0.5 / 80 dh, with var(w) = 16 and var(h) = 64: (16 + 0.25 * 64) / 6400.
    covariance = propagate(np.diag([1.0, 1, 16, 64])[None], size_to_aspect(BOX))
    assert_allclose(covariance[0, 2, 2], 32 / 6400)
    assert_allclose(covariance[0, 2, 3], -0.5 / 80 * 64)
    assert_allclose(np.diagonal(covariance[0])[[0, 1, 3]], [1, 1, 64])


def test_aspect_and_size_are_inverse():
    xyah = np.array([[100.0, 50, 0.5, 80]])
    assert_allclose(aspect_to_size(xyah)[0] @ size_to_aspect(BOX)[0], np.eye(4), atol=1e-15)


def test_aspect_against_sampling():
    std = np.array([[0.5, 0.8, 0.7, 0.4]])  # small against the box: the map is nearly linear there
    corners = np.array([80.0, 10, 120, 90]) + std * np.random.default_rng(0).normal(size=(200_000, 4))
    x, y = (corners[:, :2] + corners[:, 2:]).T / 2
    w, h = (corners[:, 2:] - corners[:, :2]).T
    want = np.cov(np.stack((x, y, w / h, h)))
    got = propagate(corner_covariance(std), size_to_aspect(BOX))[0]
    scale = np.sqrt(np.outer(np.diagonal(want), np.diagonal(want)))
    assert_allclose(got / scale, want / scale, atol=0.01)


def test_no_boxes():
    assert corner_covariance(np.empty((0, 4))).shape == (0, 4, 4)
    assert propagate(np.empty((0, 4, 4)), size_to_aspect(np.empty((0, 4)))).shape == (0, 4, 4)
