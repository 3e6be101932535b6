from __future__ import annotations

import pytest

from yolo_uncert.streams.capture import is_remote, open_capture


@pytest.mark.parametrize(
    ("source", "expected"),
    [(0, False), ("a/b.mp4", False), ("C:/b.mp4", False), ("rtsp://a/b", True), ("pipe:0", True)],
)
def test_what_is_remote(source, expected):
    assert is_remote(source) is expected


def test_real_captures(clip, tmp_path, camera):
    assert open_capture(clip(tmp_path / "a.mp4")).read()[0]
    assert open_capture(camera().url).read()[0]
    assert not open_capture("http://127.0.0.1:9/").isOpened()
