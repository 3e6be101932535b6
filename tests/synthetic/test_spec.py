"""Options of the synthetic scenes."""

import math

import pytest

from yolo_uncert.synthetic import SceneSpec, render_scene
from yolo_uncert.synthetic.layout import place_objects
from yolo_uncert.synthetic.spec import check_task


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgsz": 16}, "imgsz must be at least 32, got 16"),
        ({"classes": ("disc", "cube")}, r"unknown classes \['cube'\], choose from \['arrow', 'disc', 'plate'\]"),
        ({"classes": ()}, "classes must be distinct and not empty"),
        ({"classes": ("disc", "disc")}, "classes must be distinct and not empty"),
        ({"objects": (3, 2)}, "0 <= low <= high"),
        ({"objects": (0, 0)}, "high > 0"),
        ({"objects": (-1, 2)}, "0 <= low"),
        ({"sigma": (0.0, 1.0)}, "sigma must satisfy 0 < low < high"),
        ({"sigma": (2.0, 2.0)}, "sigma must satisfy 0 < low < high"),
        ({"sigma_angle": (0.1, 0.01)}, "sigma_angle must satisfy"),
        ({"sigma_angle": (0.1, 0.3)}, "sigma_angle must satisfy"),
        ({"blur_per_sigma": -1.0}, "blur_per_sigma must not be negative"),
        ({"occlusion": 0.6}, r"occlusion must lie in \[0, 0.5\]"),
        ({"size": (0.2, 0.3)}, r"size must satisfy 0 < 2 \* low <= high < 1"),
        # 4 * 5 / 192 = 0.104
        ({"size": (0.1, 0.45)}, r"size\[0\] = 0.1 is below 4 \* sigma\[1\] = 0.104"),
        # 0.6 / sqrt(2) * sqrt(1 + (4 * 0.15)^2) + 4 * 5 / 192 = 0.599
        ({"size": (0.125, 0.6)}, "do not fit the image: reach 0.599 > 0.5"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SceneSpec(**options)


def test_bad_task_is_named():
    with pytest.raises(ValueError, match=r"task must be one of .*'detect', 'obb'.* got 'segment'"):
        check_task("segment")


def test_sigma_scales_with_the_image():
    assert SceneSpec(sigma=(0.5, 5.0)).sigma_px == (0.5, 5.0)
    assert SceneSpec(imgsz=384, sigma=(0.5, 5.0)).sigma_px == (1.0, 10.0)


def test_angle_level_is_log_linear_and_increasing():
    spec = SceneSpec(sigma=(0.5, 5.0), sigma_angle=(0.01, 0.16))
    assert spec.angle_level(0.5) == pytest.approx(0.01)
    assert spec.angle_level(5.0) == pytest.approx(0.16)
    # The geometric mean of the noise levels meets the geometric mean of the angle levels: sqrt(0.01 * 0.16) = 0.04.
    assert spec.angle_level(math.sqrt(0.5 * 5.0)) == pytest.approx(0.04)
    levels = [spec.angle_level(0.5 + 0.1 * step) for step in range(46)]
    assert levels == sorted(set(levels))


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("imgsz", [32, 160, 320])
def test_options_at_the_limit_still_fit(task, imgsz, rng):
    spec = SceneSpec(imgsz=imgsz, size=(0.105, 0.47), objects=(1, 8))
    for _ in range(20):
        assert place_objects(rng, spec, task)
    assert render_scene(rng, spec, task).image.shape == (imgsz, imgsz, 3)
