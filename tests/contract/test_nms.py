"""``non_max_suppression``: layout of rows, number of classes, kept indices, end-to-end rows, rotated boxes."""

from __future__ import annotations

import math

import pytest
import torch
from ultralytics.utils.nms import non_max_suppression

pytestmark = pytest.mark.seam("engine/postprocess.py")

OURS = {"iou_thres": 0.5, "agnostic": False, "max_det": 10, "max_time_img": 1e9, "return_idxs": True}


def prediction(*anchors):
    """Tensor[1, C, A] from anchors given as lists of channels."""
    return torch.tensor(anchors).T[None].clone()


# Boxes xywh, two class scores, two further channels. The first two overlap with IoU 9 / 11.
BOXES = (
    [10.0, 10, 10, 10, 0.1, 0.8, 1.5, 2.5],
    [11.0, 10, 10, 10, 0.1, 0.9, 3.5, 4.5],
    [50.0, 50, 10, 10, 0.7, 0.2, 5.5, 6.5],
)


def test_rows_are_corners_score_class_and_further_channels():
    (rows,), (index,) = non_max_suppression(prediction(*BOXES), 0.25, nc=2, **OURS)
    assert rows.allclose(torch.tensor([[6, 5, 16, 15, 0.9, 1, 3.5, 4.5], [45, 45, 55, 55, 0.7, 0, 5.5, 6.5]]))
    assert index.tolist() == [1, 2], "the anchors that were kept"


def test_number_of_classes_has_to_be_given_or_further_channels_count_as_classes():
    (rows,), _ = non_max_suppression(prediction(*BOXES), 0.25, nc=0, **OURS)
    assert rows.shape[1] == 6
    assert rows[:, 5].max() > 1


def test_multi_label_gives_a_row_per_class_with_the_index_of_its_anchor():
    (rows,), (index,) = non_max_suppression(prediction(BOXES[2]), 0.1, nc=2, multi_label=True, **OURS)
    assert rows[:, 5].tolist() == [0, 1]
    assert index.tolist() == [0, 0]


def test_overlapping_boxes_of_two_classes_stay_unless_agnostic():
    other = [*BOXES[1][:4], 0.9, 0.1, 0, 0]
    for agnostic, kept in ((False, 2), (True, 1)):
        (rows,), _ = non_max_suppression(prediction(BOXES[0], other), 0.25, nc=2, **{**OURS, "agnostic": agnostic})
        assert len(rows) == kept


def test_classes_and_max_det_select():
    (rows,), _ = non_max_suppression(prediction(*BOXES), 0.25, nc=2, classes=[0], **OURS)
    assert rows[:, 5].tolist() == [0]
    (rows,), _ = non_max_suppression(prediction(*BOXES), 0.25, nc=2, **{**OURS, "max_det": 1})
    assert len(rows) == 1


def test_rotated_boxes_keep_their_form_and_their_angle_is_the_last_channel():
    # A 20 x 2 box and itself turned by a right angle barely overlap; read from another channel both would be the same.
    upright = [10.0, 10, 20, 2, 0.9, 0.1, 0.0, math.pi / 2]
    flat = [10.0, 10, 20, 2, 0.8, 0.1, 0.0, 0.0]
    (rows,), (index,) = non_max_suppression(prediction(upright, flat), 0.25, nc=2, rotated=True, **OURS)
    assert index.tolist() == [0, 1]
    assert rows[0].allclose(torch.tensor([10, 10, 20, 2, 0.9, 0, 0, math.pi / 2]))
    (rows,), _ = non_max_suppression(prediction(flat, flat), 0.25, nc=2, rotated=True, **OURS)
    assert len(rows) == 1


def test_nothing_above_the_threshold_gives_empty_rows_of_full_width():
    (rows,), (index,) = non_max_suppression(prediction(*BOXES), 0.99, nc=2, **OURS)
    assert rows.shape == (0, 8)
    assert index.view(-1).shape == (0,)


@pytest.mark.parametrize("extra", [0, 3])
def test_end_to_end_rows_are_only_filtered(extra):
    rows = torch.tensor([[[1.0, 2, 3, 4, 0.9, 1, *[7.0] * extra], [1, 2, 3, 4, 0.3, 0, *[8.0] * extra]]])
    (kept,), (index,) = non_max_suppression(rows, 0.5, nc=2, end2end=True, **OURS)
    assert kept.tolist() == rows[0, :1].tolist()
    assert index.tolist() == [0]
