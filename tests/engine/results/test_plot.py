from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from ultralytics.engine.results import Results

from yolo_uncert.engine.results import UncertResults

NAMES = {0: "cell", 1: "platelet"}
HEIGHT, WIDTH = 200, 400
QUIET = {"labels": False, "conf": False}


def changed(a, b):
    """Rows and columns of the pixels that differ."""
    return (np.asarray(a) != np.asarray(b)).any(-1)


@pytest.mark.parametrize("task", ["boxes", "obb"])
@pytest.mark.parametrize("options", [{}, {"labels": False}, {"pil": True}, {"line_width": 3, "conf": False}])
def test_without_fields_it_is_the_stock_picture(image, task, options, bare):
    ours, stock = bare(image, task=task).plot(**options), bare(image, Results, task).plot(**options)
    assert type(ours) is type(stock)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(stock))


def test_bands_off_is_the_stock_picture(image, make, oriented, bare):
    task = "obb" if make is oriented else "boxes"
    np.testing.assert_array_equal(make(image).plot(bands=False), bare(image, Results, task).plot())
    np.testing.assert_array_equal(make(image).plot(bands=False, labels=None), bare(image, Results, task).plot())


def test_boxes_off_and_nothing_found(image, detect):
    np.testing.assert_array_equal(detect(image).plot(boxes=False), image)
    np.testing.assert_array_equal(detect(image)[:0].plot(), image)
    np.testing.assert_array_equal(UncertResults(image, "a.jpg", NAMES).plot(), image)


def test_positional_arguments_are_those_of_upstream(image, detect):
    np.testing.assert_array_equal(
        detect(image).plot(False, 3, labels=False), detect(image).plot(conf=False, line_width=3, labels=False)
    )


def test_the_image_is_not_drawn_on(image, detect):
    before = image.copy()
    detect(image).plot()
    np.testing.assert_array_equal(image, before)


def test_bands_reach_one_sigma_from_the_side():
    std = torch.tensor([[4.0, 6, 8, 10]])
    grey = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    result = UncertResults(
        grey, "a.jpg", NAMES, boxes=torch.tensor([[100.0, 60, 300, 140, 0.9, 0]]), fields={"std": std}
    )
    marked = changed(result.plot(**QUIET), grey)
    rows, columns = np.flatnonzero(marked[:, 200]), np.flatnonzero(marked[100])
    # across x: 100 -+ 4 and 300 -+ 8; across y: 60 -+ 6 and 140 -+ 10; one pixel more at an edge is antialiasing
    np.testing.assert_allclose([columns[0], columns[-1] + 1], [96, 308], atol=1)
    np.testing.assert_allclose([rows[0], rows[-1] + 1], [54, 150], atol=1)
    np.testing.assert_allclose(columns[np.flatnonzero(np.diff(columns) > 1)] + 1, [104], atol=1)
    np.testing.assert_allclose(rows[np.flatnonzero(np.diff(rows) > 1)] + 1, [66], atol=1)


def test_lines_are_drawn_over_the_bands(bare, box_rows):
    grey = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    fields = {"std": torch.full((4, 4), 5.0)}
    result = UncertResults(grey, "a.jpg", NAMES, boxes=box_rows, fields=fields)
    stock = bare(grey, Results).plot(line_width=1, **QUIET)
    lines = changed(stock, grey)
    with_bands = result.plot(line_width=1, **QUIET)
    # a line in the middle of its band has nearly its full colour: antialiasing lets some of the band through
    np.testing.assert_allclose(with_bands[60:100, 40].astype(int), stock[60:100, 40], atol=8)
    assert changed(with_bands, grey)[lines].all()
    assert changed(with_bands, grey).sum() > 3 * lines.sum()


def test_oriented_bands_turn_with_the_box():
    grey = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)

    def plot(angle, **sigma):
        obb = torch.tensor([[200.0, 100, 80, 40, angle, 0.9, 0]])
        return UncertResults(grey, "a.jpg", NAMES, obb=obb, fields=sigma).plot(**QUIET)

    std = torch.tensor([[1.0, 1, 4 * math.sqrt(2), 8 * math.sqrt(2), 0.1]])
    flat = changed(plot(0.0, std=std), grey)
    turned = changed(plot(math.pi / 2, std=std), grey)
    # sides of sigma 4 (left, right) and 8 (top, bottom): 44 and 28 from the centre
    for marked, half_x, half_y in ((flat, 44, 28), (turned, 28, 44)):
        rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
        np.testing.assert_allclose([columns[0], columns[-1] + 1], [200 - half_x, 200 + half_x], atol=1.5)
        np.testing.assert_allclose([rows[0], rows[-1] + 1], [100 - half_y, 100 + half_y], atol=1.5)
    sides = torch.tensor([[4.0, 8, 4, 8, 0.1, 0, 0]])
    np.testing.assert_array_equal(plot(0.4, std=std), plot(0.4, std=torch.full((1, 5), 9.0), sides=sides))


