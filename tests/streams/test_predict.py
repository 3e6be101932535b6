"""Sources of every kind through a model: what comes out, what is written, and how it ends."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from yolo_uncert import YOLO
from yolo_uncert.cli import FAILURE, INTERRUPTED, main
from yolo_uncert.engine.session import Session, Summary

QUIET = {"imgsz": 64, "verbose": False, "device": "cpu", "conf": 0.1}


@pytest.fixture(scope="module")
def model(tiny):
    return YOLO(tiny.weights("detect"))


@pytest.fixture
def run(model, tmp_path):
    """Results of a source, one by one; what is written goes to ``tmp_path / "run"``."""

    def start(source, mode="predict", **options):
        where = {"project": str(tmp_path), "name": "run", "exist_ok": True}
        return getattr(model, mode)(source, stream=True, **{**QUIET, **where, **options})

    yield start
    model.predictor = None


# --- streams ----------------------------------------------------------------------------------------------------------


def test_camera_that_is_switched_off_and_on(run, camera, model, tmp_path, look):
    cam = camera()
    numbers, boxes = [], 0
    for result in run(cam.url, save=True, reconnect=20, conf=0.001):
        boxes += len(result)
        numbers.append(model.predictor.dataset.numbers[0])
        if len(numbers) == 10:
            cam.off()
            threading.Timer(0.2, cam.on).start()
        if len(numbers) == 20:
            break
        assert result.orig_shape == (48, 64)
        assert result.speed["latency"] > result.speed["inference"]
    assert numbers == sorted(set(numbers)), "no frame twice, none out of order"
    summary = model.predictor.summary
    assert (summary.frames, summary.boxes, summary.reconnects, summary.skipped) == (20, boxes, 1, {})
    (video,) = (tmp_path / "run").glob("*.avi")
    count, fps, size = look(video)
    assert (fps, size) == (25.0, (64, 48)), "the rate that FFmpeg assumes for a stream of JPEGs"
    assert count >= 20


@pytest.mark.parametrize("mode", ["predict", "track"])
def test_one_of_two_streams_dies(run, camera, model, tmp_path, look, caplog, mode):
    cameras = camera(fps=40), camera(fps=40)
    seen = Counter()
    for result in run([c.url for c in cameras], mode, save=True, save_txt=True, conf=0.01, reconnect=0.5):
        seen[result.path] += 1
        if sum(seen.values()) == 20:
            cameras[0].off()
        if "given up" in caplog.text:
            cameras[1].off()
    first, second = model.predictor.dataset.sources
    assert seen[second] > seen[first] > 0
    assert [caplog.text.count(f"{name}: given up") for name in (first, second)] == [1, 1]
    videos = {path.stem: look(path) for path in (tmp_path / "run").glob("*.avi")}
    assert videos.keys() == {first, second}, "each in its own file, whatever its place in the batch"
    assert all(videos[name][0] >= seen[name] for name in (first, second))
    labels = Counter(path.stem.rpartition("_")[0] for path in (tmp_path / "run" / "labels").glob("*.txt"))
    assert set(labels) <= {first, second}


def test_label_files_have_the_frame_numbers_of_the_rows(run, camera, tmp_path):
    frames = 0
    for _ in run(camera().url, save_txt=True, rows="jsonl", conf=0.001):
        if (frames := frames + 1) == 5:
            break
    rows = map(json.loads, (tmp_path / "run" / "predictions.jsonl").read_text().splitlines())
    numbered = {int(path.stem.rpartition("_")[2]) for path in (tmp_path / "run" / "labels").glob("*.txt")}
    assert numbered == {row["frame"] for row in rows} != set()


def test_each_stream_keeps_its_tracker(run, camera, model):
    """Whatever is in a batch, a tracker sees the frames of one stream only."""
    cameras = camera(fps=60), camera(fps=15)
    seen = [set(), set()]
    for k, result in enumerate(run([c.url for c in cameras], "track")):
        predictor = model.predictor
        if k == 0:
            for slot, tracker in enumerate(predictor.trackers):
                update = tracker.update
                tracker.update = lambda det, img, slot=slot, update=update, **kw: (
                    seen[slot].add(img.shape[1]),
                    update(det, img, **kw),
                )[1]
        assert len(predictor.trackers) == len(predictor.vid_path) == 2
        assert predictor.vid_path[predictor.dataset.sources.index(result.path)] == result.path
        if k == 40:
            break
    assert seen == [{64}, {64}]


def test_iterator_of_frames_is_a_stream(run, tmp_path, look, model):
    frames = (np.full((48, 64, 3), k, np.uint8) for k in range(6))
    results = list(run(frames, save=True))
    assert [int(r.orig_img[0, 0, 0]) for r in results] == list(range(6))
    assert look(tmp_path / "run" / "frames.avi") == (6, 30.0, (64, 48))


def test_unreachable_stream(run, caplog):
    with pytest.raises(ConnectionError, match="no frame from http_127_0_0_1_9_x"):
        list(run("http://127.0.0.1:9/x", reconnect=0))
    assert "http_127_0_0_1_9_x: given up" in caplog.text


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "fps", "stride"),
    [((64, 48), 29.97, 1), ((64, 48), 23.976, 3), ((66, 50), 12.5, 1), ((64, 48), 0.5, 1)],
)
def test_written_video_has_the_rate_and_size_of_its_source(run, clip, tmp_path, look, size, fps, stride):
    source = clip(tmp_path / "a.avi", 9, fps, size, "MJPG")
    results = list(run(source, save=True, vid_stride=stride))
    assert len(results) == 9 // stride
    count, rate, written = look(tmp_path / "run" / "a.avi")
    assert (count, written) == (9 // stride, size)
    assert rate == pytest.approx(fps / stride, rel=1e-4)


def test_written_video_of_odd_size(run, tmp_path, look):
    source = tmp_path / "odd.avi"
    writer = cv2.VideoWriter(str(source), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (63, 47))
    for k in range(5):
        writer.write(np.full((47, 63, 3), 40 * k, np.uint8))
    writer.release()
    list(run(str(source), save=True))
    assert look(tmp_path / "run" / "odd.avi") == (5, 30.0, (63, 47))


def test_videos_are_finished_one_after_the_other(run, clip, tmp_path, look):
    sources = [clip(tmp_path / f"{name}.mp4", 4) for name in "ab"]
    results = run(sources, save=True, save_frames=True)
    for _ in range(5):
        next(results)
    assert look(tmp_path / "run" / "a.avi")[0] == 4, "while the second one is still being written"
    results.close()
    assert look(tmp_path / "run" / "b.avi")[0] == 1
    assert len(list((tmp_path / "run" / "a_frames").iterdir())) == 4


def test_damaged_files_are_summed_up(run, clip, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "in"
    folder.mkdir()
    clip(folder / "good.mp4", 4)
    (folder / "bad.mp4").write_bytes(b"no video")
    (folder / "bad.jpg").touch()
    results = list(run(folder, save=True, verbose=True))
    assert len(results) == 4
    summary = next(m for m in caplog.messages if "4 frames in" in m)
    assert "2 not (fully) read:" in summary
    assert f"{folder / 'bad.jpg'}: is no image, or damaged" in summary
    assert f"saved in {tmp_path / 'run'}" in summary
    assert "latency p50" in summary


def test_damaged_files_with_a_loader_that_reads_ahead(run, clip, tmp_path, model, look):
    """As on a GPU: a thread of Ultralytics' own reads the next batch, and batches come with copies of the loader."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, fps in (("a.mp4", 12.5), ("c.mp4", 29.97)):
        clip(folder / name, 4, fps)
    (folder / "b.mp4").touch()
    (folder / "d.jpg").touch()
    list(run(np.zeros((64, 64, 3), np.uint8)))
    model.predictor.model.prefetch = True
    results = list(run(folder, save=True))
    assert len(results) == 8
    assert len(model.predictor.summary.skipped) == 2
    assert [look(tmp_path / "run" / f"{name}.avi")[:2] for name in "ac"] == [(4, 12.5), (4, pytest.approx(29.97))]


