"""Objects cut to windows, against shapely and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_uncert.dota.clipping import area, clip, visible_parts
from yolo_uncert.evaluation import corners

WINDOW = (100, 200, 200, 280)  # 100 x 80 pixels


def upright(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([[[x1, y1], [x2, y1], [x2, y2], [x1, y2]]], float)


def test_an_object_inside_keeps_its_corners():
    quad = np.array([[[110, 210], [150, 215], [148, 240], [112, 230]]], float)
    parts = visible_parts(quad, WINDOW)
    assert (parts.rows.tolist(), parts.share.tolist()) == ([0], [1.0])
    np.testing.assert_array_equal(parts.polygons, quad - (100, 200))  # its corners, in pixels of the window


# A box 100 px long that begins at x = 131 ends 31 px beyond the window's border at 200: 69 of 100 are inside.
@pytest.mark.parametrize(("begin", "share"), [(131, 0.69), (129, 0.71), (130, 0.70)])
def test_share_by_hand(begin, share):
    parts = visible_parts(upright(begin, 220, begin + 100, 230), WINDOW)
    assert parts.share[0] == pytest.approx(share, abs=1e-12)
    np.testing.assert_allclose(
        sorted(map(tuple, parts.polygons[0])),
        [(begin - 100, 20), (begin - 100, 30), (100, 20), (100, 30)],
        atol=1e-5,
    )


def test_a_corner_of_the_window_cuts_a_diamond_to_a_triangle():
    # |x - 200| + |y - 280| <= 20 around the window's last corner: a quarter of it is inside, the triangle (180, 280),
    # (200, 260), (200, 280). Its smallest rectangles have twice its area of 200: 20 x 20 along the legs, or sqrt(800)
    # along its long side by its height sqrt(200).
    diamond = np.array([[[180, 280], [200, 260], [220, 280], [200, 300]]], float)
    parts = visible_parts(diamond, WINDOW)
    assert parts.share[0] == pytest.approx(0.25)
    assert area(parts.polygons[0]) == pytest.approx(400, rel=1e-5)


@pytest.mark.parametrize(
    "quad",
    [
        upright(0, 0, 50, 50),  # far away
        upright(50, 220, 100, 240),  # shares the border alone
        upright(200, 220, 250, 240),
        np.array([[[110, 210], [150, 210], [150, 210], [110, 210]]]),  # no area, inside
        np.array([[[90, 210], [150, 230], [90, 210], [150, 230]]]),  # no area, across the border
        np.array([[[60, 240], [100, 170], [80, 170], [40, 240]]]),  # its upright extent reaches the border, it does not
    ],
)
def test_nothing_to_see(quad):
    parts = visible_parts(quad, WINDOW)
    assert [len(column) for column in parts] == [0, 0, 0]
    assert parts.polygons.shape == (0, 4, 2)


def test_no_objects():
    assert visible_parts(np.zeros((0, 4, 2)), WINDOW).polygons.shape == (0, 4, 2)


def test_crossed_corners_are_the_box_that_the_loader_sees():
    # The corners of the box 110..150 x 210..230 in a wrong order; half of it lies inside the window 100..130.
    crossed = np.array([[[110, 210], [150, 230], [150, 210], [110, 230]]], float)
    parts = visible_parts(crossed, (100, 200, 130, 280))
    assert parts.share[0] == pytest.approx(0.5)
    np.testing.assert_allclose(
        sorted(map(tuple, parts.polygons[0])), [(10, 10), (10, 30), (30, 10), (30, 30)], atol=1e-5
    )


def test_a_rectangle_that_no_loader_accepts_stands_upright():
    # A square of side 150 turned by 45 degrees around the window's centre (50, 40) reaches 106 px from it: the window's
    # corners (90 px away, by |x| + |y|) lie inside, so that all of the window is covered.
    covered = visible_parts(corners(np.array([[150, 240, 150, 150, np.pi / 4]])), WINDOW)
    np.testing.assert_allclose(
        sorted(map(tuple, covered.polygons[0])), [(0, 0), (0, 80), (100, 0), (100, 80)], atol=1e-4
    )
    # A bar along the window's diagonal, from beyond one corner to beyond the other: the smallest rectangle around what
    # is left of it reaches out of both corners, more than the window is wide.
    bar = corners(np.array([[150, 240, 200, 30, np.arctan2(80, 100)]]))
    parts = visible_parts(bar, WINDOW)
    assert (np.ptp(parts.polygons[0], axis=0) <= (100, 80)).all()
    assert (parts.polygons >= 0).all()


boxes = st.tuples(
    st.floats(60, 240), st.floats(160, 320), st.floats(1, 150), st.floats(1, 60), st.floats(-4, 4)
)  # around WINDOW


@settings(max_examples=200, deadline=None)
@given(box=boxes)
def test_shapely_agrees(box):
    quad = corners(np.array([box]))
    theirs = shapely.Polygon(quad[0]).intersection(shapely.box(*WINDOW))
    parts = visible_parts(quad, WINDOW)
    inside = clip(quad[0] - WINDOW[:2], np.array([100.0, 80.0]))
    assert (inside >= 0).all()
    assert (inside <= (100, 80)).all()
    share = parts.share[0] if len(parts.rows) else 0.0
    assert share == pytest.approx(theirs.area / shapely.Polygon(quad[0]).area, abs=1e-9)
    if share > 1e-3:
        ours = shapely.Polygon(parts.polygons[0] + WINDOW[:2])
        assert ours.buffer(1e-2).covers(theirs)
        if not (np.ptp(parts.polygons[0], axis=0) > (99, 79)).any():
            smallest = shapely.minimum_rotated_rectangle(theirs).area
            limits = smallest - 1e-2, max(smallest, theirs.envelope.area) + 1e-2
            assert share == 1 or limits[0] <= ours.area <= limits[1] * (1 + 1e-4)


@settings(max_examples=100, deadline=None)
@given(box=boxes)
def test_ultralytics_accepts_every_part(box):
    """Centre and size of the upright extent, divided by the window's, may not exceed 1 by more than 0.01."""
    size = np.array([100, 80])
    for polygon in visible_parts(corners(np.array([box])), WINDOW).polygons:
        low, high = polygon.min(0) / size, polygon.max(0) / size
        assert ((low + high) / 2 >= -1e-6).all()
        assert ((low + high) / 2 <= 1 + 1e-6).all()
        assert (high - low <= 1 + 1e-6).all()


def test_clip_leaves_its_input_and_keeps_what_touches():
    square = upright(0, 0, 10, 10)[0]
    before = square.copy()
    np.testing.assert_array_equal(clip(square, np.array([10.0, 10.0])), square)
    assert area(clip(square, np.array([4.0, 5.0]))) == 20
    np.testing.assert_array_equal(square, before)
    assert clip(square + 20, np.array([10.0, 10.0])).shape == (0, 2)
    assert area(np.zeros((0, 2))) == 0
