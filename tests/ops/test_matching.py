"""Matching of detections and objects, by hand and against a naive reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from yolo_uncert.ops import greedy_match

BACKENDS = ["numba", "torch"]


def naive(iou, threshold):
    """Straight from the definition."""
    taken, matched = set(), []
    for column in np.transpose(iou):
        choice = [(-o, i) for i, o in enumerate(column) if i not in taken and o >= threshold and o > 0]
        matched.append(min(choice)[1] if choice else -1)
        taken.add(matched[-1])
    return matched


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend) -> None:
    # The second detection overlaps object 0 most, which the first has taken; 0.4 of object 1 is left for it.
    iou = torch.tensor([[0.6, 0.9, 0.0], [0.0, 0.4, 0.3]])
    assert greedy_match(iou, 0.5, backend=backend).tolist() == [0, -1, -1]
    assert greedy_match(iou, 0.35, backend=backend).tolist() == [0, 1, -1]
    assert greedy_match(iou, 0.0, backend=backend).tolist() == [0, 1, -1]
    assert greedy_match(iou, 0.7, backend=backend).tolist() == [-1, 0, -1]


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    iou=arrays(float, st.tuples(st.integers(0, 5), st.integers(0, 8)), elements=st.sampled_from([0, 0.3, 0.5, 0.8, 1])),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
@settings(deadline=None, max_examples=60)
def test_equals_the_definition(backend, iou, threshold) -> None:
    before = iou.copy()
    assert greedy_match(iou, threshold, backend=backend).tolist() == naive(iou, threshold)
    assert np.array_equal(iou, before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_match(backend, shape) -> None:
    found = greedy_match(torch.zeros(shape), backend=backend)
    assert found.dtype == torch.int64
    assert found.tolist() == [-1] * shape[1]


def test_the_shape_is_checked() -> None:
    with pytest.raises(ValueError, match=r"iou must be \[T, N\]"):
        greedy_match(torch.zeros(3))
