from __future__ import annotations

import math

import numpy as np
import pytest
from shapely.geometry import Polygon
from ultralytics.utils.ops import xywhr2xyxyxyxy

from yolo_uncert.engine.plotting import EDGE, draw_bands, side_bands

RED = (0, 0, 255)
BLUE = (255, 0, 0)


def box(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


class TestSideBands:
    def test_axis_aligned_values(self):
        # box x 30..70, y 40..60; sigma of left, top, right, bottom 1, 2, 3, 4
        bands = side_bands(box(50, 50, 40, 20, 0), box(1, 2, 3, 4))
        extents = [(band[:, 0].min(), band[:, 1].min(), band[:, 0].max(), band[:, 1].max()) for band in bands[0]]
        # across the side: coordinate -+ sigma; along it: the box with its bands, x 29..73 and y 38..64
        want = [(29, 38, 31, 64), (29, 38, 73, 42), (67, 38, 73, 64), (29, 56, 73, 64)]
        np.testing.assert_allclose(extents, want)

    @pytest.mark.parametrize("angle", [0.3, -1.2, math.pi / 2, 3.0])
    def test_rotation_turns_the_axis_aligned_bands(self, angle):
        sigma = box(1, 2, 3, 4)
        flat = side_bands(box(50, 50, 40, 20, 0), sigma)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        np.testing.assert_allclose(
            side_bands(box(50, 50, 40, 20, angle), sigma), (flat - 50) @ turn.T + 50, rtol=0, atol=1e-4
        )

    def test_each_band_holds_its_side_in_the_middle(self):
        xywhr = box(40, 60, 30, 20, 0.7)
        right_bottom, right_top, left_top, left_bottom = xywhr2xyxyxyxy(xywhr)[0]
        ends = [(left_top, left_bottom), (left_top, right_top), (right_top, right_bottom), (left_bottom, right_bottom)]
        bands = side_bands(xywhr, box(2, 2, 2, 2))[0]
        for band, (a, b), length in zip(bands, ends, (20, 30, 20, 30), strict=True):
            np.testing.assert_allclose(band.mean(0), (a + b) / 2, atol=1e-4)
            # 2 sigma = 4 wide, reaching one sigma of the neighbours beyond both ends
            assert Polygon(band).area == pytest.approx(4 * (length + 4), rel=1e-5)

    def test_sigma_larger_than_the_box_gives_proper_rectangles(self):
        bands = side_bands(box(50, 50, 4, 4, 0), box(10, 10, 10, 10))[0]
        assert [Polygon(band).area for band in bands] == pytest.approx([20 * 24] * 4)

    def test_no_boxes(self):
        assert side_bands(np.zeros((0, 5)), np.zeros((0, 4))).shape == (0, 4, 4, 2)


class TestDrawBands:
    image = np.full((60, 80, 3), 100, np.uint8)

    def rectangle(self, x0, y0, x1, y1):
        return np.array([[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]], dtype=np.float64)

    def test_blends_inside_and_leaves_the_rest(self):
        before = self.image.copy()
        drawn = draw_bands(self.image, self.rectangle(20, 10, 40, 30)[None], [RED], alpha=0.4)
        # 100 + 0.4 (255 - 100) = 162 in red, 60 elsewhere
        assert (drawn[12:28, 22:38] == (60, 60, 162)).all()
        outside = np.ones((60, 80), bool)
        outside[9:31, 19:41] = False
        assert (drawn[outside] == 100).all()
        np.testing.assert_array_equal(self.image, before)

    @pytest.mark.parametrize("x0", [20, 20.25, 20.5, 20.9])
    def test_position_and_width_are_those_of_the_polygon_within_a_fraction_of_a_pixel(self, x0):
        polygon = self.rectangle(x0 + EDGE, 10, x0 + 6 - EDGE, 50)
        drawn = draw_bands(self.image, polygon[None], [RED], alpha=1.0)
        weight = (drawn[30, :, 2] - 100.0) / 155  # antialiased share of each pixel in a row
        assert weight.sum() == pytest.approx(6, abs=0.15)
        # pixel i reaches from coordinate i to i + 1
        assert (weight * (np.arange(80) + 0.5)).sum() / weight.sum() == pytest.approx(x0 + 3, abs=0.1)

    def test_overlap_does_not_add_up(self):
        one = draw_bands(self.image, self.rectangle(20, 10, 40, 30)[None], [RED])
        many = draw_bands(self.image, np.repeat(self.rectangle(20, 10, 40, 30)[None], 50, 0), [RED] * 50)
        np.testing.assert_allclose(many[12:28, 22:38], one[12:28, 22:38])

    def test_the_first_box_is_on_top(self):
        bands = np.repeat(self.rectangle(20, 10, 40, 30)[None], 2, 0)
        drawn = draw_bands(self.image, bands, [RED, BLUE], alpha=1.0)
        assert (drawn[20, 30] == RED).all()

    @pytest.mark.parametrize("far", [1e3, 1e12])
    def test_bands_beyond_the_image(self, far):
        everywhere = draw_bands(self.image, self.rectangle(-far, -far, far, far)[None], [RED], alpha=1.0)
        assert (everywhere == RED).all()
        nowhere = draw_bands(self.image, self.rectangle(far, 0, 2 * far, 10)[None], [RED], alpha=1.0)
        np.testing.assert_array_equal(nowhere, self.image)

    def test_no_boxes(self):
        drawn = draw_bands(self.image, np.zeros((0, 4, 4, 2)), [])
        np.testing.assert_array_equal(drawn, self.image)
        assert drawn is not self.image
