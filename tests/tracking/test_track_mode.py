"""``YOLO.track`` and the command: stock trackers as in Ultralytics, ours with the tracks' own covariance."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import ultralytics
from numpy.testing import assert_allclose
from ultralytics.utils import YAML

from yolo_uncert import YOLO
from yolo_uncert.cli import main
from yolo_uncert.options import OptionError
from yolo_uncert.tracking.options import resolve_tracker
from yolo_uncert.tracking.trackers import UncertByteTracker

QUIET = {"imgsz": 64, "verbose": False, "device": "cpu", "conf": 0.05, "save": False}
FRAMES = 8


@pytest.fixture(scope="module")
def video(tmp_path_factory, tiny):
    """One training scene that moves to the right."""
    file = tmp_path_factory.mktemp("video") / "clip.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 64))
    scene = cv2.imread(str(sorted((tiny.data("detect").parent / "images" / "train").iterdir())[0]))
    for shift in range(FRAMES):
        writer.write(np.roll(scene, shift, axis=1))
    writer.release()
    return str(file)


@pytest.fixture
def settings(tmp_path):
    """Writer of a tracker yaml with thresholds for the low scores of a model trained for seconds."""

    def build(name, **changes):
        thresholds = {"track_high_thresh": 0.2, "track_low_thresh": 0.05, "new_track_thresh": 0.2}
        file = tmp_path / f"mine-{name}"
        YAML.save(file, {**YAML.load(resolve_tracker(name)), **thresholds, **changes})
        return str(file)

    return build


def found(result):
    return result.boxes if result.obb is None else result.obb


def tracked(results):
    return [found(result) for result in results if found(result).is_track]


@pytest.mark.parametrize("name", ["bytetrack.yaml", "botsort.yaml", "tracktrack.yaml"])
def test_stock_trackers_give_what_ultralytics_gives(tiny, video, settings, name):
    weights, tracker = tiny.weights("stock"), settings(name)
    want = ultralytics.YOLO(weights).track(video, tracker=tracker, **QUIET)
    got = YOLO(weights).track(video, tracker=tracker, suppress="hard", **QUIET)
    assert any(result.boxes.is_track for result in want)
    for mine, stock in zip(got, want, strict=True):
        torch.testing.assert_close(mine.boxes.data, stock.boxes.data, rtol=0, atol=0)
        assert mine.boxes.track_std is None


@pytest.mark.parametrize("kind", ["detect", "obb", "e2e"])
@pytest.mark.parametrize("name", ["bytetrack-uncert.yaml", "botsort-uncert.yaml"])
@pytest.mark.parametrize("stream", [False, True])
def test_tracks_carry_their_own_covariance(tiny, video, settings, kind, name, stream):
    model = YOLO(tiny.weights(kind))
    options = {**QUIET, "nms": False} if kind == "e2e" else QUIET
    results = list(model.track(video, stream=stream, tracker=settings(name), **options))
    assert len(results) == FRAMES
    assert len(tracked(results)) > FRAMES // 2
    for boxes in tracked(results):
        assert boxes.fields["track_cov"].shape == (len(boxes), 4, 4)
        assert boxes.track_std.shape == (len(boxes), 4)
        assert boxes.std.shape == (len(boxes), 5 if kind == "obb" else 4)
        assert (torch.linalg.eigvalsh(boxes.fields["track_cov"]) > 0).all()
        assert_allclose(boxes[:1].track_std, boxes.track_std[:1])
        assert_allclose(boxes.cpu().numpy().track_std, boxes.track_std, rtol=1e-6)
    # Detections of the same object agree: the track knows better than any of them.
    last = tracked(results)[-1]
    first = tracked(results)[0]
    assert last.track_std.mean() < first.track_std.mean()


@pytest.mark.parametrize("name", ["bytetrack-uncert.yaml", "botsort-uncert.yaml"])
def test_frames_in_batches_have_the_covariance_of_their_frame(tiny, video, settings, name):
    weights, tracker = tiny.weights("detect"), settings(name)
    single = YOLO(weights).track(video, tracker=tracker, **QUIET)
    batched = YOLO(weights).track(video, tracker=tracker, batch=3, **QUIET)
    for one, other in zip(tracked(single), tracked(batched), strict=True):
        assert_allclose(other.data, one.data, atol=1e-2)
        assert_allclose(other.track_std, one.track_std, atol=1e-2)


def test_persist_goes_on_and_a_new_call_starts_anew(tiny, video, settings):
    model, tracker = YOLO(tiny.weights("detect")), settings("bytetrack-uncert.yaml")
    capture = cv2.VideoCapture(video)
    frames = [capture.read()[1] for _ in range(FRAMES)]
    for frame in frames:
        (result,) = model.track(frame, persist=True, tracker=tracker, **QUIET)
    (kept,) = model.predictor.trackers
    assert isinstance(kept, UncertByteTracker)
    assert kept.frame_id == FRAMES
    assert not kept.frames
    assert result.boxes.track_std is not None
    model.track(frames[0], tracker=tracker, **QUIET)
    assert model.predictor.trackers[0] is not kept
    model.track(frames[0], tracker=settings("bytetrack.yaml"), **QUIET)
    assert not isinstance(model.predictor.trackers[0], UncertByteTracker)
    (plain,) = model.predict(frames[0], **QUIET)
    assert not plain.boxes.is_track


def test_every_stream_has_a_tracker_of_its_own(tiny, video, settings, tmp_path):
    sources = tmp_path / "two.streams"
    sources.write_text(f"{video}\n{video}\n", encoding="utf-8")
    model = YOLO(tiny.weights("detect"))
    options = {**QUIET, "stream_buffer": True}
    results = list(model.track(str(sources), stream=True, tracker=settings("bytetrack-uncert.yaml"), **options))
    one, other = model.predictor.trackers
    assert one is not other
    assert all(boxes.track_std is not None for boxes in tracked(results))
    assert len(tracked(results)) > 2


def test_a_model_without_sigma_is_tracked_with_one_warning(tiny, video, settings, monkeypatch):
    warnings = []
    monkeypatch.setattr("yolo_uncert.tracking.trackers.LOGGER.warning", warnings.append)
    results = YOLO(tiny.weights("stock")).track(video, tracker=settings("bytetrack-uncert.yaml"), **QUIET)
    assert sum("no standard deviations" in text for text in warnings) == 1
    assert tracked(results)


def test_mistakes_in_the_tracker_are_told_before_anything_runs(tiny, settings):
    model = YOLO(tiny.weights("detect"))
    with pytest.raises(OptionError, match="did you mean 'floor'"):
        model.track("no-such-video.mp4", tracker=settings("bytetrack-uncert.yaml", uncertainty={"flor": 1.0}))
    with pytest.raises(FileNotFoundError, match=r"did you mean 'bytetrack-uncert\.yaml'"):
        model.track("no-such-video.mp4", tracker="bytetrack-uncrt.yaml")


def test_the_command_tracks(tiny, video, tmp_path, capsys):
    words = [f"model={tiny.weights('detect')}", f"source={video}", "imgsz=64", "device=cpu", "conf=0.1"]
    assert main(["track", *words, "tracker=bytetrack-uncert.yaml", f"project={tmp_path}", "name=t"]) == 0
    assert len(list(Path(tmp_path / "t").iterdir())) == 1
    assert main(["track", *words, "tracker=nothing.yaml", f"project={tmp_path}", "name=t"]) == 2
