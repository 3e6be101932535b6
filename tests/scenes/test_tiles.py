from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_uncert.options import OptionError
from yolo_uncert.scenes.tiles import Tile, seen_whole, starts, tile_rows, touches_inner


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (100, 40, 10, [0, 30, 60]),  # 60 + 40 = 100: the last one fits
        (101, 40, 10, [0, 30, 60, 61]),  # one pixel more needs a further tile, shifted inwards
        (40, 40, 10, [0]),
        (30, 40, 10, [0]),  # the scene is smaller
        (41, 40, 0, [0, 1]),
        (3, 1, 0, [0, 1, 2]),
    ],
)
def test_starts(length, tile, overlap, expected):
    assert starts(length, tile, overlap) == expected


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 40),
    st.floats(0, 0.99),
    st.integers(0, 89),
    st.integers(0, 89),
)
def test_every_pixel_and_every_small_object_is_in_a_tile(width, height, tile, share, x, y):
    overlap = int(tile * share)
    rows = tile_rows(width, height, tile, overlap)
    x, y = x % width, y % height
    assert {(t.x2 - t.x1, t.y2 - t.y1) for row in rows for t in row} == {(min(tile, width), min(tile, height))}
    # An object as large as the overlap, or one pixel, lies in one tile as a whole.
    side = max(overlap, 1)
    x2, y2 = min(x + side, width), min(y + side, height)
    assert any(t.x1 <= x and x2 <= t.x2 and t.y1 <= y and y2 <= t.y2 for row in rows for t in row)
    assert all(t.x1 >= 0 and t.x2 <= width and t.y1 >= 0 and t.y2 <= height for row in rows for t in row)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (10, 10), (10, -1)])
def test_numbers_out_of_range(tile, overlap):
    with pytest.raises(OptionError, match=f"not tile={tile}, overlap={overlap}"):
        starts(100, tile, overlap)
    with pytest.raises(OptionError, match="at least one pixel"):
        starts(0, 10, 0)


def test_only_inner_borders_count():
    # The scene is 100 x 100, the tile at its top left: left and top are the scene's own borders.
    tile, size = Tile(0, 0, 50, 50), (100, 100)
    boxes = np.array([[0, 0, 20, 20], [30, 10, 50, 20], [10, 30, 20, 47], [30, 10, 46, 20]])
    assert touches_inner(boxes, tile, size, edge=4).tolist() == [False, True, True, False]
    assert touches_inner(boxes, tile, (50, 50), edge=4).tolist() == [False] * 4


def test_seen_whole_means_within_one_tile_and_clear_of_its_borders():
    size, others = (100, 50), [Tile(30, 0, 80, 50)]
    boxes = np.array([[34, 0, 50, 50], [33, 0, 50, 20], [60, 0, 77, 20], [60, 0, 76, 20]])
    assert seen_whole(boxes, others, size, edge=4).tolist() == [True, False, False, True]
    assert seen_whole(boxes, [], size).tolist() == [False] * 4
