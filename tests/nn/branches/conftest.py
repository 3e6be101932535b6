"""A training step made by hand: every anchor is a positive with the boxes given."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yolo_uncert.losses.context import Assignment, LossContext
from yolo_uncert.nn.branches import BRANCHES
from yolo_uncert.nn.branches.base import HeadSpec, Places
from yolo_uncert.options import parse_options


@pytest.fixture
def make_context() -> Callable[..., LossContext]:
    """Build a context of one image from rows of P positives, in grid units."""

    def make(
        pred: torch.Tensor,
        target: torch.Tensor,
        *,
        labels: list[int] | None = None,
        stride: float = 8.0,
        epoch: int | None = None,
        **raw: torch.Tensor,
    ) -> LossContext:
        count, nc = len(pred), 3
        scores = torch.zeros(1, count, nc)
        scores[0, range(count), labels or [0] * count] = 1.0
        assignment = Assignment(
            pred_boxes=pred[None],
            anchors=torch.zeros(count, 2),
            target_boxes=target[None],
            target_scores=scores,
            normaliser=torch.tensor(float(max(count, 1))),
            positive=torch.ones(1, count, dtype=torch.bool),
            stride=torch.full((count, 1), stride),
        )
        preds = {"scores": torch.zeros(1, nc, count), **{k: v.t()[None] for k, v in raw.items()}}
        task = "obb" if pred.shape[1] == 5 else "detect"
        return LossContext(preds, assignment, task, SimpleNamespace(box=7.5, cls=0.5), epoch)

    return make


@pytest.fixture
def make_branch() -> Callable[..., Any]:
    """Build a branch with options for a head of one level."""

    def make(name: str, task: str = "detect", *, reg_max: int = 16, nc: int = 3, **options: Any) -> Any:
        cls = BRANCHES[name]
        spec = HeadSpec(task, nc, reg_max, (8,), (4,) if task == "obb" else (), 16, 12)
        return cls(parse_options(cls.options_class, options, name), spec)

    return make


@pytest.fixture
def places_of() -> Callable[..., Places]:
    """Build places in an image of 64 x 32 pixels from sides and anchors in pixels."""

    def make(
        sides: torch.Tensor, anchors: torch.Tensor, angle: torch.Tensor | None = None, stride: float = 4.0
    ) -> Places:
        strides = torch.full((1, 1, sides.shape[2]), stride)
        return Places(sides / stride, anchors[None] / stride, strides, angle, (64.0, 32.0))

    return make
