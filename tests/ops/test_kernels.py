"""The overlap of the numba kernel, read off the decay of pairs: one class per pair, linear decay by 1 - IoU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from yolo_uncert.ops import Suppression, rotated_iou, suppress

PAIRS = 3000


def kernel_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    boxes, classes = np.concatenate((first, second)), np.tile(np.arange(len(first)), 2)
    scores = np.repeat([1.0, 0.5], len(first))
    options = Suppression("soft-linear", iou_threshold=0.0, score_threshold=0.0, max_det=len(boxes))
    kept = suppress(boxes, scores, classes, None, options, backend="numba")
    decayed = np.empty(len(boxes))
    decayed[kept.index] = kept.scores
    return 1 - decayed[len(first) :] * 2


def random_boxes(rng: np.random.Generator, low: float, high: float, origin: float) -> np.ndarray:
    size = low * (high / low) ** rng.random((PAIRS, 2))
    return np.column_stack((origin + rng.random((PAIRS, 2)) * 50, size, rng.uniform(-7, 7, PAIRS)))


@pytest.mark.parametrize(("low", "high", "origin"), [(1, 40, 0), (1, 40, 1e4), (1e-3, 1e3, 0), (1e-3, 1e3, 1e4)])
def test_oriented_overlap_equals_shapely(naive, low, high, origin) -> None:
    rng = np.random.default_rng(0)
    first, second = (random_boxes(rng, low, high, origin) for _ in range(2))
    iou = kernel_iou(first, second)
    count = 300
    pairs = naive([*first[:count].tolist(), *second[:count].tolist()], [], [], None)
    expected = [pairs.oriented(i, i + count) for i in range(count)]
    assert np.count_nonzero(expected) > 30
    np.testing.assert_allclose(iou[:count], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(iou, rotated_iou(first, second), rtol=0, atol=1e-11)


def test_every_oriented_box_equals_itself_and_meets_no_box_without_area() -> None:
    boxes = random_boxes(np.random.default_rng(0), 1e-3, 1e3, 0)
    np.testing.assert_allclose(kernel_iou(boxes, boxes), 1, rtol=0, atol=1e-12)
    for sides in ((0, 3), (3, 0), (0, 0), (-3, 3), (-3, -3)):
        flat = boxes.copy()
        flat[:, 2:4] = sides
        assert not kernel_iou(boxes, flat).any()
        assert not kernel_iou(flat, flat).any()


def test_horizontal_overlap_equals_torchvision() -> None:
    rng = np.random.default_rng(0)
    corners = [rng.random((PAIRS, 2)) * 50 for _ in range(2)]
    first, second = (np.concatenate((c, c + rng.random((PAIRS, 2)) * 40), 1) for c in corners)
    expected = box_iou(torch.from_numpy(first), torch.from_numpy(second)).diagonal()
    np.testing.assert_allclose(kernel_iou(first, second), expected, rtol=0, atol=1e-12)
