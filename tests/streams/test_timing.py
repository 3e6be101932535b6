from __future__ import annotations

import math

import numpy as np
import pytest

from yolo_uncert.streams.timing import Meter, Pace, Quantiles


def test_rate_and_latency_of_the_latest_frames():
    meter = Meter(window=3)
    assert math.isnan(meter.fps)
    assert math.isnan(meter.latency(0.5))
    meter.add(0.0, 9.0)
    assert math.isnan(meter.fps), "one frame has no rate"
    for end, latency in ((10.0, 1.0), (10.5, 2.0), (11.0, 3.0)):
        meter.add(end, latency)
    assert meter.fps == pytest.approx(2.0)  # three ends within one second: two intervals
    assert (meter.latency(0.5), meter.latency(1.0)) == (2.0, 3.0)


def test_quantiles_agree_with_numpy_within_a_percent():
    values = np.random.default_rng(0).lognormal(-3, 1, 20_000)
    quantiles = Quantiles()
    for value in values:
        quantiles.add(value)
    for q in (0.05, 0.5, 0.95, 1.0):
        assert quantiles(q) == pytest.approx(np.quantile(values, q), rel=0.015)
    assert len(quantiles._bins) < 1200, "a bin per percent, however many values"


def test_quantiles_of_nothing_and_of_zero():
    quantiles = Quantiles()
    assert math.isnan(quantiles(0.5))
    quantiles.add(0.0)
    assert quantiles(0.5) == pytest.approx(1e-9, rel=0.01)


def test_frames_at_the_rate_of_the_video_are_never_repeated():
    pace = Pace(25.0)
    assert [pace.repeats(100 + k / 25) for k in range(200)] == [0] * 200


def test_slow_frames_are_repeated_so_that_time_is_kept():
    pace = Pace(30.0)  # 10 frames per second arrive: 2 repeats in front of each but the first
    assert [pace.repeats(k / 10) for k in range(5)] == [0, 2, 2, 2, 2]


def test_frames_dropped_by_a_slow_model_are_made_up_for():
    pace = Pace(25.0)
    times = np.cumsum(np.random.default_rng(1).uniform(0.05, 0.4, 100))
    written = sum(1 + pace.repeats(t) for t in times)
    assert written == pytest.approx((times[-1] - times[0]) * 25 + 1, abs=1)


def test_a_burst_is_kept_and_its_lead_is_used_up():
    pace = Pace(10.0)
    # Five frames at once are ahead by 0.4 s, so the pause of 0.5 s after them is filled with 0 frames.
    assert [pace.repeats(t) for t in (0, 0, 0, 0, 0, 0.5, 0.6)] == [0] * 7
    assert pace.repeats(0.9) == 2


def test_a_long_gap_is_shortened_once():
    pace = Pace(10.0, limit=2.0)
    assert [pace.repeats(t) for t in (0.0, 0.1, 60.1, 60.2, 60.4)] == [0, 0, 20, 0, 1]
