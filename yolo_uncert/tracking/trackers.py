"""ByteTrack and BoT-SORT of Ultralytics with the standard deviations of detections.

Shape shorthand: T tracks, D detections.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

import numpy as np
from ultralytics.trackers.bot_sort import BOTSORT
from ultralytics.trackers.byte_tracker import BYTETracker
from ultralytics.trackers.utils import matching
from ultralytics.utils import LOGGER

from yolo_uncert.functional.box_covariance import Floats
from yolo_uncert.tracking.kalman import MeasuredXYAH, MeasuredXYWH
from yolo_uncert.tracking.noise import detection_covariance
from yolo_uncert.tracking.options import tracker_options
from yolo_uncert.tracking.tracks import UncertBOTrack, UncertTrack

SHARPNESS, FAR = 1 / 8, 64.0
"""Power of the likelihood ratio in closeness, and the squared distance from which on closeness is practically 0."""


class UncertByteTracker(BYTETracker):
    """ByteTrack whose filter takes each detection's own covariance as measurement noise.

    Args:
        args: Settings of the tracker: those of Ultralytics, and ``uncertainty`` with those of :class:`TrackerOptions`.
    """

    track_kind: ClassVar[type[UncertTrack]] = UncertTrack
    filter_kind: ClassVar[type[MeasuredXYAH] | type[MeasuredXYWH]] = MeasuredXYAH

    def __init__(self, args: Any) -> None:
        self.options = tracker_options(args.uncertainty)
        self.frames: deque[dict[int, Floats]] = deque(maxlen=1024)
        """Covariances of the tracks that each ``update`` returned, by track id, until someone takes them."""
        self._warned = False
        super().__init__(args)

    def update(self, *args: Any, **kwargs: Any) -> Floats:
        """Follow the objects into the next frame; returns the rows that Ultralytics returns."""
        rows: Floats = super().update(*args, **kwargs)
        self.frames.append({t.track_id: t.box_covariance for t in self.tracked_stracks if t.is_activated})
        return rows

    def get_kalmanfilter(self) -> Any:
        """Return the filter that new tracks start with."""
        return self.filter_kind(self.options.process)

    def init_track(self, results: Any, img: Any = None) -> list[Any]:
        """Return detections with their covariances."""
        detections = super().init_track(results, img)
        if not detections:
            return detections
        noise = detection_covariance(results, self.options.floor)
        if noise is None:
            self._warn()
            return [self.track_kind.of(detection, None) for detection in detections]
        return [
            self.track_kind.of(d, _aligned(n, d, box))
            for d, n, box in zip(detections, noise, results.data, strict=True)
        ]

    def multi_predict(self, tracks: list[Any]) -> None:
        """Move all tracks on by one frame."""
        if not tracks:
            return
        change = self.kalman_filter.process_change(np.array([track.mean for track in tracks]))
        super().multi_predict(tracks)  # with a stock filter of the class
        for track, less in zip(tracks, change, strict=True):
            track.covariance = track.covariance + less

    def get_dists(self, tracks: list[Any], detections: list[Any]) -> Floats:
        """Return the costs Array[T, D] of matching, in [0, 1].

        ``association: fused`` takes the mean of IoU and :func:`closeness` where that is more than the IoU. So an
        uncertain detection may lie farther from its track, and a sigma too small takes nothing away from the IoU.
        """
        costs: Floats = super().get_dists(tracks, detections)
        if self.options.association == "iou" or not costs.size:
            return costs
        mixed = (matching.iou_distance(tracks, detections) + 1 - closeness(tracks, detections)) / 2
        if self.args.fuse_score:
            mixed = matching.fuse_score(mixed, detections)
        return np.minimum(costs, mixed)

    def _warn(self) -> None:
        if not self._warned:
            LOGGER.warning("This model predicts no standard deviations: tracking with the noise of Ultralytics")
        self._warned = True


class UncertBotSort(UncertByteTracker, BOTSORT):
    """BoT-SORT whose filter takes each detection's own covariance as measurement noise.

    Args:
        args: As for :class:`UncertByteTracker`.
    """

    track_kind: ClassVar[type[UncertTrack]] = UncertBOTrack
    filter_kind: ClassVar[type[MeasuredXYAH] | type[MeasuredXYWH]] = MeasuredXYWH


def with_uncertainty(tracker: Any) -> Any:
    """Return our tracker for a stock one whose settings have an ``uncertainty`` section, any other as it is."""
    kind = {BYTETracker: UncertByteTracker, BOTSORT: UncertBotSort}.get(type(tracker))
    return kind(tracker.args) if kind and hasattr(tracker.args, "uncertainty") else tracker


def closeness(tracks: list[Any], detections: list[Any]) -> Floats:
    """Return how likely each detection is under each track, over the most that it could be, Array[T, D] in [0, 1].

    ``(N(v; 0, S) / N(0; 0, R))^(1/8) = (|R| / |S|)^(1/16) exp(-d^2 / 16)`` with the innovation v, ``S = P + R`` and
    ``d^2 = v^T S^-1 v``. The power makes it as soft as an IoU: for a sharp track and 4 = E[d^2] it is 0.78. Without the
    determinants, vague tracks, lost ones above all, would take the detections of sharp ones. It is 0 for detections of
    unknown covariance.
    """
    result = np.zeros((len(tracks), len(detections)))
    known = [i for i, detection in enumerate(detections) if detection.noise is not None]
    if not known or not tracks:
        return result
    innovation = np.array([detections[i].measurement for i in known]) - np.array([t.mean[None, :4] for t in tracks])
    noise = np.array([detections[i].noise for i in known])
    total = np.array([t.covariance[None, :4, :4] for t in tracks]) + noise
    # Each v_k^2 / S_kk is a lower bound of d^2: the equations of the many pairs far apart need not be solved.
    near = (innovation**2 < FAR * np.diagonal(total, axis1=2, axis2=3)).all(-1)
    offset = innovation[near][..., None]
    squared = (offset * np.linalg.solve(total[near], offset)).sum((1, 2))
    ratio = np.linalg.slogdet(noise)[1][np.nonzero(near)[1]] - np.linalg.slogdet(total[near])[1]
    values = np.zeros(near.shape)
    values[near] = np.exp((ratio - squared) * SHARPNESS / 2)
    result[:, known] = values
    return result


def _aligned(covariance: Floats, detection: Any, box: Floats) -> Floats | None:
    """Return a covariance in the representation of the detection; None if it is not finite."""
    if not np.isfinite(covariance).all():
        return None
    if detection.angle is None or detection.angle == box[4]:
        return covariance
    swap = [0, 1, 3, 2]  # Ultralytics turned the box by a quarter, so that its width is the long side
    return covariance[np.ix_(swap, swap)]
