"""Results of one image, with uncertainty and without, horizontal and oriented."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolo_uncert.engine.results import UncertResults

NAMES = {0: "cell", 1: "platelet"}


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (200, 400, 3), dtype=np.uint8)


@pytest.fixture
def box_rows():
    return torch.tensor(
        [
            [40.0, 40, 140, 120, 0.9, 0],
            [200, 50, 300, 150, 0.8, 1],
            [20, 130, 120, 190, 0.7, 0],
            [220, 60, 380, 170, 0.6, 1],
        ]
    )


@pytest.fixture
def obb_rows():
    return torch.tensor([[90.0, 80, 100, 60, 0.3, 0.9, 0], [250, 100, 100, 60, -0.6, 0.8, 1]])


@pytest.fixture
def box_fields():
    return {"std": torch.arange(16).reshape(4, 4) / 4 + 1, "iou": torch.tensor([0.95, 0.85, 0.75, 0.65])}


@pytest.fixture
def obb_fields():
    return {
        "std": torch.tensor([[2.0, 4, 6, 8, 0.1], [1, 2, 3, 4, 0.2]]),
        "sides": torch.tensor([[3.0, 4, 5, 6, 0.1, 1, -1], [2, 2, 2, 2, 0.2, 0, 0]]),
    }


@pytest.fixture
def detect(box_rows, box_fields):
    """Function that returns horizontal boxes on an image, with their uncertainty."""
    return lambda image, **fields: UncertResults(
        image, "a.jpg", NAMES, boxes=box_rows.clone(), fields=fields or box_fields
    )


@pytest.fixture
def oriented(obb_rows, obb_fields):
    """Function that returns oriented boxes on an image, with their uncertainty."""
    return lambda image, **fields: UncertResults(
        image, "a.jpg", NAMES, obb=obb_rows.clone(), fields=fields or obb_fields
    )


@pytest.fixture(params=["detect", "oriented"])
def make(request):
    """Either of the two."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def bare(box_rows, obb_rows):
    """Function that returns boxes without uncertainty, of our class or of Ultralytics'."""

    def of(image, cls=UncertResults, task="boxes"):
        return cls(image, "a.jpg", NAMES, **{task: (box_rows if task == "boxes" else obb_rows).clone()})

    return of
