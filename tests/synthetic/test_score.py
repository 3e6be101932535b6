from __future__ import annotations

import math

import pytest
import torch

from yolo_uncert.synthetic import NoiseScore, SceneObject

# Two squares of 10 px side by side and one of 40 px; the label noise differs.
LEFT = SceneObject(0, (0.0, 0.0, 10.0, 10.0), (1.0, 0.0, 10.0, 10.0), 1.0, 0.0)
RIGHT = SceneObject(1, (20.0, 0.0, 30.0, 10.0), (20.0, 0.0, 30.0, 10.0), 2.0, 0.0)
BIG = SceneObject(0, (50.0, 50.0, 90.0, 90.0), (50.0, 50.0, 90.0, 90.0), 4.0, 0.0)
TILTED = SceneObject(0, (50.0, 50.0, 40.0, 10.0, 0.3), (50.0, 50.0, 40.0, 10.0, 0.4), 3.0, 0.1)


def add(score, boxes, cls, std, truth):
    score.add(torch.tensor(boxes), torch.tensor(cls), torch.tensor(std), truth)


def test_match_keeps_predicted_and_known_noise():
    score = NoiseScore()
    add(score, [[0.0, 0.0, 10.0, 9.0]], [0.0], [[1.0, 2.0, 3.0, 6.0]], [LEFT, RIGHT])
    assert score.predicted == [3.0], "mean of the four sides"
    assert score.known == [1.0]
    assert score.size == [10.0], "root of the true area"
    assert score.predicted_angle == []


def test_detection_of_another_class_is_no_match():
    score = NoiseScore()
    add(score, [[0.0, 0.0, 10.0, 10.0]], [1.0], [[1.0] * 4], [LEFT])
    assert score.predicted == []


def test_overlap_below_one_half_is_no_match():
    # Intersection 4.9 x 10 of a union of 100: IoU 0.49; 5.1 x 10 gives 0.51.
    for width, matches in ((4.9, 0), (5.1, 1)):
        score = NoiseScore()
        add(score, [[0.0, 0.0, width, 10.0]], [0.0], [[1.0] * 4], [LEFT])
        assert len(score.known) == matches


def test_second_detection_of_an_object_does_not_count():
    score = NoiseScore()
    add(score, [[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 10.0]], [0.0, 0.0], [[1.0] * 4, [9.0] * 4], [LEFT, RIGHT])
    assert score.predicted == [1.0], "the first is the one with the higher score"


def test_two_detections_find_two_overlapping_objects():
    twin = SceneObject(0, (1.0, 0.0, 11.0, 10.0), (1.0, 0.0, 11.0, 10.0), 5.0, 0.0)
    score = NoiseScore()
    add(score, [[0.0, 0.0, 10.0, 10.0]] * 2, [0.0, 0.0], [[1.0] * 4, [2.0] * 4], [LEFT, twin])
    assert score.known == [1.0, 5.0], "the better overlap first, then what is left"


def test_oriented_boxes_match_by_rotated_overlap_and_keep_their_angle():
    score = NoiseScore()
    turned = [50.0, 50.0, 10.0, 40.0, 0.3 - math.pi / 2]  # the same rectangle, named by its other side
    add(score, [turned], [0.0], [[1.0, 2.0, 3.0, 2.0, 0.05]], [TILTED])
    assert score.predicted == [2.0]
    assert score.predicted_angle == [pytest.approx(0.05)]
    assert score.known_angle == [0.1]
    assert score.size == [20.0]
    crossed = NoiseScore()  # 10 x 10 px of 700 in common
    add(crossed, [[50.0, 50.0, 40.0, 10.0, 0.3 + math.pi / 2]], [0.0], [[1.0] * 5], [TILTED])
    assert crossed.predicted == []


def test_nothing_detected_and_nothing_there():
    score = NoiseScore()
    score.add(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 4), [LEFT])
    score.add(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.zeros(1), torch.ones(1, 4), [])
    assert score.known == []
    assert score.correlation() == 0
    assert score.angle_correlation() is None
    assert score.correlation_by_size() == {"small": 0, "medium": 0, "large": 0}


def test_correlation_is_that_of_the_ranks():
    score = NoiseScore(predicted=[1.0, 2.0, 30.0, 4.0], known=[1.0, 2.0, 3.0, 4.0], size=[1.0] * 4)
    # ranks 1 2 4 3: 1 - 6 * (1 + 1) / (4 * 15)
    assert score.correlation() == pytest.approx(0.8)


def test_size_alone_cannot_pass_for_noise():
    # Known and predicted noise both follow the size, but within one size they go opposite ways.
    size = [10.0, 10.1, 20.0, 20.1, 40.0, 40.1]
    score = NoiseScore(predicted=[1.1, 1.0, 2.1, 2.0, 4.1, 4.0], known=[1.0, 1.1, 2.0, 2.1, 4.0, 4.1], size=size)
    assert score.correlation() > 0.7
    assert score.correlation_by_size() == pytest.approx({"small": -1, "medium": -1, "large": -1})


def test_inputs_are_not_mutated():
    boxes, std = torch.tensor([[50.0, 50.0, 90.0, 90.0]]), torch.ones(1, 4)
    score = NoiseScore()
    score.add(boxes, torch.zeros(1), std, [BIG])
    assert score.known == [4.0]
    assert torch.equal(boxes, torch.tensor([[50.0, 50.0, 90.0, 90.0]]))
    assert torch.equal(std, torch.ones(1, 4))