@pytest.mark.parametrize("name", ["car-detection", "one-by-one-person-detection"])
def test_real_clip_whole_and_cut_off(run, shared_data, tmp_path, look, model, name):
    source = shared_data / "video" / f"{name}.mp4"
    if not source.exists():
        pytest.skip(f"no {source.name}")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    results = list(run([str(cut), str(source)], save=True, vid_stride=20))
    capture = cv2.VideoCapture(str(source))
    size = tuple(int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    count, fps, written = look(tmp_path / "run" / f"{name}.avi")
    assert (count, written) == (capture.get(cv2.CAP_PROP_FRAME_COUNT) // 20, size)
    assert fps == pytest.approx(capture.get(cv2.CAP_PROP_FPS) / 20, rel=1e-3)
    assert {Path(r.path).name for r in results} | {Path(p).name for p in model.predictor.summary.skipped} == {
        source.name,
        "cut.mp4",
    }


def test_only_damaged_files_give_a_summary_and_no_result(run, tmp_path, model):
    (tmp_path / "a.jpg").touch()
    assert list(run(tmp_path / "a.jpg")) == []
    assert (model.predictor.summary.frames, len(model.predictor.summary.skipped)) == (0, 1)
    assert str(model.predictor.summary).startswith("0 frames in 0.0 s\n1 not (fully) read:")


# --- overlay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("overlay", "drawn"), [(None, False), (True, True), (False, False)])
def test_overlay_of_a_file_is_a_matter_of_choice(run, clip, tmp_path, overlay, drawn):
    list(run(clip(tmp_path / "a.avi", 5, size=(320, 240), codec="MJPG"), save=True, overlay=overlay, conf=0.99))
    capture = cv2.VideoCapture(str(tmp_path / "run" / "a.avi"))
    corners = [capture.read()[1][-8:, :100].astype(int) for _ in range(5)]
    assert np.ptp(corners[0]) < 10, "the first frame has no rate"
    assert bool(np.ptp(corners[4]) > 100) == drawn


def test_overlay_of_a_stream_is_on_unless_refused(run, tmp_path):
    for overlay, drawn in ((None, True), (False, False)):
        list(run((np.full((240, 320, 3), 90, np.uint8) for _ in range(4)), save=True, overlay=overlay, conf=0.99))
        capture = cv2.VideoCapture(str(tmp_path / "run" / "frames.avi"))
        last = [capture.read()[1] for _ in range(4)][-1]
        assert bool(np.ptp(last[-8:, :100].astype(int)) > 100) == drawn


@pytest.mark.parametrize("count", [1, 2])
def test_overlay_of_cameras(run, camera, tmp_path, count):
    urls = [camera(size=(320, 240)).url for _ in range(count)]
    results = run(urls[0] if count == 1 else urls, save=True, conf=0.99)
    for _, _ in zip(range(10 * count), results, strict=False):
        pass
    results.close()
    videos = sorted((tmp_path / "run").glob("*.avi"))
    assert len(videos) == count
    for video in videos:
        capture, last = cv2.VideoCapture(str(video)), None
        while (read := capture.read())[0]:
            last = read[1]
        assert np.ptp(last[-8:, :100].astype(int)) > 100


@pytest.mark.parametrize("batch", [1, 4])
def test_overlay_of_a_video_in_batches(run, clip, tmp_path, monkeypatch, batch):
    texts = []
    monkeypatch.setattr("yolo_uncert.engine.predict.draw_text", lambda image, text: texts.append(text))
    source = clip(tmp_path / "a.avi", 9, size=(320, 240), codec="MJPG")
    list(run(source, save=True, overlay=True, batch=batch, conf=0.99))
    assert "fps" in texts[-1]


def test_text_of_the_overlay_and_of_the_summary():
    session = Session()
    assert session.text("") == ""
    assert math.isnan(session.summary(None, None).fps)
    text = str(Summary(100, 4.0, 25.0, 40.4, 60.0, 7, 3, 1, {f"f{k}": "bad" for k in range(7)}))
    first, *rest = text.splitlines()
    assert first == "100 frames in 4.0 s (25.0 fps), latency p50 40 ms p95 60 ms, 7 boxes, 3 dropped, 1 reconnects"
    assert rest == ["7 not (fully) read:", *[f"  f{k}: bad" for k in range(5)], "  and 2 more"]


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "error", "interrupt"])
def test_whatever_ends_a_run_its_video_is_readable_and_its_threads_stop(run, camera, model, tmp_path, look, end):
    results = run(camera().url, save=True)
    for _ in range(5):
        next(results)
    if end == "close":
        results.close()
    else:
        error = RuntimeError if end == "error" else KeyboardInterrupt

        def fail(*args):
            raise error

        model.predictor.postprocess = fail
        with pytest.raises(error):
            next(results)
    (video,) = (tmp_path / "run").glob("*.avi")
    assert look(video)[0] >= 5
    assert model.predictor.summary.frames >= 4
    assert not model.predictor.dataset.readers[0]._thread.is_alive()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")
