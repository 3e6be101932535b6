"""Candidates from scores, against Ultralytics' way of finding them in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolo_uncert.ops import above_threshold


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("threshold", [-1.0, 0.5, 0.97, 1.0])
def test_equals_torch(backend, threshold) -> None:
    scores = torch.rand(7, 300)
    scores[3, 5] = scores[4, 6] = torch.nan if backend == "numba" else -torch.inf
    scores[:, 9] = 0.98  # ties
    finite = scores.nan_to_num(-torch.inf)
    label, anchor = above_threshold(scores, threshold, backend=backend)
    best, first = finite.max(0)
    assert torch.equal(anchor, (best > threshold).nonzero()[:, 0])
    assert torch.equal(label, first[anchor])
    label, anchor = above_threshold(scores, threshold, multi_label=True, backend=backend)
    assert torch.equal(torch.stack((anchor, label), 1), (threshold < finite.T).nonzero())


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("multi_label", [True, False])
def test_types_layouts_and_no_anchor(backend, multi_label) -> None:
    scores = np.random.default_rng(0).random((300, 7))
    label, anchor = above_threshold(scores.T, 0.5, multi_label=multi_label, backend=backend)
    assert (type(label), label.dtype, anchor.dtype) == (np.ndarray, np.int64, np.int64)
    half = torch.from_numpy(scores.T).half().requires_grad_()
    assert above_threshold(half, 2.0, multi_label=multi_label, backend=backend)[0].shape == (0,)
    assert above_threshold(half[:, :0], 0.5, multi_label=multi_label, backend=backend)[1].shape == (0,)


@pytest.mark.parametrize("shape", [(0, 5), (5,), (1, 2, 3)])
def test_the_shape_is_checked(shape) -> None:
    with pytest.raises(ValueError, match=r"scores must be \[C, A\] with at least one class"):
        above_threshold(torch.zeros(shape), 0.5)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_nan_hides_no_other_class_of_its_anchor(backend):
    scores = np.array([[np.nan, 0.9, 0.2], [0.8, np.nan, 0.9]], np.float32)
    label, anchor = above_threshold(scores, 0.5, backend=backend)
    assert (label.tolist(), anchor.tolist()) == ([1, 0, 1], [0, 1, 2])
