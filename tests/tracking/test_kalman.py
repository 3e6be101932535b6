"""The filters: Ultralytics' where the noise is Ultralytics', a plain textbook filter otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from ultralytics.trackers.utils.kalman_filter import KalmanFilterXYAH, KalmanFilterXYWH

from yolo_uncert.tracking.kalman import MeasuredXYAH, MeasuredXYWH

KINDS = pytest.mark.parametrize(
    ("stock", "ours"), [(KalmanFilterXYAH, MeasuredXYAH), (KalmanFilterXYWH, MeasuredXYWH)], ids=["xyah", "xywh"]
)
NOISE = np.array([[4.0, 0, 1, 0], [0, 9, 0, 0], [1, 0, 16, 2], [0, 0, 2, 25]])


def box(kind):
    """The same box, 60 px wide and 120 px high."""
    return np.array([300.0, 200, 0.5, 120] if issubclass(kind, MeasuredXYAH) else [300.0, 200, 60, 120])


def start(kind, process=1.0):
    """A filter, and a track that it has followed for a frame."""
    kalman = kind(process)
    return kalman, *kalman.predict(*kalman.initiate(box(kind)))


@KINDS
def test_without_noise_it_is_the_stock_filter(stock, ours):
    one, other = stock(), ours()
    mean, covariance = one.initiate(box(ours))
    mine, my_covariance = other.initiate(box(ours))
    for step in range(5):
        mean, covariance = one.update(*one.predict(mean, covariance), box(ours) + step)
        mine, my_covariance = other.update(*other.predict(mine, my_covariance), box(ours) + step)
        assert_allclose(mine, mean, rtol=1e-12)
        assert_allclose(my_covariance, covariance, atol=1e-12)


@KINDS
def test_the_noise_of_ultralytics_gives_its_update(stock, ours):
    kalman, mean, covariance = start(ours)
    noise = stock().project(mean, np.zeros((8, 8)))[1]
    got = kalman.measuring(noise).update(mean, covariance, box(ours) + 3)
    want = stock().update(mean, covariance, box(ours) + 3)
    for a, b in zip(got, want, strict=True):
        assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@KINDS
def test_update_is_the_textbook_one(stock, ours):
    """Information form, which inverts other matrices: P' = (P^-1 + H^T R^-1 H)^-1, m' = P' (P^-1 m + H^T R^-1 z)."""
    kalman, mean, covariance = start(ours)
    got_mean, got = kalman.measuring(NOISE).update(mean, covariance, box(ours) + 3)
    h = np.eye(4, 8)
    information = np.linalg.inv(covariance) + h.T @ np.linalg.inv(NOISE) @ h
    want = np.linalg.inv(information)
    assert_allclose(got, want, rtol=1e-6, atol=1e-9)
    assert_allclose(
        got_mean,
        want @ (np.linalg.inv(covariance) @ mean + h.T @ np.linalg.inv(NOISE) @ (box(ours) + 3)),
        rtol=1e-6,
        atol=1e-7,
    )


def test_one_coordinate_by_hand():
    # P = 16 and R = 9: the gain is 16 / 25, and P' = P - K S K = 16 - 16^2 / 25 = 16 * 9 / 25.
    kalman = MeasuredXYWH().measuring(9 * np.eye(4))
    mean, covariance = kalman.update(np.r_[box(MeasuredXYWH), np.zeros(4)], 16 * np.eye(8), box(MeasuredXYWH) + 10)
    assert_allclose(mean[:4], box(MeasuredXYWH) + 6.4)
    assert_allclose(np.diagonal(covariance), [16 * 9 / 25] * 4 + [16] * 4)


@KINDS
def test_huge_noise_ignores_the_detection_and_tiny_noise_takes_it(stock, ours):
    kalman, mean, covariance = start(ours)
    ignored, kept = kalman.measuring(1e12 * np.eye(4)).update(mean, covariance, box(ours) + 7)
    assert_allclose(ignored, mean, atol=1e-6)
    assert_allclose(kept, covariance, atol=1e-6)
    taken, sure = kalman.measuring(1e-12 * np.eye(4)).update(mean, covariance, box(ours) + 7)
    assert_allclose(taken[:4], box(ours) + 7, atol=1e-6)
    assert np.diagonal(sure)[:4].max() < 1e-9


@KINDS
def test_a_track_starts_with_the_covariance_of_its_detection(stock, ours):
    mean, covariance = ours().measuring(NOISE).initiate(box(ours))
    want_mean, want = stock().initiate(box(ours))
    assert_array_equal(mean, want_mean)
    assert_array_equal(covariance[:4, :4], NOISE)
    assert_array_equal(covariance[4:], want[4:])


@KINDS
def test_process_scales_the_random_motion_of_the_box_alone(stock, ours):
    state = np.r_[box(ours), np.ones(4)]
    motion = np.diagonal(stock().predict(state, np.zeros((8, 8)))[1])
    mean, covariance = ours(0.25).predict(state, np.eye(8))
    want_mean, want = stock().predict(state, np.eye(8))
    assert_array_equal(mean, want_mean)
    assert_allclose(want - covariance, np.diag(motion * 15 / 16 * ([1] * 4 + [0] * 4)), atol=1e-12)
    assert_allclose(ours(0.25).process_change(state[None])[0], covariance - want, atol=1e-12)


def test_a_filter_for_one_detection_leaves_the_shared_one_alone():
    shared = MeasuredXYAH()
    assert shared.measuring(NOISE) is not shared
    assert shared.noise is None


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(*[st.floats(-3, 3)] * 4), min_size=1, max_size=30), st.floats(0, 2), st.booleans())
def test_covariance_stays_symmetric_and_positive_definite(levels, process, wide):
    """Standard deviations of 0.05 to 1100 px that change from frame to frame, over up to 30 frames."""
    kind = MeasuredXYWH if wide else MeasuredXYAH
    kalman = kind(process)
    scale = np.array([1, 1, 1 if wide else 1 / 120, 1])
    noises = [np.diag((scale * np.exp(np.array(level) * 7 / 3)) ** 2 + (0.05 * scale) ** 2) for level in levels]
    mean, covariance = kalman.measuring(noises[0]).initiate(box(kind))
    for noise in noises:
        mean, covariance = kalman.measuring(noise).update(*kalman.predict(mean, covariance), box(kind))
        assert_array_equal(covariance, covariance.T)
        # Over variances that differ by many orders of magnitude: the correlations' eigenvalues, not the raw ones.
        size = np.sqrt(np.diagonal(covariance))
        assert np.isfinite(size).all()
        assert np.linalg.eigvalsh(covariance / np.outer(size, size)).min() > 0
