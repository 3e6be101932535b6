"""The script that says where sigma is large: kinds of boxes and factors at the same size, by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from yolo_uncert.functional.records import Matches

SPEC = importlib.util.spec_from_file_location("where_sigma", Path(__file__).parents[1] / "experiments/where_sigma.py")
where_sigma = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(where_sigma)


def matches_of(boxes, files=("a",), image=None, sigma=None, residual=None, conf=None):
    boxes = np.asarray(boxes, float)
    count = len(boxes)
    return Matches(
        residual=np.ones_like(boxes) if residual is None else residual,
        sigma=np.ones_like(boxes) if sigma is None else sigma,
        boxes=boxes,
        iou=np.ones(count),
        conf=np.ones(count) if conf is None else np.asarray(conf),
        cls=np.zeros(count, int),
        image=np.zeros(count, int) if image is None else np.asarray(image),
        shapes=np.array([[100.0, 100.0]] * len(files)),
        files=tuple(files),
    )


def test_neighbours_are_of_the_same_image():
    # The first two share a half of each: IoU 50 / 150; the third is in another image.
    matches = matches_of([[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10]], ("a", "b"), [0, 0, 1])
    np.testing.assert_allclose(where_sigma.neighbours(matches), [1 / 3, 1 / 3, 0], atol=1e-6)


def test_oriented_boxes_are_compared_as_such():
    # Two crossing bars of 20 x 2: intersection 4, union 76.
    matches = matches_of([[50, 50, 20, 2, 0.0], [50, 50, 20, 2, np.pi / 2]])
    np.testing.assert_allclose(where_sigma.neighbours(matches), 4 / 76, rtol=1e-6)


def test_expected_is_the_mean_of_boxes_of_that_size():
    side = np.repeat([10.0, 40.0], 30)
    matches = matches_of(np.column_stack((side * 0, side * 0, side, side)))
    values = np.concatenate((np.tile([1.0, 3.0], 15), np.tile([5.0, 7.0], 15)))
    np.testing.assert_allclose(where_sigma.expected(values, matches), np.repeat([2.0, 6.0], 30))


def test_pictures_show_boxes_that_predict_shows_of_images_far_apart():
    files = tuple(f"flight/{i:02d}.jpg" for i in reversed(range(30)))
    image = np.array([29, 20, 19, 0, 5, 9])  # by name the places 0, 9, 10, 29, 24 and 20
    matches = matches_of([[0, 0, 10, 10]] * 6, files, image, conf=[0.9, 0.9, 0.9, 0.2, 0.25, 0.9])
    assert where_sigma.shown(np.array([0, 1, 2, 3, 4, 5]), matches) == [0, 2, 4]


@pytest.fixture
def picture(tmp_path):
    """A grey image whose left half holds a checkerboard."""
    image = np.full((100, 100, 3), 128, np.uint8)
    image[:, :50] = np.where(np.indices((100, 50)).sum(0) % 2, 255, 0)[..., None]
    cv2.imwrite(str(tmp_path / "a.png"), image)
    return str(tmp_path / "a.png")


def test_looks(picture):
    contrast, sharpness = where_sigma.looks(matches_of([[10, 10, 30, 30], [60, 10, 80, 30]], (picture,)))
    assert contrast == pytest.approx([127.5, 0])
    assert sharpness[0] > 100 > sharpness[1] == 0


def test_boxes_at_the_border_have_a_factor_of_their_own(picture):
    boxes = [[40.0, 40, 60, 60], [0.0, 40, 20, 60]] * 40
    sigma = np.array([[1.0] * 4, [3.0] * 4] * 40)
    residual = sigma * [1, -1, 1.1, 0.9]
    matches = matches_of(boxes, (picture,), sigma=sigma, residual=residual)
    found = where_sigma.rows_of(matches, {"a": {"light": "day"}})
    # All have the same size, so a sigma of 2 is expected.
    assert found["at the image border"] == pytest.approx((40, 3, 3, 1.5, 1.5, 0.75))
    assert found["inside"] == pytest.approx((40, 1, 1, 0.5, 0.5, 0.75))
    assert found["narrow sigma for class and size (lowest third)"] == found["inside"]
    assert "light: day" not in found, "one value of an attribute tells nothing"


def test_script(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(where_sigma, "FEWEST", 1)
    where_sigma.main(tiny.weights("detect"), str(tiny.data("detect")), "64", str(tmp_path / "out"))
    table = (tmp_path / "out" / "where-sigma.md").read_text()
    assert table in capsys.readouterr().out
    assert "| inside | " in table
    for name in ("where-sigma.png", "widest.jpg", "narrowest.jpg"):
        assert np.ptp(cv2.imread(str(tmp_path / "out" / name))) > 100


def test_figure_and_table():
    rows = {
        "at the border": where_sigma.Kind(40, 3, 3, 1.5, 1.4, 0.7),
        "inside": where_sigma.Kind(40, 1, 1, 0.9, 0.8, 0.6),
    }
    axes = Figure().subplots()
    where_sigma.draw(axes, rows)
    assert [bar.get_x() + bar.get_width() for bar in axes.patches] == pytest.approx([1.5, 0.9, 1.4, 0.8])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["at the border  (40)", "inside  (40)"]
    assert where_sigma.table(rows).splitlines()[-1] == "| inside | 40 | 1.00 | 1.00 | 0.90 | 0.80 | 0.60 |"
