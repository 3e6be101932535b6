"""The trackers on detections of a few objects: what sigma changes, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from ultralytics.utils import LOGGER

from yolo_uncert.tracking.trackers import UncertBotSort, UncertByteTracker, closeness, with_uncertainty

BOX = np.array([100.0, 100, 160, 220])
OTHER = np.array([400.0, 100, 460, 220])
STEP = np.array([3.0, 1, 3, 1])


def follow(tracker, frames):
    """Rows of the tracker after each frame."""
    return [tracker.update(frame, None) for frame in frames]


def only(tracker):
    (track,) = tracker.tracked_stracks
    return track


def test_ours_replace_stock_trackers_whose_settings_ask_for_it(make, base):
    stock, ours = make(ours=False), make()
    assert with_uncertainty(stock) is stock
    assert type(ours) is {"bytetrack": UncertByteTracker, "botsort": UncertBotSort}[base]
    assert with_uncertainty(ours) is ours


def test_a_moving_object_keeps_its_id_and_is_followed(make, detect):
    rows = follow(make(), [detect(BOX + t * STEP, std=1) for t in range(20)])
    assert {int(row[0, 4]) for row in rows} == {1}
    assert_allclose(rows[-1][0, :4], BOX + 19 * STEP, atol=0.5)


def test_an_uncertain_detection_moves_the_track_less(make, detect):
    moves = []
    for std in (0.5, 4, 20):
        tracker = make(floor=0.0)
        still = [detect(BOX, std=1)] * 10
        *_, before, after = follow(tracker, [*still, detect(BOX + 8, std=std)])
        moves.append((after - before)[0, 0])
    assert moves[0] > 7
    assert moves[2] < 1
    assert moves[0] > moves[1] > moves[2]


def test_an_uncertain_side_follows_the_certain_ones(make, detect):
    """Boxes are expected to move rather than to grow: a right side that is off by 40 px hardly widens the box."""
    widths = []
    for std in (1, 15):
        shifted = detect(BOX + np.array([8, 8, 48, 8]), std=[[1, 1, std, 1]])
        *_, after = follow(make(), [*[detect(BOX, std=1)] * 10, shifted])
        widths.append(after[0, 2] - after[0, 0] - 60)
    assert widths[0] > 8
    assert abs(widths[1]) < 1


def test_covariance_of_a_new_track_is_that_of_its_detection(make, detect):
    tracker = make(floor=0.0)
    tracker.update(detect(BOX, std=[[1, 2, 3, 4]]), None)
    assert_allclose(only(tracker).box_covariance, np.diag([1, 4, 9, 16]), rtol=1e-3, atol=1e-3)


def test_covariance_shrinks_with_detections_and_grows_without(make, detect):
    tracker = make()
    sizes = []
    for frame in [detect(BOX, std=4)] * 8:
        tracker.update(frame, None)
        sizes.append(np.trace(only(tracker).box_covariance))
    assert sizes[-1] < sizes[0] / 1.5
    for _ in range(3):
        tracker.update(detect([], std=4), None)
        (lost,) = tracker.lost_stracks
        sizes.append(np.trace(lost.box_covariance))
    assert sizes[-4] < sizes[-3] < sizes[-2] < sizes[-1]


def test_covariances_of_a_frame_are_kept_by_track(make, detect):
    tracker = make()
    for _ in range(3):
        rows = tracker.update(detect([BOX, OTHER], std=[[1] * 4, [5] * 4]), None)
    *_, last = tracker.frames
    assert sorted(last) == sorted(rows[:, 4].astype(int)) == [1, 2]
    assert np.trace(last[1]) < np.trace(last[2])
    assert len(tracker.frames) == 3


def test_ids_survive_an_occlusion(make, detect):
    times = [t for t in range(40) if not 15 <= t < 25]
    tracker, seen = make(), set()
    for t in range(40):
        rows = tracker.update(detect(BOX + t * STEP, std=2) if t in times else detect([], std=2), None)
        seen |= {int(row[4]) for row in rows}
    assert seen == {1}


def test_empty_frames(make, detect):
    tracker = make()
    for _ in range(3):
        assert len(tracker.update(detect([], std=1), None)) == 0
    tracker.update(detect(BOX, std=1), None)
    tracker.reset()
    assert len(tracker.update(detect(BOX, std=1), None)) == 1


def test_unknown_sigma_of_one_detection_falls_back_to_the_noise_of_ultralytics(make, detect):
    tracker = make()
    frames = [detect([BOX + t, OTHER + t], std=[[1] * 4, [np.nan] * 4]) for t in range(4)]
    for row in follow(tracker, frames):
        assert np.isfinite(row).all()
        assert len(row) == 2
    known, unknown = tracker.tracked_stracks
    assert known.kalman_filter.noise is not None
    assert unknown.kalman_filter.noise is None


def test_without_sigma_it_is_the_stock_tracker_with_one_warning(make, detect, monkeypatch):
    warnings = []
    monkeypatch.setattr(LOGGER, "warning", warnings.append)
    frames = [detect([BOX + t * STEP, OTHER - t * STEP]) for t in range(12)]
    mine = follow(make(process=1.0), frames)
    assert len(warnings) == 1
    assert "no standard deviations" in warnings[0]
    for row, want in zip(mine, follow(make(ours=False), frames), strict=True):
        assert_allclose(row, want, rtol=1e-5)


def test_closeness_by_hand(make, detect):
    """One track, two detections: 2 sigma away in x, and far away."""
    tracker = make(floor=0.0)
    tracker.update(detect(BOX, std=4), None)
    track = only(tracker)
    near, far, unknown = tracker.init_track(
        detect([BOX + np.array([6, 0, 6, 0]), BOX + 300, BOX], std=[[4] * 4, [4] * 4, [np.nan] * 4])
    )
    # Both have var(x) = 8 (sides of 4 px): S = 16, v = 6, d^2 = 36 / 16. Nothing else differs, nor correlates with x.
    # S = 2 R in all four coordinates: |R| / |S| = 1 / 16.
    got = closeness([track], [near, far, unknown])
    assert_allclose(got, [[16 ** (-1 / 16) * np.exp(-36 / 16 / 16), 0, 0]], rtol=1e-4)
    assert closeness([track], []).shape == (1, 0)


def test_a_sharp_track_is_closer_than_a_vague_one_at_the_same_place(make, detect):
    tracker = make()
    tracker.update(detect([BOX, OTHER], std=[[1] * 4, [20] * 4]), None)
    sharp, vague = tracker.tracked_stracks
    vague.mean[:] = sharp.mean
    (detection,) = tracker.init_track(detect(BOX, std=5))
    got = closeness([sharp, vague], [detection])[:, 0]
    assert 1 > got[0] > 0.9 > got[1] > 0


@pytest.mark.parametrize(("association", "tracks"), [("iou", 2), ("fused", 1)])
def test_a_far_but_uncertain_detection_still_belongs_to_its_track(make, detect, association, tracks):
    """IoU 0.15 with a score of 0.9 lies below the threshold of 0.2, and 44 px are 1 sigma or so."""
    tracker = make(association=association)
    follow(tracker, [detect(BOX, std=3)] * 3)
    rows = tracker.update(detect(BOX + np.array([44, 0, 44, 0]), std=40), None)
    assert len(tracker.tracked_stracks) + len(tracker.lost_stracks) == tracks
    assert len(rows) == 2 - tracks


def test_oriented_boxes_are_followed_with_their_covariance(make, orient):
    tracker = make(floor=0.0)
    std, step = [[2, 1, 3, 2, 0.05]], np.array([2.0, 1, 0, 0, 0.02])
    for t in range(10):
        rows = tracker.update(orient(np.array([200, 200, 80, 30, 0.4]) + t * step, std=std), None)
    assert rows.shape == (1, 9)
    assert rows[0, 5] == 1
    assert_allclose(rows[0, :5], np.array([200, 200, 80, 30, 0.4]) + 9 * step, atol=0.6)
    spread = np.sqrt(np.diagonal(only(tracker).box_covariance))
    assert (spread < std[0][:4]).all()
    assert spread[0] > spread[1]


def test_a_box_that_ultralytics_turns_takes_its_covariance_along(make, orient):
    """Width 30 below height 80: as (80, 30) a quarter turn further, if the tracker does that; x and y stay."""
    tracker = make(floor=0.0)
    tracker.update(orient([200, 200, 30, 80, 0.4], std=[[1, 2, 3, 4, 0.1]]), None)
    track = only(tracker)
    width = track.xywha[2]
    want = [1, 4, 16, 9] if width > 50 else [1, 4, 9, 16]
    assert_allclose(np.diagonal(track.box_covariance), want, rtol=1e-5)


def test_detections_are_not_changed(make, detect):
    frame = detect([BOX, OTHER], std=2)
    data, std = frame.data.copy(), np.array(frame.std)
    follow(make(), [frame] * 3)
    assert_array_equal(frame.data, data)
    assert_array_equal(frame.std, std)
