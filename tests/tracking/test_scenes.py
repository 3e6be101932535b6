"""Moving scenes of known truth: sigma makes tracks more accurate, and their covariance tells by how much they err."""

from __future__ import annotations

import numpy as np
import pytest

from yolo_uncert.synthetic.motion import MotionSpec, make_sequence

SPEC = {"frames": 60, "objects": 12, "false": 0.0}


def errors(sequence, tracker, detect, scale=1.0):
    """Error of every shown box Array[N, 4], and e^T P^-1 e / 4."""
    found, consistency = [], []
    for frame, truth in zip(sequence.frames, sequence.truth, strict=True):
        rows = tracker.update(detect(frame.boxes, scale * frame.std, frame.score), None)
        shown = [track for track in tracker.tracked_stracks if track.is_activated]
        for row, track in zip(rows, shown, strict=True):
            error = row[:4] - truth[frame.index[int(row[-1])]]
            found.append(error)
            if hasattr(track, "box_covariance"):
                consistency.append(error @ np.linalg.solve(track.box_covariance, error) / 4)
    return np.array(found), np.array(consistency)


def rms(values):
    return float(np.sqrt(np.mean(values**2)))


@pytest.mark.parametrize(("noise", "gain"), [("varies", 1.5), ("fixed", 1.0), ("relative", 1.0)])
def test_tracks_are_more_accurate_where_noise_varies_and_no_less_where_not(make, detect, noise, gain):
    sequence = make_sequence(MotionSpec(**SPEC, noise=noise), 0)
    ours, _ = errors(sequence, make(), detect)
    stock, _ = errors(sequence, make(ours=False), detect)
    assert rms(stock) / rms(ours) > gain


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_sigma_of_the_wrong_scale_still_helps(make, detect, scale):
    sequence = make_sequence(MotionSpec(**SPEC), 1)
    ours, _ = errors(sequence, make(), detect, scale)
    stock, _ = errors(sequence, make(ours=False), detect)
    assert rms(stock) / rms(ours) > 1.3


def test_covariance_tells_the_truth(make, detect):
    """The normalized squared error has a mean of 1; the largest percent are mix-ups of objects."""
    _, consistency = errors(make_sequence(MotionSpec(**SPEC), 2), make(), detect)
    kept = np.sort(consistency)[: int(0.99 * len(consistency))]
    assert 0.4 < kept.mean() < 1.3
