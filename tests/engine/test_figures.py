from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from yolo_uncert.engine.figures import GAP, contact_sheet, enlarge, noise_plot
from yolo_uncert.engine.results import UncertResults


def image(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def test_sheet_lays_out_row_by_row():
    sheet = contact_sheet([image(10, 20, i) for i in range(4)], columns=3)
    assert sheet.shape == (2 * 10 + 3 * GAP, 3 * 20 + 4 * GAP, 3)
    for i, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0)]):
        y, x = GAP + row * (10 + GAP), GAP + column * (20 + GAP)
        assert (sheet[y : y + 10, x : x + 20] == i).all()
    assert (sheet[:GAP] == 255).all()
    assert (sheet[GAP + 10 + GAP :, 2 * GAP + 20 :] == 255).all(), "what is left of the last row stays white"


def test_sheet_gives_every_image_the_room_of_the_largest():
    sheet = contact_sheet([image(10, 20, 1), image(30, 5, 2)], columns=2)
    assert sheet.shape == (30 + 2 * GAP, 2 * 20 + 3 * GAP, 3)
    assert (sheet[GAP : GAP + 10, GAP : GAP + 20] == 1).all()
    assert (sheet[GAP : GAP + 30, 2 * GAP + 20 : 2 * GAP + 25] == 2).all()
    assert (sheet == 1).sum() == 3 * 10 * 20, "nothing is cropped or covered"
    assert (sheet == 2).sum() == 3 * 30 * 5


def test_sheet_of_nothing_is_an_image_all_the_same():
    assert contact_sheet([]).shape == (1, 1, 3)


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_noise_plot_writes_an_image(tmp_path, count):
    rng = np.random.default_rng(0)
    known, predicted, size = rng.uniform(0.5, 5, (3, count)).tolist()
    noise_plot(known, predicted, size, tmp_path / "sigma.png")
    assert cv2.imread(str(tmp_path / "sigma.png")).std() > 0


def test_noise_plot_shows_every_object_on_equal_axes(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "close", shown.append)
    noise_plot([1.0, 2.0, 4.0], [2.0, 2.0, 2.0], [10.0, 20.0, 30.0], tmp_path / "sigma.png")
    (axes,) = shown[0].axes
    assert sorted(tuple(c.get_offsets().data[0]) for c in axes.collections) == [(1, 2), (2, 2), (4, 2)]
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlim()[0] < 1 < 4 < axes.get_xlim()[1]
    assert [t.get_text() for t in axes.get_legend().get_texts()][:3] == [
        "small objects",
        "medium objects",
        "large objects",
    ]


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_enlarged_result_has_larger_boxes_and_sigma(task):
    torch.manual_seed(0)
    data = torch.rand(2, 6 if task == "detect" else 7)
    fields = {"std": torch.rand(2, 4 if task == "detect" else 5), "iou": torch.rand(2)}
    kind = {"boxes": data} if task == "detect" else {"obb": data}
    result = UncertResults(image(10, 20, 7), "x.jpg", {0: "a"}, **kind, fields=fields)
    large = enlarge(result, 3)
    old, new = (r.boxes if r.obb is None else r.obb for r in (result, large))
    assert large.orig_img.shape == (30, 60, 3)
    assert new.orig_shape == (30, 60)
    assert_close(new.data[:, :4], 3 * old.data[:, :4])
    assert_close(new.data[:, 4:], old.data[:, 4:])
    assert_close(new.std[:, :4], 3 * old.std[:, :4])
    assert_close(new.std[:, 4:], old.std[:, 4:])
    assert_close(new.iou, old.iou)
    assert_close(old.data, data)
