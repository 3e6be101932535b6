"""Trackers: what they call on tracks, detections and filters, and how a prediction sets them up."""

from __future__ import annotations

import inspect
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ultralytics.engine.results import OBB
from ultralytics.trackers import track
from ultralytics.trackers.bot_sort import BOTSORT, BOTrack
from ultralytics.trackers.byte_tracker import BYTETracker, STrack
from ultralytics.trackers.utils.kalman_filter import KalmanFilterXYAH, KalmanFilterXYWH
from ultralytics.utils import ROOT, YAML, IterableSimpleNamespace

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.functional.boxes import rbox_std
from yolo_uncert.output.rows import covariance

pytestmark = pytest.mark.seam("tracking/trackers.py", "tracking/tracks.py", "tracking/kalman.py")

BOX = np.array([[100.0, 50, 160, 170, 0.9, 0]], dtype=np.float32)
KINDS = {
    "bytetrack": (BYTETracker, STrack, KalmanFilterXYAH, [130, 110, 0.5, 120]),
    "botsort": (BOTSORT, BOTrack, KalmanFilterXYWH, [130, 110, 60, 120]),
}
EACH = pytest.mark.parametrize("kind", sorted(KINDS))


def settings(kind):
    return IterableSimpleNamespace(
        **{**YAML.load(ROOT / "cfg" / "trackers" / f"{kind}.yaml"), "gmc_method": "none", "uncertainty": {}}
    )


def boxes(shift=0.0, rows=1):
    data = np.repeat(BOX + np.float32([shift, 0, shift, 0, 0, 0]), rows, 0)
    return UncertBoxes(data, (480, 640), {"std": np.ones((rows, 4), np.float32)})


class Spy:
    """Notes the calls that a filter gets."""

    def __init__(self, kalman):
        self.kalman, self.calls = kalman, []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, len(args), sorted(kwargs)))
            return getattr(self.kalman, name)(*args, **kwargs)

        return call


@EACH
def test_settings_may_have_a_section_that_trackers_ignore(kind):
    cls, *_ = KINDS[kind]
    tracker = cls(args=settings(kind))
    assert tracker.args.uncertainty == {}
    assert len(tracker.update(boxes(), None)) == 1


@EACH
def test_oriented_boxes_come_back_with_the_long_side_as_w_and_sigma_in_step(kind):
    cls, *_ = KINDS[kind]
    data = np.array([[300, 200, 40, 100, 0.3, 0.9, 0], [100, 300, 90, 30, 0.2, 0.8, 0]], np.float32)
    sides = torch.tensor([[0.5, 6, 0.7, 6.5, 0.05, 1, 2], [3, 1, 2, 4, 0.1, 5, -6]])
    std = rbox_std(sides[:, :4], sides[:, 4], sides[:, 5:], torch.from_numpy(data[:, 4]), angle_known=True)
    detections = UncertOBB(data, (480, 640), {"std": std, "sides": sides})
    tracks = cls(settings(kind)).update(detections, None)
    picked = detections[tracks[:, -1].astype(int)]
    tracked = picked.adopt(OBB(tracks[:, :-1].astype(np.float32), (480, 640)))
    assert (tracked.xywhr[:, 2] > tracked.xywhr[:, 3]).all()
    turned = int(tracks[:, -1].astype(int).tolist().index(0))
    np.testing.assert_allclose(tracked.xywhr[turned], [300, 200, 100, 40, 0.3 + np.pi / 2], atol=0.01)
    np.testing.assert_allclose(tracked.std[turned], picked.std[turned][[0, 1, 3, 2, 4]])
    np.testing.assert_allclose(tracked.std[1 - turned], picked.std[1 - turned])
    swap = [0, 1, 3, 2, 4]
    want = covariance(picked)[turned][np.ix_(swap, swap)]
    np.testing.assert_allclose(covariance(tracked)[turned], want, rtol=1e-4, atol=1e-4)


