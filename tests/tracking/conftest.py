from __future__ import annotations

import numpy as np
import pytest
from ultralytics.trackers.bot_sort import BOTSORT
from ultralytics.trackers.byte_tracker import BYTETracker
from ultralytics.utils import YAML, IterableSimpleNamespace

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.tracking.options import resolve_tracker
from yolo_uncert.tracking.trackers import with_uncertainty

STOCK = {"bytetrack": BYTETracker, "botsort": BOTSORT}
SHAPE = (480, 640)


@pytest.fixture
def detect():
    """Boxes (x1, y1, x2, y2) of one class as a detector hands them over; ``std`` Array[N, 4] or one number."""

    def build(boxes, std=None, score=0.9):
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        data = np.c_[boxes, np.full(len(boxes), score), np.zeros(len(boxes))].astype(np.float32)
        fields = {} if std is None else {"std": np.broadcast_to(np.asarray(std, np.float32), boxes.shape)}
        return UncertBoxes(data, SHAPE, fields)

    return build


@pytest.fixture
def orient():
    """Oriented boxes (x, y, w, h, angle) as a detector hands them over."""

    def build(boxes, std=None, sides=None, score=0.9):
        boxes = np.asarray(boxes, np.float32).reshape(-1, 5)
        data = np.c_[boxes, np.full(len(boxes), score), np.zeros(len(boxes))].astype(np.float32)
        fields = {"std": std, "sides": sides}
        given = {name: np.asarray(rows, np.float32) for name, rows in fields.items() if rows is not None}
        return UncertOBB(data, SHAPE, given)

    return build


@pytest.fixture(params=sorted(STOCK))
def base(request):
    return request.param


@pytest.fixture
def make(base):
    """Builder of our tracker, with options of its uncertainty section, or of the stock one (``ours=False``)."""

    def build(ours=True, **options):
        settings = YAML.load(resolve_tracker(f"{base}-uncert.yaml"))
        section = settings.pop("uncertainty")
        if base == "botsort":
            settings["gmc_method"] = "none"
        if not ours:
            return STOCK[base](IterableSimpleNamespace(**settings))
        settings["uncertainty"] = {**section, **options}
        return with_uncertainty(STOCK[base](IterableSimpleNamespace(**settings)))

    return build
