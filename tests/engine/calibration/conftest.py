"""Calibrations that are made up, and checkpoints that carry them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from yolo_uncert.engine import calibration as module
from yolo_uncert.engine.calibration import Calibration
from yolo_uncert.engine.checkpoints import store_calibration
from yolo_uncert.functional.calibrators import Temperature
from yolo_uncert.functional.conformal import Conformal


@pytest.fixture
def calibration():
    """Function that makes a calibration: factors 2, 3, 4, ..., and scores 1 ... 19 of every coordinate."""

    def make(columns=4, conformal=False, **settings):
        scores = np.repeat(np.arange(1.0, 20)[:, None], columns, axis=1)
        return Calibration(
            method="conformal" if conformal else "temperature",
            level=0.9,
            scale=Temperature(np.arange(2.0, 2 + columns)),
            conformal=Conformal.fit(scores, np.ones_like(scores)) if conformal else None,
            settings={"sigma_source": "gaussian", "imgsz": 64, "end2end": False, "var_vote": False, **settings},
            origin={"data": "a.yaml", "split": "val", "boxes": 19, "images": 7, "target": "coverage"}
            | {"calibration_error": [0.1, 0.02], "date": "2030-01-01", "version": "1"},
        )

    return make


@pytest.fixture(autouse=True)
def _warn_again():
    module._warn_once.cache_clear()


@pytest.fixture
def weights(tiny, tmp_path):
    """Function that copies a trained checkpoint into the folder of the test."""
    return lambda kind: str(shutil.copy(tiny.weights(kind), tmp_path / f"{kind}.pt"))


@pytest.fixture
def marked(weights, calibration):
    """Function that returns a checkpoint with a made-up calibration."""

    def store(kind="detect", **given):
        file = weights(kind)
        store_calibration(file, file, calibration(5 if kind == "obb" else 4, **given).as_dict())
        return file

    return store
