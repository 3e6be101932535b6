"""Loaders, video writing and the run of a predictor: what our streams and files plug into."""

from __future__ import annotations

import inspect

import cv2
import numpy as np
import pytest
from ultralytics.data.build import check_source, load_inference_source
from ultralytics.data.loaders import (
    LOADERS,
    LoadImagesAndVideos,
    LoadPilAndNumpy,
    LoadScreenshots,
    LoadStreams,
    SourceTypes,
)
from ultralytics.engine.predictor import BasePredictor
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.trackers import track

pytestmark = pytest.mark.seam("engine/predict.py", "engine/session.py")

FRAME = np.zeros((48, 64, 3), np.uint8)


@pytest.mark.seam("streams/sources.py", "streams/loader.py", "streams/files.py", "streams/frames.py")
@pytest.mark.parametrize("base", [LoadStreams, LoadImagesAndVideos, LoadPilAndNumpy, LoadScreenshots])
def test_an_instance_of_a_loader_is_taken_as_it_is(base):
    assert base in LOADERS

    class Ours(base):
        def __init__(self):
            self.source_type = SourceTypes(stream=True)

    loader = Ours()
    assert load_inference_source(loader) is loader
    assert loader.source_type.stream


@pytest.mark.seam("streams/sources.py")
@pytest.mark.parametrize(
    ("source", "stream", "screen"),
    [("0", True, False), ("screen", False, True), ("a.jpg", False, False), ("http://127.0.0.1:9/x", True, False)],
)
def test_kinds_of_sources(source, stream, screen):
    found = check_source(source)
    assert (found[0], found[1], found[2], found[3]) == (source, stream, screen, False)


@pytest.mark.seam("streams/files.py")
def test_files_are_opened_and_appended_where_we_override(tmp_path):
    calls = []

    class Spy(LoadImagesAndVideos):
        def _new_video(self, path):
            calls.append(path)
            super()._new_video(path)

        def _append_image(self, paths, imgs, info, path, im0, idx):
            calls.append((path, im0 is None, idx))
            super()._append_image(paths, imgs, info, path, im0, idx)

    cv2.imwrite(str(tmp_path / "a.png"), FRAME)
    (tmp_path / "b.png").touch()
    (tmp_path / "c.avi").touch()
    with pytest.raises(FileNotFoundError, match="Failed to open video"):
        Spy(tmp_path)
    assert calls == [str(tmp_path / "c.avi")]
    (tmp_path / "c.avi").unlink()
    loader = Spy(tmp_path)
    assert (loader.files, loader.ni, loader.nf, loader.bs) == ([str(tmp_path / n) for n in ("a.png", "b.png")], 2, 2, 1)
    assert len(list(loader)) == 1
    assert calls[1:] == [(str(tmp_path / "a.png"), False, 1), (str(tmp_path / "b.png"), True, 2)]
    assert loader.count == 2


@pytest.mark.seam("streams/frames.py")
def test_single_images_are_checked_and_converted():
    assert LoadPilAndNumpy._single_check(FRAME[..., 0], 3).shape == (48, 64, 3)
    with pytest.raises(ValueError, match="single"):
        LoadPilAndNumpy._single_check(FRAME[:0], 3)
    with pytest.raises(TypeError):
        LoadPilAndNumpy._single_check("text", 3)


def test_methods_that_we_override():
    signatures = {
        "setup_source": ["self", "source", "stride"],
        "stream_inference": ["self", "source", "model", "args", "kwargs"],
        "preprocess": ["self", "im"],
        "run_callbacks": ["self", "event"],
        "write_results": ["self", "i", "p", "im", "s"],
        "save_predicted_images": ["self", "save_path", "frame"],
        "show": ["self", "p"],
    }
    for name, parameters in signatures.items():
        assert list(inspect.signature(getattr(BasePredictor, name)).parameters) == parameters, name


class Loader(LoadStreams):
    """Two streams, the second of which alone has frames from the second batch on."""

    mode, bs, count = "stream", 2, -1

    def __init__(self):
        self.source_type = SourceTypes(stream=True)
        self.closed = 0

    def __iter__(self):
        return self

    def __len__(self):
        return 2

    def __next__(self):
        self.count += 1
        if self.count == 3:
            raise StopIteration
        names = ["a", "b"] if self.count == 0 else ["b"]
        return names, [FRAME] * len(names), [""] * len(names)

    def close(self):
        self.closed += 1


class Writer:
    """Not a writer of OpenCV."""

    def __init__(self):
        self.frames, self.released = 0, False

    def write(self, image):
        self.frames += 1

    def release(self):
        self.released = True


class Spy(DetectionPredictor):
    """Notes the order of what is called, and writes to its own writers."""

    log: list

    def preprocess(self, im):
        self.log.append(("preprocess", self.batch[0]))
        return super().preprocess(im)

    def run_callbacks(self, event):
        if event == "on_predict_postprocess_end":
            self.log.append((event, len(self.results)))
        super().run_callbacks(event)

    def save_predicted_images(self, save_path, frame=0):
        self.log.append(("save", save_path.name, frame, self.plotted_img.shape))
        self.vid_writer.setdefault(save_path, Writer())
        super().save_predicted_images(save_path, frame)


@pytest.fixture
def predictor(stock, tmp_path):
    made = Spy(overrides={"imgsz": 64, "save": True, "verbose": False, "device": "cpu", "project": str(tmp_path)})
    made.log = []
    made.setup_model(stock("detect"), verbose=False)
    return made


def test_batches_may_vary_and_writers_may_be_ours(predictor):
    loader = Loader()
    results = list(predictor.stream_inference(loader))
    assert [r.path for r in results] == ["a", "b", "b", "b"]
    assert loader.closed == 1
    assert predictor.log[:4] == [
        ("preprocess", ["a", "b"]),
        ("on_predict_postprocess_end", 2),
        ("save", "a", 0, (48, 64, 3)),
        ("save", "b", 0, (48, 64, 3)),
    ]
    # The outputs of a stream follow its place in the batch: without our view of the loader, b would go on in a's file.
    assert [(entry[1], entry[2]) for entry in predictor.log if entry[0] == "save"][2:] == [("a", 1), ("a", 2)]
    writers = {path.name: writer for path, writer in predictor.vid_writer.items()}
    assert {name: writer.frames for name, writer in writers.items()} == {"a": 3, "b": 1}
    assert not any(writer.released for writer in writers.values()), "it releases only those of OpenCV"


def test_outputs_of_mode_video_follow_the_name(predictor):
    loader = Loader()
    loader.mode, loader.fps = "video", 25.0
    list(predictor.stream_inference(loader))
    saved = [(entry[1], entry[2]) for entry in predictor.log if entry[0] == "save"]
    assert saved == [("a", 0), ("b", 0), ("b", 1), ("b", 2)]


def test_closing_a_run_closes_the_loader(predictor):
    loader = Loader()
    results = predictor.stream_inference(loader)
    next(results)
    results.close()
    assert loader.closed == 1


def test_trackers_stand_at_the_places_of_the_batch():
    source = inspect.getsource(track.on_predict_postprocess_end)
    assert "predictor.trackers[i if is_stream else 0]" in source
    assert "predictor.vid_path[i if is_stream else 0]" in source
    assert "predictor.dataset.bs" in inspect.getsource(track.on_predict_start)
