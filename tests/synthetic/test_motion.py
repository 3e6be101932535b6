from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from yolo_uncert.synthetic.motion import MotionSpec, hidden, make_sequence

SPEC = {"frames": 80, "objects": 20}


def test_a_seed_makes_one_sequence():
    one, same, other = (make_sequence(MotionSpec(**SPEC), seed) for seed in (3, 3, 4))
    assert_array_equal(one.truth, same.truth)
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(one.frames, same.frames, strict=True))
    assert (one.truth != other.truth).any()


def test_shapes_and_ranges():
    sequence = make_sequence(MotionSpec(**SPEC), 0)
    assert sequence.truth.shape == (80, 20, 4)
    assert (sequence.truth[..., 2:] > sequence.truth[..., :2]).all()
    for there, frame in zip(sequence.present, sequence.frames, strict=True):
        count = len(frame.index)
        assert frame.boxes.shape == frame.std.shape == (count, 4)
        assert frame.score.shape == (count,)
        assert ((frame.score > 0) & (frame.score < 1)).all()
        assert (frame.boxes[:, 2:] > frame.boxes[:, :2]).all()
        shown = frame.index[frame.index >= 0]
        assert len(set(shown)) == len(shown)
        assert there[shown].all()


@pytest.mark.parametrize("noise", ["varies", "fixed", "relative"])
def test_errors_have_the_standard_deviation_that_is_given(noise):
    sequence = make_sequence(MotionSpec(frames=200, objects=30, noise=noise), 0)
    scores = []
    for truth, frame in zip(sequence.truth, sequence.frames, strict=True):
        real = frame.index >= 0
        scores.append((frame.boxes[real] - truth[frame.index[real]]) / frame.std[real])
    scores = np.concatenate(scores)
    assert len(scores) > 2000
    assert_allclose(scores.mean(0), 0, atol=0.08)
    assert_allclose(scores.std(0), 1, atol=0.05)
    spread = np.concatenate([frame.std.mean(1) for frame in sequence.frames])
    assert (np.ptp(spread) == 0) == (noise == "fixed")


def test_hidden_by_hand():
    # The second box is lower in the image, hence nearer, and covers 20 x 30 of the first one's 40 x 60 px.
    boxes = np.array([[0.0, 0, 40, 60], [20, 30, 60, 100], [200, 0, 240, 60]])
    assert_allclose(hidden(boxes), [0.25, 0, 0])
    assert hidden(np.empty((0, 4))).shape == (0,)


def test_speed_stays_in_its_range_and_objects_in_sight():
    spec = MotionSpec(**SPEC, turns=0.0, jerk=0.0)
    truth = make_sequence(spec, 0).truth
    centre = (truth[..., :2] + truth[..., 2:]) / 2
    assert (centre > -spec.speed[1]).all()
    assert (centre < np.add(spec.size, spec.speed[1])).all()
    step = np.linalg.norm(np.diff(centre, axis=0), axis=-1)
    assert step.max() < spec.speed[1] * 1.01


def test_a_wrong_noise_is_refused():
    with pytest.raises(ValueError, match="allowed: varies, fixed, relative"):
        MotionSpec(noise="vary")