def test_interrupted_command_leaves_readable_files(tiny, camera, tmp_path, look):
    words = [f"model={tiny.weights('detect')}", f"source={camera(size=(640, 480)).url}", "imgsz=64", "device=cpu"]
    words += [f"project={tmp_path}", "name=p", "conf=0.01", "save_txt"]
    command = [sys.executable, "-m", "yolo_uncert", "predict", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ, text=True
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if len(lines) > 60:
                process.send_signal(signal.SIGINT)
                break
        text = "".join(lines) + process.stdout.read()
    (video,) = (tmp_path / "p").glob("*.avi")
    assert process.returncode == INTERRUPTED
    assert "interrupted; what was written so far is kept" in text
    assert "frames in" in text
    assert "saved in" in text
    assert "Traceback" not in text
    assert look(video)[0] > 20


def test_command_reads_arrays_from_standard_input(tiny, tmp_path, look, monkeypatch):
    data = io.BytesIO()
    for k in range(5):
        np.save(data, np.full((48, 64, 3), 10 * k, np.uint8))
    data.seek(0)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=data))
    words = [f"model={tiny.weights('detect')}", "source=-", "imgsz=64", "device=cpu", f"project={tmp_path}", "name=p"]
    assert main(["predict", *words]) == 0
    assert look(tmp_path / "p" / "stdin.avi") == (5, 30.0, (64, 48))


def test_command_without_a_stream_fails_in_one_line(tiny, caplog):
    words = [f"model={tiny.weights('detect')}", "source=http://127.0.0.1:9/x", "reconnect=0", "device=cpu", "imgsz=64"]
    assert main(["predict", *words, "save=False"]) == FAILURE
    assert caplog.messages[-1].endswith("ConnectionError: no frame from http_127_0_0_1_9_x")
