from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from yolo_uncert.engine.results import UncertResults

sv = pytest.importorskip("supervision")

IMAGE = np.zeros((100, 200, 3), np.uint8)
NAMES = {0: "disc", 1: "plate"}
STD = torch.tensor([[1.0, 2, 3, 4, 0.1], [5, 6, 7, 8, 0.2], [9, 10, 11, 12, 0.3]])
IOU = torch.tensor([0.9, 0.8, 0.7])


def make(kind, track=False, rows=3):
    number = torch.arange(3.0)
    tail = [*([number + 7] if track else []), 0.9 - number / 10, number % 2]
    box = [10 + number, 20 + number, 60 + number, 50 + number]
    if kind == "detect":
        data = torch.stack([*box, *tail], 1)[:rows]
        return UncertResults(IMAGE, "a.jpg", NAMES, data, fields={"std": STD[:rows, :4], "iou": IOU[:rows]})
    data = torch.stack([*box, number / 5, *tail], 1)[:rows]
    return UncertResults(IMAGE, "a.jpg", NAMES, obb=data, fields={"std": STD[:rows], "iou": IOU[:rows]})


KINDS = pytest.mark.parametrize("kind", ["detect", "obb"])


@KINDS
@pytest.mark.parametrize("track", [False, True])
@pytest.mark.parametrize("rows", [3, 0])
def test_stock_columns_are_those_that_supervision_makes_itself(kind, track, rows):
    ours = make(kind, track, rows).to_supervision()
    stock = sv.Detections.from_ultralytics(make(kind, track, rows))
    for name in ("xyxy", "confidence", "class_id", "tracker_id"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(stock, name), strict=True)
    for name, values in stock.data.items():
        np.testing.assert_array_equal(ours.data[name], values)
    assert ours.data.keys() - stock.data.keys() == {"std", "iou"}
    assert stock.data.keys() == {"class_name"} | ({"xyxyxyxy"} if kind == "obb" else set())
    assert all(len(values) == rows for values in ours.data.values())


@KINDS
def test_uncertainty_follows_filters_merges_and_copies(kind):
    detections = make(kind).to_supervision()
    columns = 5 if kind == "obb" else 4
    np.testing.assert_array_equal(detections["std"], STD[:, :columns])
    np.testing.assert_array_equal(detections[detections.class_id == 0]["std"], STD[[0, 2], :columns])
    np.testing.assert_array_equal(detections[[2, 0]]["iou"], IOU[[2, 0]])
    merged = sv.Detections.merge([detections, detections[1:]])
    np.testing.assert_array_equal(merged["std"], STD[[0, 1, 2, 1, 2], :columns])
    sure = detections[detections["std"][:, :4].mean(1) < 5]
    assert sure.class_id.tolist() == [0]


def test_a_tracker_of_supervision_keeps_them():
    detections = make("detect").to_supervision()
    smoothed = sv.DetectionsSmoother()
    tracked = make("detect", track=True).to_supervision()
    assert len(smoothed.update_with_detections(tracked)) == 3
    nms = detections.with_nms(threshold=0.5, class_agnostic=True)
    np.testing.assert_array_equal(nms["std"], STD[:1, :4])


def test_annotators_draw_them():
    labels = [f"{s.mean():.1f}" for s in make("detect").to_supervision()["std"]]
    drawn = sv.LabelAnnotator().annotate(IMAGE.copy(), make("detect").to_supervision(), labels=labels)
    assert drawn.any()
    assert sv.OrientedBoxAnnotator().annotate(IMAGE.copy(), make("obb").to_supervision()).any()


def test_numpy_results_and_results_without_uncertainty():
    np.testing.assert_array_equal(make("obb").numpy().to_supervision()["std"], STD)
    bare = UncertResults(IMAGE, "a.jpg", NAMES, make("detect").boxes.data).to_supervision()
    assert bare.data.keys() == {"class_name"}
    assert len(UncertResults(IMAGE, "a.jpg", NAMES).to_supervision()) == 0


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'yolo-uncert\[supervision\]'"):
        make("detect").to_supervision()