@EACH
def test_detections_are_made_with_the_rows_and_fields_that_a_result_has(kind):
    cls, detection, *_ = KINDS[kind]
    seen = []

    class Spying(cls):
        def init_track(self, results, img=None):
            seen.append(results)
            return super().init_track(results, img)

    tracker = Spying(settings(kind))
    tracker.update(boxes(rows=2), None)
    assert [type(t) for t in cls.init_track(tracker, boxes())] == [detection]
    assert [type(rows) for rows in seen] == [UncertBoxes, UncertBoxes]
    assert [len(rows.std) for rows in seen] == [2, 0]


@EACH
def test_tracks_call_their_own_filter_and_start_from_the_one_given(kind):
    _, detection, kalman, measured = KINDS[kind]
    first, second = (detection(np.array([130.0, 110, 60, 120, 0]), 0.9, 0) for _ in range(2))
    spy = Spy(kalman())
    first.activate(spy, 1)
    assert first.kalman_filter is spy
    np.testing.assert_allclose(first.mean[:4], measured)
    first.update(second, 2)
    first.re_activate(second, 3)
    assert spy.calls == [("initiate", 1, []), ("update", 3, []), ("update", 3, [])]
    np.testing.assert_allclose(first.convert_coords(first._tlwh), measured)


@EACH
def test_the_filter_updates_with_the_covariance_that_it_projects(kind):
    *_, kalman, measured = KINDS[kind]

    class Certain(kalman):
        def project(self, mean, covariance, confidence=None):
            return mean[:4].copy(), covariance[:4, :4] + 1e-9 * np.eye(4)

    state = Certain().initiate(np.array(measured))
    mean, _ = Certain().update(*state, np.array(measured) + 5)
    np.testing.assert_allclose(mean[:4], np.array(measured) + 5, atol=1e-4)
    assert tuple(inspect.signature(kalman.update).parameters)[1:4] == ("mean", "covariance", "measurement")


@EACH
def test_random_motion_depends_on_the_mean_alone_and_is_added(kind):
    """So that what we add to a covariance afterwards is what another noise would have given."""
    *_, kalman, measured = KINDS[kind]
    mean = np.r_[measured, np.arange(4.0)][None]
    zero, one = (kalman().multi_predict(mean, c)[1] for c in (np.zeros((1, 8, 8)), np.eye(8)[None]))
    motion = np.eye(8) + np.eye(8, k=4)
    np.testing.assert_allclose(one - zero, (motion @ motion.T)[None])
    assert np.count_nonzero(zero[0] - np.diag(np.diagonal(zero[0]))) == 0


@EACH
def test_rows_are_those_of_the_active_tracks_in_their_order(kind):
    cls, *_ = KINDS[kind]
    tracker = cls(settings(kind))
    for shift in range(3):
        rows = tracker.update(boxes(shift), None)
        assert [int(row[4]) for row in rows] == [t.track_id for t in tracker.tracked_stracks if t.is_activated]


@pytest.mark.seam("tracking/callbacks.py")
def test_callbacks_are_registered_once_and_replaced_in_place():
    events = {"on_predict_start": [], "on_predict_postprocess_end": []}
    model = SimpleNamespace(callbacks=events, add_callback=lambda event, function: events[event].append(function))
    track.register_tracker(model, False)
    for ours in events.values():
        ours.append(print)
    track.register_tracker(model, True)
    for event, name in (("on_predict_start", "on_predict_start"), ("on_predict_postprocess_end",) * 2):
        stock, ours = events[event]
        assert isinstance(stock, partial)
        assert stock.func is getattr(track, name)
        assert stock.keywords == {"persist": True}
        assert ours is print


@EACH
@pytest.mark.seam("tracking/callbacks.py")
def test_a_prediction_builds_stock_trackers_from_the_yaml(kind, tmp_path):
    file = tmp_path / "mine.yaml"
    YAML.save(file, vars(settings(kind)))
    predictor = SimpleNamespace(
        args=SimpleNamespace(mode="track", task="detect", tracker=str(file)),
        dataset=SimpleNamespace(bs=2, mode="stream"),
        device="cpu",
    )
    track.on_predict_start(predictor)
    assert [type(tracker) for tracker in predictor.trackers] == [KINDS[kind][0]] * 2
    assert predictor.trackers[0].args.uncertainty == {}
