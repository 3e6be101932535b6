from __future__ import annotations

import logging
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose
from ultralytics.utils import LOGGER

from yolo_uncert.functional.boxes import UNKNOWN_ANGLE_STD
from yolo_uncert.report.sheet import DETECTION, OBJECT, normalised_error, sheet_plot

NAMES = {0: "cell", 1: "plate"}


@pytest.fixture
def warnings(caplog):
    """Messages of Ultralytics' logger, which does not hand them on."""
    LOGGER.addHandler(caplog.handler)
    caplog.set_level(logging.WARNING)
    yield caplog
    LOGGER.removeHandler(caplog.handler)


def captions(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def one_box(make_matches, oriented, **values):
    """A match with a known box, residual and sigma."""
    values = {name: np.array([value], dtype=float) for name, value in values.items()}
    return replace(make_matches(1, oriented), **values, conf=np.array([0.876]), cls=np.array([1]))


@pytest.mark.parametrize(("count", "rows", "oriented"), [(0, 1, False), (0, 1, True), (1, 1, True), (6, 2, False)])
def test_any_number_of_matches_makes_an_image(make_matches, tmp_path, oriented, count, rows, coarse):
    figure = sheet_plot(make_matches(count, oriented), NAMES, tmp_path / "sheet.png", worst=True)
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (int(coarse * (0.5 + 2.82 * rows)), 10 * coarse, 3)
    assert len(captions(figure)) == count
    assert ("no matched boxes" in [t.get_text() for t in figure.axes[0].texts]) == (count == 0)


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize("worst", [True, False])
def test_tiles_are_ordered_by_the_largest_normalised_error(make_matches, tmp_path, worst):
    matches = make_matches(30)
    error = np.sort((np.abs(matches.residual) / matches.sigma).max(1))
    figure = sheet_plot(matches, NAMES, tmp_path / "sheet.png", worst)
    shown = [float(text.split("= ")[1].split(" σ")[0]) for text in captions(figure)]
    assert_allclose(shown, (error[::-1] if worst else error)[:12], atol=0.051)
    assert figure.get_suptitle() == f"Matched boxes with the {'largest' if worst else 'smallest'} max |e| / σ"


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize(
    ("oriented", "values", "caption"),
    [
        (
            False,
            {"boxes": [40, 30, 80, 60], "residual": [1, -1, 6, 1], "sigma": [1, 1, 2, 1], "iou": 0.753},
            "plate 0.88, IoU 0.75\nx2 off by 6.0 px = 3.0 σ",
        ),
        (
            True,  # half a right angle
            {
                "boxes": [60, 60, 30, 20, 0],
                "residual": [1, 1, 1, 1, -np.pi / 4],
                "sigma": [1, 1, 1, 1, 0.1],
                "iou": 0.5,
            },
            "plate 0.88, IoU 0.50\nangle off by 45.0° = 7.9 σ",
        ),
        (
            True,
            {
                "boxes": [60, 60, 30, 20, 0],
                "residual": [0, 0, 0.1, 0, 1.5],
                "sigma": [1, 1, 1, 1, UNKNOWN_ANGLE_STD],
                "iou": np.nan,
            },
            "plate 0.88, IoU ?\nw off by 0.1 px = 0.1 σ",
        ),
    ],
)
def test_caption_names_the_coordinate_that_is_furthest_off(make_matches, tmp_path, oriented, values, caption):
    matches = one_box(make_matches, oriented, **values)
    assert captions(sheet_plot(matches, NAMES, tmp_path / "sheet.png", worst=True)) == [caption]


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize(
    ("oriented", "box", "residual", "detection", "truth"),
    [
        (False, (40, 30, 80, 60), (2, 1, -4, 3), (40, 30, 80, 60), (42, 31, 76, 63)),
        # centre 60, 45 and 40 x 30; the object is 4 wider, 2 lower and 1 to the right
        (True, (60, 45, 40, 30, 0), (1, 2, 4, 0, 0), (40, 30, 80, 60), (39, 32, 83, 62)),
        # a quarter turn exchanges width and height
        (True, (60, 45, 30, 40, np.pi / 2), (0, 0, 0, 0, -np.pi / 2), (40, 30, 80, 60), (45, 25, 75, 65)),
    ],
)
def test_outlines_are_detection_and_object(make_matches, tmp_path, oriented, box, residual, detection, truth):
    matches = one_box(make_matches, oriented, boxes=box, residual=residual, sigma=np.ones(len(box)))
    axes = sheet_plot(matches, NAMES, tmp_path / "sheet.png", worst=True).axes[0]
    for colour, corners in ((DETECTION, detection), (OBJECT, truth)):
        (outline,) = (p for p in axes.patches if p.get_edgecolor() == _rgba(colour))
        low, high = outline.get_xy().min(0), outline.get_xy().max(0)
        assert_allclose([*low, *high], corners, atol=1e-6)


def _rgba(colour):
    return (*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)), 1.0)


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize("oriented", [False, True])
def test_the_crop_is_the_image_around_the_box(make_matches, tmp_path, oriented):
    box = (60, 45, 40, 30, 0) if oriented else (40, 30, 80, 60)
    sigma = (1, 1, np.sqrt(32), np.sqrt(32), 0.1) if oriented else (4, 4, 4, 4)  # 4 pixels for every side
    matches = one_box(make_matches, oriented, boxes=box, residual=np.zeros(len(box)), sigma=sigma)
    image = np.zeros((120, 160, 3), np.uint8)
    image[30:60, 40:80] = (10, 200, 60)  # BGR
    cv2.imwrite(matches.files[matches.image[0]], image)
    axes = sheet_plot(matches, NAMES, tmp_path / "sheet.png", worst=True).axes[0]
    (shown,) = axes.images
    x0, x1, _, y0 = shown.get_extent()
    pixels = np.asarray(shown.get_array())
    scale = pixels.shape[1] / (x1 - x0)

    def colour(x, y):
        return pixels[round((y - y0) * scale), round((x - x0) * scale)].tolist()

    assert colour(60, 45) == [60, 200, 10], "RGB inside the object"
    assert colour(32, 45) == [0, 0, 0], "outside the band, which ends 4 pixels left of the box"
    assert colour(37, 45) == pytest.approx([0.4 * 255, 0.4 * 176, 0], abs=1), "band on black"
    assert colour(60, 63) == pytest.approx([0.4 * 255, 0.4 * 176, 0], abs=1), "band below the box"


