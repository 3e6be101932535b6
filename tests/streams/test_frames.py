from __future__ import annotations

import io
import os
import threading

import numpy as np
import pytest
from PIL import Image

from yolo_uncert.streams.frames import Frames, npy_frames

FRAME = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def test_frames_are_asked_for_one_by_one():
    asked = []

    def camera():
        for k in range(3):
            asked.append(k)
            yield FRAME

    loader = iter(Frames(camera()))
    assert (loader.mode, loader.bs, len(loader), loader.source_type.stream) == ("stream", 1, 1, True)
    names, images, info = next(loader)
    assert (names, info, asked, loader.count) == (["frames"], [""], [0], 0)
    assert np.array_equal(images[0], FRAME)
    assert len(list(loader)) == 2


def test_frames_of_every_kind():
    grey, deep = FRAME[..., 0], FRAME.astype(np.uint16) * 257
    rgba = np.dstack((FRAME, FRAME[..., :1]))
    given = [FRAME, grey, rgba, deep, FRAME / 255.0, Image.fromarray(FRAME[..., ::-1].copy()), FRAME[:1, :1]]
    loaded = [images[0] for _, images, _ in Frames(given)]
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in loaded)
    for k in (0, 2, 3, 4, 5):
        assert np.array_equal(loaded[k], FRAME), k
    assert np.array_equal(loaded[1][..., 2], grey)
    assert [i.shape for _, (i,), _ in Frames([FRAME, grey], channels=1)] == [(48, 64, 1)] * 2


def test_what_is_no_image_is_reported_and_left_out(caplog):
    loader = Frames([FRAME, "text", np.zeros((0, 5, 3), np.uint8), np.zeros((2, 2, 2, 3), np.uint8), FRAME], name="tcp")
    assert len(list(loader)) == 2
    assert loader.skipped.keys() == {"tcp 1", "tcp 2", "tcp 3"}
    assert "tcp 1: Expected PIL/np.ndarray" in caplog.text
    assert "tcp 2: Expected a single (H, W, C) image, but got array of shape (0, 5, 3)" in caplog.text


def test_closing_lets_go_of_a_generator():
    released = []

    def camera():
        try:
            while True:
                yield FRAME
        finally:
            released.append(True)

    loader = iter(Frames(camera()))
    next(loader)
    loader.close()
    assert released
    Frames([FRAME]).close()


def saved(*arrays):
    out = io.BytesIO()
    for array in arrays:
        np.save(out, array)
    return out.getvalue()


def test_arrays_through_a_pipe():
    data = saved(FRAME, FRAME[..., 0], np.stack((FRAME, FRAME + 1)), np.asfortranarray(FRAME))
    receiver, sender = (os.fdopen(fd, mode) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True))

    def send():
        for part in range(0, len(data), 999):  # arrives in pieces
            sender.write(data[part : part + 999])
            sender.flush()
        sender.close()

    threading.Thread(target=send, daemon=True).start()
    with receiver:
        arrays = list(npy_frames(receiver))
    assert [a.shape for a in arrays] == [(48, 64, 3), (48, 64), (48, 64, 3), (48, 64, 3), (48, 64, 3)]
    assert np.array_equal(arrays[3], FRAME + 1)
    assert np.array_equal(arrays[4], FRAME)


def test_pipe_that_ends_early_or_carries_something_else(caplog):
    data = saved(FRAME, FRAME)
    assert len(list(npy_frames(io.BytesIO(data[:-7])))) == 1
    assert "ends in the middle of a frame" in caplog.text
    with pytest.raises(ValueError, match=r"frames must come as .npy arrays \(numpy.save\)"):
        list(npy_frames(io.BytesIO(b"RIFF" + bytes(500))))
    with pytest.raises(ValueError, match="pickle"):
        list(npy_frames(io.BytesIO(saved(np.array([{}], object)) + bytes(500))))
    assert list(npy_frames(io.BytesIO())) == []
