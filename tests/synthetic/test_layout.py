"""Placement of objects: occlusion, sizes, headings."""

import math

import numpy as np
import pytest

from yolo_uncert.synthetic import SceneSpec
from yolo_uncert.synthetic.layout import place_objects
from yolo_uncert.synthetic.shapes import SHAPES, corners


def hidden_fractions(placements):
    """Fraction of each object under the union of all later ones, from the masks alone."""
    masks = [placement.mask for placement in placements]
    fractions = []
    for index, mask in enumerate(masks):
        later = np.any(masks[index + 1 :], axis=0) if masks[index + 1 :] else np.zeros_like(mask)
        fractions.append(float((mask & later).sum() / mask.sum()))
    return fractions


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("limit", [0.0, 0.2, 0.5])
def test_occlusion_limit_holds(task, limit, rng):
    spec = SceneSpec(objects=(8, 8), occlusion=limit)
    fractions = []
    for _ in range(40):
        placements = place_objects(rng, spec, task)
        fractions += hidden_fractions(placements)
        assert [p.hidden for p in placements] == pytest.approx(hidden_fractions(placements))
    assert max(fractions) <= limit + 1e-12
    assert limit == 0 or max(fractions) > 0.8 * limit


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_sizes_and_aspects_stay_in_range(task, rng):
    spec = SceneSpec()
    placements = [p for _ in range(150) for p in place_objects(rng, spec, task)]
    width, height = np.array([p.box[2:4] for p in placements]).T
    aspect = width / height
    assert height.min() >= 0.125 * 192 - 1e-9
    assert width.max() <= 0.45 * 192 + 1e-9
    assert height.min() < 0.14 * 192
    assert width.max() > 0.4 * 192
    for cls, name in enumerate(spec.classes):
        of_class = aspect[[p.cls == cls for p in placements]]
        assert SHAPES[name].aspect[0] <= of_class.min()
        assert of_class.max() <= SHAPES[name].aspect[1]
    assert np.mean(aspect > 1.25) > 0.75
    assert aspect.min() < 1.1


def test_detect_objects_are_aligned_and_obb_headings_go_round(rng):
    aligned = [p.box[4] for _ in range(60) for p in place_objects(rng, SceneSpec(), "detect")]
    assert {round(heading / (math.pi / 2), 9) for heading in aligned} == {0, 1, 2, 3}
    turned = np.array([p.box[4] for _ in range(60) for p in place_objects(rng, SceneSpec(), "obb")])
    counts, _ = np.histogram(turned, bins=4, range=(0, 2 * math.pi))
    assert counts.min() > len(turned) / 8


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_true_boxes_keep_four_sigma_from_the_border(task, rng):
    spec = SceneSpec(objects=(4, 8))
    margin = 4 * spec.sigma_px[1]
    for _ in range(60):
        for placement in place_objects(rng, spec, task):
            points = corners(placement.box)
            assert margin - 1e-6 <= points.min()
            assert points.max() <= 192 - margin + 1e-6


def test_empty_scenes_are_possible(rng):
    counts = {len(place_objects(rng, SceneSpec(objects=(0, 1)), "detect")) for _ in range(30)}
    assert counts == {0, 1}
