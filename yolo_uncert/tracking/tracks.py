"""Tracks that start from and are updated with detections of known covariance.

The covariance of an oriented box is that of (x, y, w, h); its angle is the detection's, which the trackers of
Ultralytics do not filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ultralytics.trackers.bot_sort import BOTrack
from ultralytics.trackers.byte_tracker import STrack

from yolo_uncert.functional.box_covariance import (
    CENTRE_TO_CORNERS,
    Floats,
    aspect_to_size,
    propagate,
    size_to_aspect,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class UncertTrack(STrack):
    """Track of ByteTrack.

    Attributes:
        noise: As a detection: its covariance in the space of the filter, Array[4, 4]; None when it is not known.
    """

    noise: Floats | None = None
    kalman_filter: Any

    @classmethod
    def of(cls, detection: Any, noise: Floats | None) -> Self:
        """Return a stock detection that knows its covariance of (x, y, w, h), Array[4, 4] in pixels squared."""
        # BoT-SORT makes its detections in a method that also encodes their appearance: they are taken over as they are.
        known = object.__new__(cls)
        known.__dict__.update(vars(detection))
        known.noise = None if noise is None else known.to_filter(noise)
        return known

    @property
    def measurement(self) -> Floats:
        """The detection that this track started from, in the space of the filter, Array[4]."""
        box: Floats = self.convert_coords(self._tlwh)
        return box

    def to_filter(self, covariance: Floats) -> Floats:
        """Turn a covariance of this detection's (x, y, w, h) into one in the space of the filter."""
        size = np.r_[self.measurement[:2], self._tlwh[2:]]
        return propagate(covariance, size_to_aspect(size[None])[0])

    def to_size(self) -> Floats:
        """Return the covariance of the track's (x, y, w, h), Array[4, 4] in pixels squared."""
        return propagate(self.covariance[:4, :4], aspect_to_size(self.mean[None, :4])[0])

    @property
    def box_covariance(self) -> Floats:
        """Covariance of the track's box, Array[4, 4] in pixels squared: x1, y1, x2, y2, or x, y, w, h if oriented."""
        covariance = self.to_size()
        return covariance if self.angle is not None else propagate(covariance, CENTRE_TO_CORNERS)

    def activate(self, kalman_filter: Any, frame_id: int) -> None:
        """Start a track with this detection and its covariance."""
        super().activate(kalman_filter.measuring(self.noise), frame_id)

    def update(self, new_track: Any, frame_id: int) -> None:
        """Correct the track by a detection, weighted by its covariance."""
        self.kalman_filter = self.kalman_filter.measuring(new_track.noise)
        super().update(new_track, frame_id)

    def re_activate(self, new_track: Any, frame_id: int, new_id: bool = False) -> None:
        """Correct a lost track by the detection that it was found again with."""
        self.kalman_filter = self.kalman_filter.measuring(new_track.noise)
        super().re_activate(new_track, frame_id, new_id)


class UncertBOTrack(UncertTrack, BOTrack):
    """Track of BoT-SORT, whose filter knows width and height themselves."""

    def to_filter(self, covariance: Floats) -> Floats:
        """Return the covariance: the filter has the same space."""
        return covariance

    def to_size(self) -> Floats:
        """Return the covariance of the track's (x, y, w, h), Array[4, 4] in pixels squared."""
        covariance: Floats = self.covariance[:4, :4]
        return covariance
