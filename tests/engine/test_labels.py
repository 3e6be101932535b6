from __future__ import annotations

import cv2
import numpy as np
import pytest
from ultralytics.utils.plotting import Annotator

from yolo_uncert.engine.labels import MAX_LABELS, fit_text, place_labels, text_size


class TestFitText:
    texts = ("cell 0.87 +-2.3px",) * 3

    def annotator(self, pil=False):
        return Annotator(np.zeros((480, 640, 3), np.uint8), pil=pil)

    def width(self, annotator):
        return cv2.getTextSize(self.texts[0], 0, annotator.sf, annotator.tf)[0][0]

    def test_wide_boxes_keep_the_text(self):
        annotator = self.annotator()
        size = annotator.sf
        assert fit_text(annotator, self.texts, np.full(3, 600.0))
        assert annotator.sf == size

    def test_narrow_boxes_shrink_the_text_to_their_width(self):
        annotator = self.annotator()
        wanted = 0.7 * self.width(annotator)
        assert fit_text(annotator, self.texts, np.full(3, wanted))
        assert self.width(annotator) == pytest.approx(wanted, rel=0.08)  # glyph widths are whole pixels

    def test_tiny_boxes_have_none(self):
        assert not fit_text(self.annotator(), self.texts, np.full(3, 20.0))

    def test_crowds_have_none(self):
        n = MAX_LABELS + 1
        assert fit_text(self.annotator(), self.texts[:1] * (n - 1), np.full(n - 1, 600.0))
        assert not fit_text(self.annotator(), self.texts[:1] * n, np.full(n, 600.0))

    def test_pil_text_keeps_its_size(self):
        annotator = self.annotator(pil=True)
        width = annotator.font.getsize(self.texts[0])[0]
        assert fit_text(annotator, self.texts, np.full(3, width))
        assert not fit_text(annotator, self.texts, np.full(3, 0.9 * width))


@pytest.mark.parametrize("pil", [False, True])
def test_a_label_is_where_its_place_and_size_say(pil):
    image = np.zeros((100, 200, 3), np.uint8)
    annotator = Annotator(image, line_width=1, pil=pil)
    size = text_size(annotator, "cell 0.87")
    annotator.box_label(np.array([[60, 50], [60, 50]]), "cell 0.87", (255, 255, 255))
    y, x = np.nonzero(np.asarray(annotator.result()).any(2))
    found = (x.min(), y.min(), x.max() - x.min(), y.max() - y.min())
    np.testing.assert_allclose(found, (60, 50 - size[1], *size), atol=2)  # an antialiased edge, a line


class TestPlaceLabels:
    image = (200, 100)

    def corners(self, *xyxy):
        return np.array([[[x1, y1], [x1, y2], [x2, y1], [x2, y2]] for x1, y1, x2, y2 in xyxy], float)

    def fields(self, sizes, corners):
        low_left = place_labels(np.array(sizes), corners, self.image)
        return [(x, y - h, x + w, y) for (x, y), (w, h) in zip(low_left.tolist(), sizes, strict=True)]

    def test_alone_it_is_above_the_first_corner(self):
        assert self.fields([(40, 10)], self.corners((20, 30, 90, 80))) == [(20, 20, 60, 30)]

    def test_the_second_one_avoids_the_first(self):
        boxes = self.corners((20, 30, 90, 80), (25, 33, 100, 90))
        first, second = self.fields([(40, 10)] * 2, boxes)
        assert first == (20, 20, 60, 30)
        assert second == (25, 80, 65, 90), "above its lower left corner"

    def test_two_equal_boxes_have_labels_apart(self):
        fields = self.fields([(40, 10)] * 8, self.corners(*[(60, 30, 110, 80)] * 8))
        for i, a in enumerate(fields):
            for b in fields[:i]:
                assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])

    @pytest.mark.parametrize("box", [(-30, -20, 20, 20), (180, 90, 260, 140), (0, 0, 200, 100)])
    def test_it_is_inside_the_image(self, box):
        ((x1, y1, x2, y2),) = self.fields([(40, 10)], self.corners(box))
        assert x1 >= 0
        assert y1 >= 0
        assert x2 <= 200
        assert y2 <= 100

    def test_one_that_is_too_long_begins_at_the_edge(self):
        assert self.fields([(300, 10)], self.corners((20, 30, 90, 80))) == [(0, 20, 300, 30)]

    def test_no_boxes(self):
        assert place_labels(np.zeros((0, 2)), np.zeros((0, 4, 2)), self.image).shape == (0, 2)