@pytest.mark.parametrize(
    "values",
    [
        {"boxes": [0, 0, 160, 120], "sigma": [1e4] * 4},  # as large as the image, and knows nothing
        {"boxes": [159, 119, 160, 120], "sigma": [0] * 4},
        {"boxes": [50, 50, 50, 50], "sigma": [1e-9] * 4},
        {"boxes": [300, 300, 310, 310], "sigma": [1] * 4},  # outside
    ],
)
def test_strange_boxes_are_drawn_all_the_same(make_matches, tmp_path, values):
    matches = one_box(make_matches, False, **values, residual=[0.1, 0, 0, 0])
    assert len(captions(sheet_plot(matches, NAMES, tmp_path / "sheet.png", worst=True))) == 1


@pytest.mark.usefixtures("unwritten")
def test_unreadable_images_are_left_out_with_a_warning(make_matches, tmp_path, warnings):
    matches = replace(make_matches(6), image=np.array([0, 0, 1, 1, 2, 2]))
    missing, broken = tmp_path / "missing.png", tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    matches = replace(matches, files=(str(missing), str(broken), matches.files[2]))
    assert len(captions(sheet_plot(matches, NAMES, tmp_path / "sheet.png", worst=True))) == 2
    text = "\n".join(warnings.messages)
    assert "missing.png" in text
    assert "broken.png" in text
    figure = sheet_plot(matches.take(np.arange(4)), NAMES, tmp_path / "sheet.png", worst=True)
    assert [t.get_text() for t in figure.axes[0].texts] == ["no images"]


def test_names_are_shown_as_they_are(make_matches, tmp_path):
    matches = replace(make_matches(3), cls=np.array([0, 1, 7]))
    names = {0: "$x^$ \\frac", 1: "extraordinarily long class name"}
    shown = {text.split(" 0.")[0] for text in captions(sheet_plot(matches, names, tmp_path / "sheet.png", worst=True))}
    assert shown == {"$x^$ \\frac", "extraordinarily lon…", "7"}


def test_normalised_error_of_a_sigma_of_zero_is_finite(make_matches):
    matches = make_matches(5)
    assert np.isfinite(normalised_error(replace(matches, sigma=0 * matches.sigma))).all()
