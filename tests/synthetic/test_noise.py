"""Label noise: size, shape and independence of its components."""

import math

import numpy as np
import pytest
from scipy import stats

from yolo_uncert.synthetic import SceneSpec
from yolo_uncert.synthetic.noise import draw_sigma, noisy_xywhr, noisy_xyxy
from yolo_uncert.synthetic.shapes import rotation

N = 4000


def assert_standard_normal(values):
    """Columns of `float[N, D]` are independent standard normal variables."""
    for column in values.T:
        assert stats.kstest(column, "norm").pvalue > 0.01
    # The standard error of a standard deviation is 1 / sqrt(2 N) = 0.011.
    np.testing.assert_allclose(values.std(axis=0), 1, atol=0.035)
    # The standard error of a correlation is 1 / sqrt(N) = 0.016.
    np.testing.assert_allclose(np.corrcoef(values.T), np.eye(values.shape[1]), atol=0.06)


def test_sigma_is_log_uniform(rng):
    sigma = np.array([draw_sigma(rng, SceneSpec(sigma=(0.5, 5.0))) for _ in range(N)])
    assert stats.kstest(np.log10(sigma / 0.5), "uniform").pvalue > 0.01


def test_sides_move_independently(rng):
    box = (60.0, 70.0, 100.0, 130.0)
    labels = np.array([noisy_xyxy(rng, box, 2.5, 192) for _ in range(N)])
    assert_standard_normal((labels - box) / 2.5)


@pytest.mark.parametrize("angle", [0.0, 0.6, 2.8])
def test_rotated_sides_and_angle_move_independently(angle, rng):
    box, sigma, sigma_angle = (90.0, 100.0, 50.0, 30.0, angle), 2.0, 0.1
    change = np.array([noisy_xywhr(rng, box, sigma, sigma_angle, 192) for _ in range(N)]) - box
    # In the frame of the true box the centre moves by (left + right) / 2 and the width grows by right - left.
    centre = change[:, :2] @ rotation(angle)
    low, high = centre - change[:, 2:4] / 2, centre + change[:, 2:4] / 2
    sides = np.concatenate([low, high], axis=1) / sigma
    assert_standard_normal(np.column_stack([sides, change[:, 4] / sigma_angle]))


def test_angle_noise_is_not_wrapped(rng):
    angles = [noisy_xywhr(rng, (90.0, 90.0, 50.0, 30.0, 0.0), 0.5, 0.1, 192)[4] for _ in range(50)]
    assert min(angles) < 0 < max(angles)
    assert max(map(abs, angles)) < math.pi / 4


def test_zero_noise_returns_the_box(rng):
    assert noisy_xyxy(rng, (10.0, 20.0, 40.0, 50.0), 0.0, 64) == (10.0, 20.0, 40.0, 50.0)
    rotated = (30.0, 31.0, 20.0, 10.0, 0.4)
    assert noisy_xywhr(rng, rotated, 0.0, 0.0, 64) == pytest.approx(rotated)


def test_labels_outside_the_image_are_drawn_again(rng):
    labels = np.array([noisy_xyxy(rng, (1.0, 1.0, 40.0, 40.0), 3.0, 64) for _ in range(300)])
    assert labels.min() >= 0
    rotated = np.array([noisy_xywhr(rng, (12.0, 12.0, 20.0, 20.0, 0.0), 3.0, 0.1, 64) for _ in range(300)])
    assert rotated[:, 2:4].min() > 0


def test_impossible_labels_are_reported(rng):
    with pytest.raises(RuntimeError, match="no label inside the image"):
        noisy_xyxy(rng, (-50.0, 0.0, 10.0, 10.0), 0.1, 64)
    with pytest.raises(RuntimeError, match="no label inside the image"):
        noisy_xywhr(rng, (0.0, 0.0, 20.0, 10.0, 0.3), 0.1, 0.01, 64)
