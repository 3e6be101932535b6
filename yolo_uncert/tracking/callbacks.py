"""Plug the trackers into a prediction: callbacks that run right after those of Ultralytics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ultralytics.trackers.track import register_tracker

from yolo_uncert.tracking.trackers import UncertByteTracker, with_uncertainty


def register(model: Any, persist: bool) -> None:
    """Register Ultralytics' callbacks of tracking, and ours behind them, once each.

    Ultralytics builds the stock tracker of a yaml, reads features for it and resets it between videos; ours replace it
    where the yaml has an ``uncertainty:`` section, and note the tracks' covariances.

    Args:
        model: Model whose ``callbacks`` its predictor uses.
        persist: As for ``YOLO.track``.
    """
    register_tracker(model, persist)
    for event, function in (("on_predict_start", replace), ("on_predict_postprocess_end", note)):
        if function not in model.callbacks[event]:
            model.add_callback(event, function)


def replace(predictor: Any) -> None:
    """Replace new stock trackers by ours, where their settings ask for it."""
    if predictor.args.mode == "track":
        predictor.trackers = [with_uncertainty(tracker) for tracker in predictor.trackers]


def note(predictor: Any) -> None:
    """Put the covariances of tracks on the results, as the field ``track_cov``."""
    if predictor.args.mode != "track" or not isinstance(predictor.trackers[0], UncertByteTracker):
        return
    is_stream = predictor.dataset.mode == "stream"
    for i, result in enumerate(predictor.results):
        covariances = predictor.trackers[i if is_stream else 0].frames.popleft()
        boxes = result.boxes if result.obb is None else result.obb
        if boxes.is_track and hasattr(boxes, "fields"):
            rows = np.array([covariances[int(track)] for track in boxes.id], dtype=np.float32)
            boxes.fields["track_cov"] = torch.as_tensor(rows, device=boxes.data.device)
