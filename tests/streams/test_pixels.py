from __future__ import annotations

import cv2
import numpy as np
import pytest
from ultralytics.utils.patches import imread

from yolo_uncert.streams.overlay import draw_text
from yolo_uncert.streams.pixels import as_uint8


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 7, 255], np.uint8, [0, 7, 255]),
        ([0, 255, 256, 65535], np.uint16, [0, 0, 1, 255]),  # the high byte
        ([0.0, 0.5, 1.0, np.nan], np.float32, [0, 128, 255, 0]),
        ([-3.0, 0.6, 254.5, 300.0, np.inf], np.float64, [0, 1, 254, 255, 255]),  # halves go to the even neighbour
        ([False, True], np.bool_, [0, 255]),
        ([-5, 12, 999], np.int16, [0, 12, 255]),
        ([], np.float32, []),
    ],
)
def test_eight_bits(values, dtype, expected):
    image = np.array([values], dtype)
    before = image.copy()
    out = as_uint8(image)
    assert (out.dtype, out.tolist()) == (np.uint8, [expected])
    assert np.array_equal(image, before, equal_nan=dtype in (np.float32, np.float64))


def test_sixteen_bits_become_what_ultralytics_trains_with(tmp_path):
    image = np.random.default_rng(0).integers(0, 65536, (4, 5, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    assert np.array_equal(imread(tmp_path / "a.png"), as_uint8(image))


@pytest.mark.parametrize("shape", [(48, 64), (1080, 1920), (1, 1), (5, 200), (480, 20), (480, 200)])
def test_text_stays_inside_its_corner(shape):
    image = np.full((*shape, 3), 200, np.uint8)
    draw_text(image, "24.9 fps  latency p50 41 ms  p95 60 ms")
    changed = np.argwhere((image != 200).any(2))
    assert (changed.max(0)[0], changed.min(0)[1]) == (shape[0] - 1, 0)
    if shape[0] > 100 and shape[1] > 100:
        assert changed.min(0)[0] > shape[0] * 0.9
        assert (image == 255).any(), "the letters"
        assert changed.max(0)[1] < shape[1] - 1, "the end of the line"
