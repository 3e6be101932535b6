"""Whole scenes: the noise in them is as documented, independent of everything else, and visible."""

import math

import cv2
import numpy as np
import pytest
from scipy import stats

from yolo_uncert.synthetic import SceneSpec, render_scene
from yolo_uncert.synthetic.shapes import corners

TASKS = ["detect", "obb"]


@pytest.fixture(scope="module", params=TASKS)
def population(request):
    """Task, options and about 1700 objects of small scenes."""
    spec = SceneSpec(imgsz=64, objects=(3, 6))
    scenes = [render_scene(np.random.default_rng([1, index]), spec, request.param) for index in range(450)]
    return request.param, spec, [item for scene in scenes for item in scene.objects]


def true_boxes(objects):
    """Centre x, centre y, area and long side of every true box."""
    rows = []
    for item in objects:
        if len(item.true_box) == 5:
            cx, cy, w, h, _ = item.true_box
        else:
            x1, y1, x2, y2 = item.true_box
            cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        rows.append((cx, cy, w * h, max(w, h)))
    return np.array(rows)


@pytest.mark.parametrize("task", TASKS)
def test_equal_generators_give_equal_scenes(task):
    first, again, other = (render_scene(np.random.default_rng(seed), SceneSpec(), task) for seed in (5, 5, 6))
    assert first.objects == again.objects
    np.testing.assert_array_equal(first.image, again.image)
    assert first.objects != other.objects
    assert first.image.dtype == np.uint8
    assert first.image.shape == (192, 192, 3)


def test_unknown_task_is_refused(rng):
    with pytest.raises(ValueError, match="task must be one of"):
        render_scene(rng, SceneSpec(), "pose")


def test_residuals_are_standard_normal_in_units_of_sigma(population):
    task, _, objects = population
    assert len(objects) > 1500
    change = np.array([np.subtract(item.label_box, item.true_box) for item in objects])
    sigma = np.array([item.sigma for item in objects])
    # Four sides for detect; for obb width and height have a variance of 2 sigma^2 and the angle its own sigma.
    if task == "detect":
        scaled = change / sigma[:, None]
    else:
        angle = change[:, 4] / np.array([item.sigma_angle for item in objects])
        scaled = np.column_stack([change[:, 2:4] / (math.sqrt(2) * sigma[:, None]), angle])
    for column in scaled.T:
        assert stats.kstest(column, "norm").pvalue > 0.01
        assert column.std() == pytest.approx(1, abs=0.05)


def test_sigma_and_angle_noise_are_as_documented(population):
    task, spec, objects = population
    low, high = spec.sigma_px
    sigma = np.array([item.sigma for item in objects])
    assert stats.kstest(np.log(sigma / low) / math.log(high / low), "uniform").pvalue > 0.01
    expected = spec.angle_level if task == "obb" else lambda _: 0.0
    assert [item.sigma_angle for item in objects] == [expected(value) for value in sigma]


def test_sigma_is_independent_of_size_class_and_position(population):
    task, spec, objects = population
    sigma = [item.sigma for item in objects]
    geometry = true_boxes(objects)
    distance = np.hypot(*(geometry[:, :2] - spec.imgsz / 2).T)
    factors = [*geometry.T, distance, np.array([item.cls for item in objects])]
    if task == "obb":
        factors.append(np.array([item.true_box[4] for item in objects]))
    # The standard error of a rank correlation of 1500 pairs is 0.026.
    for factor in factors:
        assert abs(stats.spearmanr(sigma, factor).statistic) < 0.08


def test_all_classes_appear_about_equally_often(population):
    _, spec, objects = population
    counts = np.bincount([item.cls for item in objects], minlength=len(spec.classes))
    assert counts.min() > 0.25 * len(objects)


def test_boxes_have_the_documented_form(population):
    task, spec, objects = population
    for item in objects:
        if task == "detect":
            x1, y1, x2, y2 = item.label_box
            assert 0 <= x1 < x2 <= spec.imgsz
            assert 0 <= y1 < y2 <= spec.imgsz
        else:
            _, _, w, h, angle = item.true_box
            assert w >= h
            assert 0 <= angle < math.pi
            points = corners(item.label_box)
            assert points.min() >= 0
            assert points.max() <= spec.imgsz


def sharpness(image, box):
    """Steepest edges in and around a box, relative to the contrast there."""
    points = corners(box) if len(box) == 5 else np.reshape(box, (2, 2))
    x1, y1 = np.floor(points.min(axis=0)).astype(int) - 3
    x2, y2 = np.ceil(points.max(axis=0)).astype(int) + 3
    grey = cv2.GaussianBlur(image, (0, 0), 0.7).astype(np.float32).max(axis=2)
    slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))[y1:y2, x1:x2]
    return np.quantile(slope, 0.98) / np.ptp(grey[y1:y2, x1:x2])


@pytest.mark.parametrize("task", TASKS)
def test_blur_shows_the_noise_level(task):
    spec = SceneSpec(objects=(1, 1))
    scenes = [render_scene(np.random.default_rng([2, index]), spec, task) for index in range(200)]
    measured = [sharpness(scene.image, scene.objects[0].true_box) for scene in scenes]
    assert stats.spearmanr(measured, [scene.objects[0].sigma for scene in scenes]).statistic < -0.6


def test_without_blur_the_noise_level_is_invisible():
    spec = SceneSpec(objects=(1, 1), blur_per_sigma=0.0)
    scenes = [render_scene(np.random.default_rng([2, index]), spec, "detect") for index in range(200)]
    measured = [sharpness(scene.image, scene.objects[0].true_box) for scene in scenes]
    assert abs(stats.spearmanr(measured, [scene.objects[0].sigma for scene in scenes]).statistic) < 0.2
