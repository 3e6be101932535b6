from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from yolo_uncert.options import OptionError
from yolo_uncert.streams import sources
from yolo_uncert.streams.files import Files
from yolo_uncert.streams.frames import Frames
from yolo_uncert.streams.loader import Streams
from yolo_uncert.streams.sources import BUFFER, Loading, open_source, stream_name

IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def image(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), IMAGE)
    return tmp_path / "a.png"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (0, ["camera0"]),
        ("1", ["camera1"]),
        ([0, 1], ["camera0", "camera1"]),
        ((0, "rtsp://a/b"), ["camera0", "rtsp_a_b"]),
        ("rtsp://user:secret@10.0.0.1:554/ch.1?key=secret", ["rtsp_10_0_0_1_554_ch_1"]),
        (["http://a/x", "http://a/x", "http://a/x"], ["http_a_x", "http_a_x-2", "http_a_x-3"]),
        (["rtsp://a/b", "film.mp4", Path("x/y.AVI")], ["rtsp_a_b", "film_mp4", "x_y_AVI"]),
        (["http://a/film.mp4?key=secret", "http://a/b.AVI"], ["http_a_film_mp4", "http_a_b_AVI"]),
        (["https://a/film.mp4", "one/gate.avi"], ["https_a_film_mp4", "one_gate_avi"]),
        ("udp://0.0.0.0:1", ["udp_0_0_0_0_1"]),
        ("pipe:0", ["pipe_0"]),
        ("rtsp://server/film.mp4", ["rtsp_server_film_mp4"]),
    ],
)
def test_streams(source, names):
    loader = open_source(source, Loading())
    assert type(loader) is Streams
    assert loader.sources == names


@pytest.mark.parametrize("other", ["cell.jpg", Path("folder"), "http://a/b.png"])
def test_streams_and_images_in_one_list_are_refused_without_the_password(other):
    with pytest.raises(OptionError, match="in a list, streams such as rtsp_h_9_x go with streams and videos") as caught:
        open_source(["rtsp://user:secret@h:9/x", other], Loading())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda image: image, lambda image: [image, image], lambda image: (image,)])
def test_arrays_of_floats_are_images_of_8_bits(wrap):
    scaled = np.full((4, 4, 3), 0.5, np.float32)
    found = open_source(wrap(scaled), Loading())
    for image in [found] if isinstance(found, np.ndarray) else found:
        assert (image.dtype, image.min(), image.max()) == (np.uint8, 128, 128)
    assert scaled.max() == 0.5


def test_address_without_an_image_behind_it_is_a_stream():
    assert type(open_source("http://127.0.0.1:9/video", Loading())) is Streams


def test_list_of_streams_in_a_file(tmp_path):
    file = tmp_path / "x.streams"
    file.write_text("# the gate\nrtsp://a/b\n\n 0\n")
    assert open_source(file, Loading()).sources == ["rtsp_a_b", "camera0"]
    file.write_text("\n")
    with pytest.raises(FileNotFoundError, match=r"x\.streams: no stream in it"):
        open_source(str(file), Loading())
    with pytest.raises(FileNotFoundError, match=r"nowhere\.streams"):
        open_source("nowhere.streams", Loading())


def test_names_are_all_different():
    sources = ["rtsp://a/b-2", "rtsp://a/b", "rtsp://a/b", 0, 0, "rtsp://a/b-2"]
    names = open_source(sources, Loading()).sources
    assert names == ["rtsp_a_b-2", "rtsp_a_b", "rtsp_a_b-3", "camera0", "camera0-2", "rtsp_a_b-2-2"]


def test_files(image):
    for source in (image, str(image), image.parent, f"{image.parent}/*.png", [image], [str(image), image]):
        assert type(open_source(source, Loading())) is Files


def test_frames(monkeypatch):
    assert type(open_source(iter([IMAGE]), Loading())) is Frames
    assert type(open_source((IMAGE for _ in range(2)), Loading())) is Frames
    data = io.BytesIO()
    np.save(data, IMAGE)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data.getvalue())))
    assert [names for names, _, _ in open_source("-", Loading())] == [["stdin"]]


@pytest.mark.parametrize("source", [IMAGE, [IMAGE], [], torch.zeros(1, 3, 32, 32), 1.5])
def test_the_rest_is_for_ultralytics(source):
    found = open_source(source, Loading())
    assert found is source or (found == source and found[0] is IMAGE)


def test_settings_reach_the_loaders(image):
    how = Loading(batch=4, channels=1, stride=3, buffer=True, patience=9.0, most=1)
    files = open_source(image, how)
    assert (files.bs, files.vid_stride, files.cv2_flag) == (4, 3, cv2.IMREAD_GRAYSCALE)
    streams = open_source([0, 1], how)
    rules = streams.readers[0]._rules
    assert (rules.keep, rules.stride, rules.patience, rules.channels) == (BUFFER, 3, 9.0, 1)
    assert streams._most == 1
    assert open_source(0, Loading()).readers[0]._rules.keep == 1


def test_screen(monkeypatch):
    class Screen:
        def __init__(self, source, channels):
            if source == "screen 7":
                raise IndexError("no such screen")
            if source == "screen 9":
                raise ModuleNotFoundError("No module named 'mss'")
            if source == "screen 8":
                raise Exception("no display")

    monkeypatch.setattr(sources, "LoadScreenshots", Screen)
    assert open_source("screen", Loading()).source_type.screenshot
    with pytest.raises(OSError, match="source=screen 8: there is no screen to capture: no display"):
        open_source("screen 8", Loading())
    with pytest.raises(IndexError):
        open_source("screen 7", Loading())
    with pytest.raises(ImportError, match=r"source=screen 9 needs mss: pip install 'yolo-uncert\[screen\]'"):
        open_source("screen 9", Loading())


def test_names_are_names_of_files():
    assert stream_name("rtsp://a:b@c/d?e=f#g") == "rtsp_c_d"
    assert stream_name("rtsp://admin:p@SECRET@10.0.0.5/ch1") == "rtsp_10_0_0_5_ch1"
    assert stream_name("http://h/v?x=a@b") == "http_h_v"
    assert stream_name("http://h/a@b") == "http_h_a_b"
    assert stream_name("../../x/y.mp4") == "x_y_mp4"
    assert stream_name("://") == "stream"
