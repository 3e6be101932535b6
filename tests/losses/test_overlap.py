"""Overlap of positives with their ground truth, against torchvision and Shapely."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from shapely import affinity
from shapely.geometry import box
from torchvision.ops import box_iou
from ultralytics.utils.metrics import probiou

from yolo_uncert.losses.context import Assignment, LossContext
from yolo_uncert.losses.overlap import positives_iou


def context_of(pred: torch.Tensor, target: torch.Tensor) -> LossContext:
    n, task = len(pred), "obb" if pred.shape[1] == 5 else "detect"
    assignment = Assignment(
        pred_boxes=pred[None],
        anchors=torch.zeros(n, 2),
        target_boxes=target[None],
        target_scores=torch.ones(1, n, 1),
        normaliser=torch.tensor(float(n)),
        positive=torch.ones(1, n, dtype=torch.bool),
        stride=torch.ones(n, 1),
    )
    return LossContext({"scores": torch.zeros(1, 1, n)}, assignment, task, SimpleNamespace())


def random_xyxy(n: int) -> torch.Tensor:
    top_left = torch.rand(n, 2) * 4
    return torch.cat((top_left, top_left + 0.5 + torch.rand(n, 2) * 4), 1)


def polygon(row: torch.Tensor):
    x, y, w, h, angle = row.tolist()
    return affinity.translate(affinity.rotate(box(-w / 2, -h / 2, w / 2, h / 2), math.degrees(angle)), x, y)


def test_horizontal_value_by_hand():
    pred, target = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]])
    # intersection 1 x 2, union 4 + 4 - 2
    assert positives_iou(context_of(pred, target)).item() == pytest.approx(1 / 3, rel=1e-6)


@pytest.mark.parametrize("differentiable", [False, True])
def test_horizontal_overlap_is_the_plain_iou(differentiable):
    pred, target = random_xyxy(50), random_xyxy(50)
    iou = positives_iou(context_of(pred, target), differentiable=differentiable)
    torch.testing.assert_close(iou, box_iou(pred, target).diagonal())


def test_oriented_overlap_is_the_exact_iou():
    pred, target = (
        torch.cat((torch.rand(50, 2) * 2, 0.5 + 2 * torch.rand(50, 2), 6 * torch.rand(50, 1)), 1) for _ in "pt"
    )
    iou = positives_iou(context_of(pred, target))
    expected = []
    for a, b in zip(pred, target, strict=True):
        a, b = polygon(a), polygon(b)
        expected.append(a.intersection(b).area / a.union(b).area)
    torch.testing.assert_close(iou, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_differentiable_oriented_overlap_is_prob_iou():
    pred = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.3]], requires_grad=True)
    target = torch.tensor([[0.5, 0.0, 4.0, 2.0, 0.1]])
    iou = positives_iou(context_of(pred, target), differentiable=True)
    assert torch.equal(iou, probiou(pred, target).squeeze(-1))
    iou.sum().backward()
    assert pred.grad.abs().min() > 0


@pytest.mark.parametrize("columns", [4, 5])
def test_only_the_differentiable_overlap_has_a_gradient(columns):
    pred = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.3]])[:, :columns].requires_grad_()
    target = torch.tensor([[0.5, 0.2, 4.0, 2.5, 0.1]])[:, :columns]
    context = context_of(pred, target)
    assert not positives_iou(context).requires_grad
    assert positives_iou(context, differentiable=True).requires_grad


@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("differentiable", [False, True])
def test_extremes_stay_in_range_with_finite_gradients(columns, differentiable):
    pred = torch.tensor(
        [[5.0, 5.0, 5.0, 5.0, 0.0], [1e4, 1e4, 2e4, 2e4, 1.0], [-1e4, 0.0, 1e4, 1e-3, 50.0], [1.0, 1.0, 2.0, 2.0, 0.0]]
    )[:, :columns].requires_grad_()
    target = torch.tensor([[1.0, 1.0, 2.0, 2.0, 0.0]]).expand(4, 5)[:, :columns]
    iou = positives_iou(context_of(pred, target), differentiable=differentiable)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert iou[3].item() == pytest.approx(1, abs=2e-3)
    if differentiable:
        iou.sum().backward()
        assert pred.grad.isfinite().all()


def test_no_positive():
    for columns in (4, 5):
        empty = torch.zeros(0, columns)
        assert positives_iou(context_of(empty, empty)).shape == (0,)
