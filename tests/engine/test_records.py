"""Records of an image, by hand."""

from __future__ import annotations

import numpy as np

from yolo_uncert.engine.records import image_record

TRUTH = {"bboxes": np.array([[0.0, 0, 10, 10], [20, 0, 30, 10]]), "cls": np.array([0.0, 1])}


def record(iou, cls):
    n = len(cls)
    found = {"bboxes": np.arange(4.0 * n).reshape(n, 4), "conf": np.linspace(0.9, 0.5, n), "cls": np.array(cls, float)}
    return image_record(found, TRUTH, np.array(iou, float).reshape(2, n), (40, 50), "a.jpg")


def test_small_overlaps_count_for_scores_and_not_for_sigma():
    # The first takes object 0; the second finds nothing left; the third overlaps object 1 by 0.3 only.
    stats, rows, targets = record([[0.8, 0.9, 0], [0, 0, 0.3]], [0, 0, 1])
    assert (rows.tolist(), targets.tolist()) == ([0], [0])
    assert stats["overlap"].tolist() == [0.8, 0, 0.3]
    assert stats["hit"].tolist() == [True, False, False]
    assert stats["matched"].tolist() == [[0, 1, 2, 3, 0.8, 0.9, 0]]
    assert stats["image"].tolist() == [[40, 50, 3, 2, 1]]
    assert stats["file"].tolist() == ["a.jpg"]


def test_classes_must_agree():
    stats, rows, _ = record([[0.8], [0.9]], [2])
    assert len(rows) == 0
    assert stats["overlap"].tolist() == [0]


def test_an_early_small_overlap_takes_an_object_only_from_the_scores():
    stats, rows, targets = record([[0.2, 0.9], [0, 0]], [0, 0])
    assert (rows.tolist(), targets.tolist()) == ([1], [0])
    assert stats["overlap"].tolist() == [0.2, 0]


def test_no_detections():
    stats, rows, _ = record(np.zeros((2, 0)), [])
    assert len(rows) == len(stats["overlap"]) == 0
    assert stats["matched"].shape == (0, 7)
    assert stats["image"].tolist() == [[40, 50, 0, 2, 0]]
