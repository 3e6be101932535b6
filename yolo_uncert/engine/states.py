"""What a YOLO object is for the length of one call, and no longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

from ultralytics.nn.tasks import DetectionModel, OBBModel
from ultralytics.utils import LOGGER

from yolo_uncert.engine.calibration import calibration_of
from yolo_uncert.nn.models import MODELS
from yolo_uncert.paths import is_shipped
from yolo_uncert.run_options import RunOptions

_LOCKS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""A lock for each YOLO object; as its attribute it would be in the way of copies and pickles."""


@contextmanager
def alone(yolo: Any) -> Iterator[None]:
    """Let one thread at a time change what a YOLO object is; the calls that this thread makes meanwhile go on."""
    with _LOCKS.setdefault(yolo, RLock()):
        yield


def is_stock(model: Any) -> bool:
    """Return whether this is a stock detector, whose DFL distributions can be read."""
    return type(model) in (DetectionModel, OBBModel)


@contextmanager
def moments(yolo: Any, options: RunOptions) -> Iterator[None]:
    """Give a stock detector the DFL moments, if they are asked for or it was calibrated with them.

    Args:
        yolo: The YOLO object.
        options: ``sigma_source`` and ``calibrated``.
    """
    stock = yolo.model
    lend = lends_moments(stock, options)
    if lend != yolo._lent:
        yolo._lent, yolo.predictor = lend, None
        if lend:
            LOGGER.info("Reading standard deviations off the DFL distributions of this stock model")
    if not lend:
        yield
        return
    yolo.model = MODELS[yolo.task].from_stock(stock, {"dfl": {}})
    try:
        yield
    finally:
        yolo.model = stock


def lends_moments(model: Any, options: RunOptions) -> bool:
    """Return whether a stock detector is to be read by its DFL moments: asked for, or calibrated with them."""
    if not is_stock(model):
        return False
    calibration = calibration_of(model) if options.calibrated and options.sigma_source is None else None
    return (calibration.settings["sigma_source"] if calibration else options.sigma_source) == "dfl"


@contextmanager
def overridden(yolo: Any, options: dict[str, Any]) -> Iterator[None]:
    """Let a stock method find our options among the overrides, the one place it does not check them."""
    before = yolo.overrides
    yolo.overrides = {**before, **options}
    try:
        yield
    finally:
        yolo.overrides = before


@contextmanager
def own_place(yolo: Any) -> Iterator[None]:
    """Let an export of a shipped model write to the working directory, not into the package."""
    model, before = yolo.model, getattr(yolo.model, "pt_path", None)
    if before and is_shipped(before):
        model.pt_path = Path(before).name
    try:
        yield
    finally:
        if before:
            model.pt_path = before