def test_torch_and_numpy_results_look_the_same(image, detect, oriented):
    np.testing.assert_array_equal(detect(image).plot(), detect(image).numpy().plot())
    np.testing.assert_array_equal(oriented(image).plot(), oriented(image).numpy().plot())
    half = detect(image)
    half.boxes = half.boxes.to(torch.float16)
    assert half.plot().shape == image.shape


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 1), (HEIGHT, WIDTH, 2), (HEIGHT, WIDTH, 5)])
def test_other_numbers_of_channels(shape, detect):
    image = np.full(shape, 90, np.uint8)
    assert detect(image).plot().shape == (HEIGHT, WIDTH, 3)


def test_given_images(image, detect):
    other = np.zeros_like(image)
    on_other = detect(image).plot(img=other)
    np.testing.assert_array_equal(on_other, detect(other).plot())
    assert not other.any()
    tensor = torch.from_numpy(other.copy())
    np.testing.assert_array_equal(detect(image).plot(img=tensor), on_other)


def test_pil(image, detect):
    picture = detect(image).plot(pil=True)
    assert isinstance(picture, Image.Image)
    assert picture.size == (WIDTH, HEIGHT)
    assert changed(np.asarray(picture)[..., ::-1], image).any()


def test_names_that_opencv_cannot_write(image, box_fields, box_rows):
    result = UncertResults(image, "a.jpg", {0: "细胞", 1: "b"}, boxes=box_rows, fields=box_fields)
    assert result.plot().shape == image.shape


def test_saved_picture(image, tmp_path, detect):
    result = detect(image)
    file = result.save(str(tmp_path / "new" / "a.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(file))[..., ::-1], result.plot())


def test_automatic_labels(image, detect, box_rows):
    large, small = detect(image), detect(image)
    small.update(boxes=box_rows * torch.tensor([0.1, 0.1, 0.1, 0.1, 1, 1]))
    np.testing.assert_array_equal(small.plot(), small.plot(**QUIET))
    assert changed(small.plot(labels=True), small.plot()).any()
    assert changed(large.plot(), large.plot(**QUIET)).any()
    assert changed(large.plot(labels=False), large.plot(**QUIET)).any()


def test_crowds_have_no_labels(image, box_rows):
    boxes = box_rows[:1].repeat(41, 1)
    crowd = UncertResults(image, "a.jpg", NAMES, boxes=boxes, fields={"std": torch.ones(41, 4)})
    np.testing.assert_array_equal(crowd.plot(), crowd.plot(**QUIET))
    assert changed(crowd[:40].plot(), crowd.plot()).any()


def test_label_text(image, monkeypatch, detect, box_fields, box_rows):
    texts = []
    monkeypatch.setattr(
        "ultralytics.utils.plotting.Annotator.box_label",
        lambda self, box, label, color: texts.append(label) if label else None,  # without: the lines of a box
    )
    std = box_fields["std"].clone()
    std[1] = math.nan
    result = detect(image, std=std)
    result.plot(labels=True)
    # mean sigma of row 0: (1 + 1.25 + 1.5 + 1.75) / 4 = 1.375, and 3 and 2 more in the rows below
    assert [text.replace("+-", "±") for text in texts] == [
        "platelet 0.60 ±4.4px",
        "cell 0.70 ±3.4px",
        "platelet 0.80",
        "cell 0.90 ±1.4px",
    ]
    texts.clear()
    result.update(boxes=torch.cat((box_rows[:, :4], torch.arange(4)[:, None] + 5, box_rows[:, 4:]), 1))
    result[0].plot(labels=True, conf=False)
    assert texts[0].replace("+-", "±") == "id:5 cell ±1.4px"
    texts.clear()
    result[0].plot(labels=False)
    assert texts == ["0.90"]


def test_unknown_sigma_has_no_band(bare, box_rows):
    grey = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    fields = {"std": torch.full((4, 4), math.nan)}
    result = UncertResults(grey, "a.jpg", NAMES, boxes=box_rows, fields=fields)
    stock = bare(grey, Results).plot(line_width=1, **QUIET)
    np.testing.assert_array_equal(result.plot(line_width=1, **QUIET), stock)


@pytest.mark.parametrize("track", [False, True])
def test_colours_by_instance_are_those_of_upstream(track, box_rows):
    grey = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    data = (
        torch.cat((box_rows[:, :4], torch.tensor([[5.0], [9], [2], [14]]), box_rows[:, 4:]), 1) if track else box_rows
    )
    options = {"color_mode": "instance", "line_width": 1, **QUIET}
    unknown = {"std": torch.full((4, 4), math.nan)}  # lines only
    ours = UncertResults(grey, "a.jpg", NAMES, boxes=data, fields=unknown).plot(**options)
    np.testing.assert_array_equal(ours, Results(grey, "a.jpg", NAMES, boxes=data).plot(**options))


def test_colour_mode_is_checked_as_upstream(image, detect):
    with pytest.raises(AssertionError, match="color_mode"):
        detect(image).plot(color_mode="rainbow")
