"""Results: number of columns, how results are copied, indexed and drawn."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from ultralytics.engine.results import OBB, BaseTensor, Boxes, Results
from ultralytics.utils.plotting import Annotator, colors

pytestmark = pytest.mark.seam("engine/results.py", "engine/boxes.py")

IMAGE = np.zeros((20, 40, 3), dtype=np.uint8)
COLUMNS = {"boxes": 6, "obb": 7}


class Rows(BaseTensor):
    """A tensor of another kind in the place of boxes."""

    def __getitem__(self, idx):
        return type(self)(self.data[idx], self.orig_shape)


@pytest.mark.seam("engine/boxes.py")
@pytest.mark.parametrize(("cls", "columns"), [(Boxes, 6), (OBB, 7)])
def test_boxes_have_no_room_for_further_columns(cls, columns):
    for n in (columns, columns + 1):
        found = cls(torch.arange(float(n))[None], (20, 40))
        assert (found.conf.item(), found.cls.item()) == (n - 2, n - 1)
        assert found.is_track == (n > columns)
        assert found.orig_shape == (20, 40)
    with pytest.raises(AssertionError):
        cls(torch.zeros(1, columns + 2), (20, 40))


@pytest.mark.parametrize("key", COLUMNS)
def test_results_apply_every_conversion_to_what_stands_under_their_keys(key):
    class Own(Results):
        def new(self):
            fresh = type(self)(self.orig_img, self.path, self.names, speed=self.speed)
            fresh.save_dir = self.save_dir
            return fresh

    result = Own(IMAGE, "a.jpg", {0: "a"})
    setattr(result, key, Rows(torch.zeros(3, COLUMNS[key]), IMAGE.shape[:2]))
    assert key in result._keys
    for copied in (result.cpu(), result.numpy(), result.to("cpu"), result[[0, 2]], result[:0]):
        assert type(copied) is Own
        assert type(getattr(copied, key)) is Rows
    assert len(result[[0, 2]]) == 2
    assert len(result[:0]) == 0


@pytest.mark.parametrize("key", COLUMNS)
def test_update_replaces_boxes_by_stock_ones(key):
    result = Results(IMAGE, "a.jpg", {0: "a"})
    result.update(**{key: torch.zeros(2, COLUMNS[key])})
    found = getattr(result, key)
    assert type(found) is (Boxes if key == "boxes" else OBB)
    assert len(found) == 2


def test_summary_and_text_have_one_row_per_box_in_order(tmp_path):
    data = torch.tensor([[1.0, 2, 3, 4, 0.9, 0], [5, 6, 7, 8, 0.8, 1]])
    result = Results(IMAGE, "a.jpg", {0: "a", 1: "b"}, boxes=data)
    assert [row["class"] for row in result.summary(False, 5)] == [0, 1]
    file = Path(result.save_txt(tmp_path / "a.txt", True))
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(line[0], len(line)) for line in lines] == [("0", 6), ("1", 6)]


@pytest.mark.seam("engine/results.py", "engine/plotting.py")
def test_plot_has_the_options_that_we_read():
    parameters = inspect.signature(Results.plot).parameters
    want = {"conf", "line_width", "font_size", "font", "pil", "img", "labels", "boxes", "color_mode"}
    assert want <= parameters.keys()
    assert all(parameters[name].default is not inspect.Parameter.empty for name in want)
    assert parameters["color_mode"].default == "class"


@pytest.mark.seam("engine/results.py", "engine/plotting.py")
def test_plot_without_boxes_returns_the_given_image():
    image = np.full((20, 40, 3), 7, dtype=np.uint8)
    result = Results(IMAGE, "a.jpg", {0: "a"}, boxes=torch.tensor([[1.0, 2, 30, 14, 0.9, 0]]))
    assert (result.plot(img=image, boxes=False) == image).all()
    assert (result.plot(img=image.copy()) != image).any()


@pytest.mark.seam("engine/plotting.py")
def test_annotator_has_the_sizes_that_we_adapt():
    annotator = Annotator(IMAGE.copy(), None, None, "Arial.ttf", False, example={0: "a"})
    assert not annotator.pil
    annotator.lw, annotator.sf, annotator.tf = 1, 0.3, 1
    annotator.box_label(np.array([5.0, 5, 30, 15]), "", (1, 2, 3))
    rows, columns = np.nonzero(annotator.result().any(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 15, 5, 30), "a line of one pixel"
    annotator.box_label(np.array([[10.0, 8], [20, 8], [20, 12], [10, 12]]), "", (4, 5, 6))
    assert (annotator.result()[8, 12:18] == (4, 5, 6)).all(), "four corners are drawn as a polygon"
    assert len(colors(0, True)) == 3
