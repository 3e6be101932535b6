"""Which extra channels a prediction has, and where."""

from __future__ import annotations

import pytest
import torch

from yolo_uncert.schema import FIELDS, Schema


def test_fields_come_in_canonical_order_whatever_the_order_asked_for():
    schema = Schema.of("detect", 3, ["iou_aware", "quality", "gaussian", "dfl"])
    assert schema.names == ("gaussian", "dfl", "quality", "iou_aware")
    assert schema == Schema.of("detect", 3, iter(FIELDS))


def test_unknown_fields_are_named():
    with pytest.raises(KeyError, match=r"unknown output fields \['sigma'\]; known: gaussian, dfl"):
        Schema.of("detect", 3, ["sigma", "dfl"])


@pytest.mark.parametrize(
    ("task", "names", "channels"),
    [
        ("detect", (), 0),
        ("detect", ("gaussian",), 4),  # l, t, r, b
        ("obb", ("gaussian",), 7),  # l, t, r, b, angle, offset x and y
        ("detect", ("gaussian", "dfl", "quality", "iou_aware"), 10),  # 4 + 4 + 1 + 1
        ("obb", ("gaussian", "dfl", "quality", "iou_aware"), 13),  # 7 + 4 + 1 + 1
    ],
)
def test_channels(task, names, channels):
    assert Schema.of(task, 80, names).channels == channels


@pytest.mark.parametrize("task", ["detect", "obb"])
@pytest.mark.parametrize("names", [(), ("dfl",), ("quality", "gaussian"), tuple(FIELDS)])
def test_what_is_inserted_is_what_split_returns(task, names):
    schema = Schema.of(task, 3, names)
    angle = 1 if task == "obb" else 0
    stock = torch.rand(2, 4 + 3 + angle, 5)
    fields = {name: torch.rand(2, FIELDS[name][task], 5) for name in schema.names}
    y = schema.insert(stock, list(fields.values()))
    assert y.shape == (2, 7 + schema.channels + angle, 5)
    assert torch.equal(y[:, :7], stock[:, :7])
    back = schema.split(y[:, 7:].mT)
    assert list(back) == list(fields)
    assert all(torch.equal(back[name].mT, fields[name]) for name in fields)


def test_the_angle_stays_last():
    schema = Schema.of("obb", 1, ["iou_aware"])
    stock = torch.arange(6.0).view(1, 6, 1)  # box 0-3, score 4, angle 5
    assert schema.insert(stock, [torch.full((1, 1, 1), 9.0)]).flatten().tolist() == [0, 1, 2, 3, 4, 9, 5]


def test_split_leaves_an_angle_out():
    schema = Schema.of("obb", 1, ["quality", "iou_aware"])
    rows = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # quality, iou, angle
    fields = schema.split(rows)
    assert fields["quality"].tolist() == [[1.0], [4.0]]
    assert fields["iou_aware"].tolist() == [[2.0], [5.0]]


def test_nothing_to_insert_or_split():
    schema = Schema.of("obb", 2, [])
    stock = torch.rand(1, 7, 3)
    assert schema.insert(stock, []) is stock
    assert schema.split(stock[:, 6:].mT) == {}
