from __future__ import annotations

import json
import time
from itertools import islice
from types import SimpleNamespace

import cv2
import numpy as np
import polars as pl
import pytest
import torch
from ultralytics.engine.results import Results
from ultralytics.utils import LOGGER, YAML

from yolo_uncert import YOLO
from yolo_uncert.cli import USAGE_ERROR, main
from yolo_uncert.options import OptionError
from yolo_uncert.output import columns, record, rows_of
from yolo_uncert.output.record import Positions
from yolo_uncert.streams.loader import Streams
from yolo_uncert.tracking.options import resolve_tracker

FPS = 8


@pytest.fixture(scope="module")
def models(tiny):
    return {kind: YOLO(tiny.weights(kind)) for kind in ("detect", "obb")}


@pytest.fixture(scope="module")
def images(tiny):
    """Paths of the training images, which the tiny models know."""
    return {task: sorted((tiny.data(task).parent / "images" / "train").iterdir()) for task in ("detect", "obb")}


@pytest.fixture(scope="module")
def video(images, tmp_path_factory):
    """A video of nine known images."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (64, 64))
    for file in images["detect"][:9]:
        writer.write(cv2.imread(str(file)))
    writer.release()
    return path


@pytest.fixture
def run(models, tmp_path):
    """Predict with rows into a new folder: results and rows of ``predictions.jsonl``."""

    def predict(source, kind="detect", mode="predict", **options):
        settings = {"imgsz": 64, "verbose": False, "device": "cpu", "conf": 0.1, "rows": "jsonl", **options}
        results = getattr(models[kind], mode)(source, project=str(tmp_path), name="run", exist_ok=True, **settings)
        return results, lambda: lines(tmp_path / "run" / "predictions.jsonl")

    return predict


@pytest.fixture
def listed(tmp_path):
    """Write a list of files; a Python list of paths would be images in memory to Ultralytics."""

    def write(files):
        (tmp_path / "files.txt").write_text("\n".join(map(str, files)))
        return tmp_path / "files.txt"

    return write


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_position(rows):
    return [{k: v for k, v in row.items() if k not in ("frame", "time_s", "stream")} for row in rows]


@pytest.mark.parametrize("kind", ["detect", "obb"])
@pytest.mark.parametrize("batch", [1, 3])
def test_images_are_numbered_and_their_rows_are_those_of_the_results(run, listed, images, kind, batch):
    results, rows = run(listed(images[kind][:5]), kind, batch=batch)
    assert len(results) == 5
    expected = [row for n, result in enumerate(results, 1) for row in rows_of(result, frame=n)]
    assert rows() == expected
    assert len(expected) >= 5
    assert list(expected[0]) == list(columns(kind))
    assert all(
        row["std_" + c] > 0 for row in expected for c in (("x", "h", "angle") if kind == "obb" else ("x1", "y2"))
    )


@pytest.mark.parametrize(("batch", "stride"), [(1, 1), (4, 1), (2, 2), (1, 3)])
def test_frames_of_a_video_have_the_time_at_which_they_are_shown(run, video, batch, stride):
    results, rows = run(video, batch=batch, vid_stride=stride)
    shown = range(stride, 10, stride)  # stride frames are read, the last of them is seen
    assert len(results) == len(shown)
    expected = [
        (n, (number - 1) / FPS, None) for n, number in enumerate(shown, 1) for _ in range(len(results[n - 1].boxes))
    ]
    assert [(row["frame"], row["time_s"], row["stream"]) for row in rows()] == expected


def test_every_video_is_numbered_and_timed_by_itself(run, listed, video, images, tmp_path):
    (tmp_path / "second.avi").write_bytes(video.read_bytes())
    _, rows = run(listed([images["detect"][0], video, tmp_path / "second.avi"]))
    of = {path: [row for row in rows() if row["path"] == str(path)] for path in (video, tmp_path / "second.avi")}
    first, second = ([(row["frame"], row["time_s"]) for row in found] for found in of.values())
    assert first == second != []
    assert (rows()[0]["frame"], rows()[0]["time_s"], rows()[0]["path"]) == (1, None, str(images["detect"][0]))


def test_streams_have_an_index_and_number_their_own_frames(run, models, images, video, tmp_path):
    sources = tmp_path / "two.streams"
    writer = cv2.VideoWriter(str(tmp_path / "short.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 2 * FPS, (64, 64))
    for file in images["detect"][:4]:
        writer.write(cv2.imread(str(file)))
    writer.release()
    sources.write_text(f"{video}\n{tmp_path / 'short.avi'}\n")
    results, rows = run(str(sources), stream_buffer=True)
    names = models["detect"].predictor.dataset.sources
    for stream, (fps, frames) in enumerate(((FPS, 9), (2 * FPS, 4))):
        own = [result for result in results if result.path == names[stream]]
        assert len(own) == frames
        expected = [(n, (n - 1) / fps) for n, result in enumerate(own, 1) for _ in range(len(result))]
        assert [(row["frame"], row["time_s"]) for row in rows() if row["stream"] == stream] == expected != []


def test_live_streams_share_the_clock_that_starts_with_the_first_frame():
    """Two cameras; the second frame of the first one came too late for the batch, and two of the other were dropped."""
    loader = object.__new__(Streams)
    loader.readers = [SimpleNamespace(live=True, fps=25.0)] * 2
    predictor = SimpleNamespace(dataset=loader, args=SimpleNamespace(vid_stride=1), session=SimpleNamespace())
    positions, found = Positions(predictor), []
    for slots, numbers, captured in (([0, 1], [0, 0], [100.5, 100.25]), ([1], [3], [101.0]), ([0], [1], [102.0])):
        loader.slots, loader.numbers, predictor.session.captured = slots, numbers, captured
        predictor.results = [object() for _ in slots]
        found += [tuple(positions.of(result)) for result in predictor.results]
    assert found == [(1, 0.25, 0), (1, 0.0, 1), (4, 0.75, 1), (2, 1.75, 0)]


def test_frames_of_a_live_stream_have_the_time_since_the_first(run, images):
    def camera():
        for file in images["detect"][:4]:
            yield cv2.imread(str(file))
            time.sleep(0.05)

    results, rows = run(camera())
    times = {row["frame"]: (row["time_s"], row["stream"]) for row in rows()}
    assert sorted(times) == [n for n, result in enumerate(results, 1) if len(result.boxes)]
    assert times[1] == (0.0, 0)
    assert times[4][0] >= 0.15
    assert [times[n] for n in sorted(times)] == sorted(times.values())


def test_tracks_have_their_id(run, models, images, tmp_path):
    found = models["detect"].predict(images["detect"], imgsz=64, verbose=False, device="cpu")
    clearest = max(found, key=lambda result: result.boxes.conf.max() if len(result) else 0)
    writer = cv2.VideoWriter(str(tmp_path / "still.avi"), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (64, 64))
    for _ in range(4):
        writer.write(clearest.orig_img)
    writer.release()
    low = {"track_high_thresh": 0.05, "track_low_thresh": 0.01, "new_track_thresh": 0.05}  # scores of a short training
    YAML.save(tmp_path / "low.yaml", {**YAML.load(resolve_tracker("bytetrack-uncert.yaml")), **low})
    results, rows = run(tmp_path / "still.avi", mode="track", tracker=str(tmp_path / "low.yaml"), conf=0.05)
    expected = [row for result in results for row in rows_of(result)]
    assert without_position(rows()) == without_position(expected)
    assert {row["track_id"] for row in expected} == {int(i) for result in results for i in result.boxes.id}
    assert {row["frame"] for row in rows()} == {1, 2, 3, 4}


@pytest.mark.parametrize("source", ["array", "arrays"])
def test_images_in_memory(run, images, source):
    arrays = [cv2.imread(str(path)) for path in images["detect"][:3]]
    results, rows = run(arrays if source == "arrays" else arrays[0])
    assert [row["frame"] for row in rows()] == [n for n, r in enumerate(results, 1) for _ in range(len(r.boxes))]


def test_all_formats_hold_the_same(run, images, tmp_path):
    _, rows = run(images["detect"][:3], rows="csv, parquet,jsonl", interval_level=0.5)
    assert pl.read_parquet(tmp_path / "run" / "predictions.parquet").to_dicts() == rows()
    table = pl.read_csv(tmp_path / "run" / "predictions.csv", infer_schema_length=None)
    assert table["std_x1"].to_list() == [row["std_x1"] for row in rows()]
    assert {row["interval_level"] for row in rows()} == {0.5}
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "predictions.csv",
        "predictions.jsonl",
        "predictions.parquet",
    ]


def test_results_are_not_changed(run, models, images):
    written, _ = run(images["detect"][:2])
    plain = models["detect"].predict(images["detect"][:2], imgsz=64, verbose=False, device="cpu", conf=0.1)
    assert isinstance(written, list)
    assert all(np.array_equal(a.boxes.data, b.boxes.data) for a, b in zip(written, plain, strict=True))


def test_nothing_is_written_unless_asked_for(run, images, tmp_path):
    results, _ = run(images["detect"][:2], rows=None, stream=True)
    assert type(results).__qualname__ == "generator"
    assert results.__qualname__.endswith("stream_inference"), "results come straight from Ultralytics"
    assert len(list(results)) == 2
    assert not (tmp_path / "run").exists()


def test_a_second_call_keeps_the_files_of_the_first(run, images, tmp_path):
    run(images["detect"][:1])
    first = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    run(images["detect"][1:2], rows="parquet")
    run(images["detect"][1:2], rows="csv")
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == first
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "predictions-2.parquet",
        "predictions-3.csv",
        "predictions.jsonl",
    ]


def test_rows_are_on_disk_when_their_result_arrives(run, video):
    results, rows = run(video, stream=True)
    count = 0
    for result in results:
        count += len(result.boxes)
        assert len(rows()) == count
    assert count > 5


@pytest.mark.parametrize("ending", ["drop", "close", "interrupt"])
def test_a_run_that_ends_early_leaves_complete_files(models, run, video, tmp_path, ending):
    def interrupt(predictor):
        if ending == "interrupt" and predictor.seen == 4:
            raise KeyboardInterrupt

    models["detect"].predictor = None
    models["detect"].add_callback("on_predict_batch_start", interrupt)
    try:
        results, rows = run(video, stream=True, rows="jsonl,parquet,csv")
        seen = []
        if ending == "interrupt":
            with pytest.raises(KeyboardInterrupt):
                seen.extend(results)
        else:
            seen = list(islice(results, 4))
            if ending == "close":
                results.close()
            del results
    finally:
        models["detect"].callbacks["on_predict_batch_start"].remove(interrupt)
        models["detect"].predictor = None
    expected = sum(len(result.boxes) for result in seen)
    assert len(rows()) == expected > 2
    assert pl.read_parquet(tmp_path / "run" / "predictions.parquet").to_dicts() == rows()
    assert pl.read_csv(tmp_path / "run" / "predictions.csv").height == len(rows())
    assert not list((tmp_path / "run").glob("*.incomplete"))


def test_a_source_that_does_not_exist_leaves_no_file(run, tmp_path):
    with pytest.raises(FileNotFoundError):
        run(tmp_path / "missing.jpg")
    assert not (tmp_path / "run").exists()


def test_images_without_boxes_leave_the_columns(run, tmp_path):
    run(np.zeros((64, 64, 3), np.uint8), rows="csv,parquet", conf=0.99)
    assert (tmp_path / "run" / "predictions.csv").read_text() == ",".join(columns("detect")) + "\n"
    assert pl.read_parquet(tmp_path / "run" / "predictions.parquet").columns == list(columns("detect"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": "jsonl,cvs"}, r"predict: rows is 'cvs' \(did you mean 'csv'\?\). Allowed: jsonl, csv, parquet"),
        ({"rows": ""}, "predict: rows is ''. Allowed"),
        ({"rows": True}, "predict: rows must be str or None, not True"),
        ({"interval_level": 1.0}, "predict: interval_level must be between 0 and 1, not 1.0"),
        ({"interval_levl": 0.5}, "unknown option 'interval_levl' .did you mean 'interval_level'"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(models, images, options, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        models["detect"].predict(images["detect"][0], project=str(tmp_path), **options)
    assert not any(tmp_path.iterdir())


def test_other_results_have_no_rows(tmp_path):
    results = (Results(np.zeros((8, 8, 3), np.uint8), "a.jpg", {}, probs=torch.ones(3)) for _ in range(2))
    with pytest.raises(OptionError, match="rows: only detect and obb models have rows of boxes, not Results"):
        next(record(results, SimpleNamespace(save_dir=tmp_path), "csv", 0.9))
    assert next(results, None) is None, "the run ends there"
    assert not any(tmp_path.iterdir())


def test_no_results_no_files(tmp_path):
    assert list(record(iter_none(), SimpleNamespace(save_dir=tmp_path), "csv", 0.9)) == []
    assert not any(tmp_path.iterdir())


def iter_none():
    yield from ()


def test_command_line(tiny, images, tmp_path, monkeypatch, capsys):
    said = []
    monkeypatch.setattr(LOGGER, "info", said.append)
    words = [f"model={tiny.weights('obb')}", f"source={images['obb'][0]}", "imgsz=64", "conf=0.1", "device=cpu"]
    assert main(["predict", *words, f"project={tmp_path}", "name=run", "rows=jsonl,parquet"]) == 0
    found = lines(tmp_path / "run" / "predictions.jsonl")
    assert pl.read_parquet(tmp_path / "run" / "predictions.parquet").to_dicts() == found != []
    assert any("predictions.jsonl" in text and "predictions.parquet" in text for text in said)
    assert main(["predict", *words, "rows=exel"]) == USAGE_ERROR
