from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

from yolo_uncert.streams.video import VideoFile, set_rate


def frame(value, size=(64, 48)):
    return np.full((size[1], size[0], 3), value, np.uint8)


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (64, 47), (1, 1)])
@pytest.mark.parametrize("fps", [29.97, 25.0, 0.5, 23.976, 120.0])
def test_rate_and_size_are_kept(tmp_path, look, size, fps):
    video = VideoFile(tmp_path / "a.mp4", fps, size)
    for k in range(7):
        video.write(frame(30 * k, size))
    video.release()
    video.release()
    count, rate, seen = look(tmp_path / "a.avi")
    assert (count, seen) == (7, size)
    assert rate == pytest.approx(fps, rel=1e-4)


def test_time_that_passes_is_filled_with_the_frame_before(tmp_path, look):
    video = VideoFile(tmp_path / "a", 10.0, (64, 48))
    for captured, value in ((0.0, 50), (0.1, 100), (0.5, 200)):
        video.catch_up(captured)
        video.write(frame(value))
    video.release()
    capture = cv2.VideoCapture(str(tmp_path / "a.avi"))
    values = [int(capture.read()[1][0, 0, 0]) for _ in range(look(tmp_path / "a.avi")[0])]
    assert np.allclose(values, [50, 100, 100, 100, 100, 200], atol=3)


def test_frames_of_another_size_are_scaled_with_one_message(tmp_path, look, caplog):
    video = VideoFile(tmp_path / "a.avi", 25.0, (64, 48))
    for size in ((64, 48), (32, 24), (32, 24), (64, 48)):
        video.write(frame(9, size))
    video.release()
    assert look(tmp_path / "a.avi") == (4, 25.0, (64, 48))
    assert caplog.text.count("frames have become 32x24, they are scaled to 64x48") == 1


def test_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write the video .*a\.avi"):
        VideoFile(tmp_path / "file" / "a.avi", 25.0, (64, 48))


def test_other_files_are_left_as_they_are(tmp_path):
    file = tmp_path / "a.avi"
    file.write_bytes(b"RIFF" + bytes(200))
    set_rate(file, 12.5)
    assert file.read_bytes() == b"RIFF" + bytes(200)


@pytest.mark.parametrize("size", [(640, 480), (641, 479)])
def test_what_is_on_disk_can_be_read_while_the_file_is_unfinished(tmp_path, look, size):
    """As after a kill: nothing but what has been written through."""
    video = VideoFile(tmp_path / "a.avi", 25.0, size)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    for _ in range(30):
        video.write(noise)
    copy = shutil.copy(tmp_path / "a.avi", tmp_path / "copy.avi")
    assert look(copy)[0] >= 20
    video.release()
    assert look(tmp_path / "a.avi")[0] == 30
