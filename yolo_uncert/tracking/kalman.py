"""Kalman filters whose measurement noise is that of each detection.

State: a box and its velocity, 8 numbers; covariances in the units of the box (pixels; the aspect ratio has none).
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import numpy as np
from ultralytics.trackers.utils.kalman_filter import KalmanFilterXYAH, KalmanFilterXYWH

from yolo_uncert.functional.box_covariance import Floats

if TYPE_CHECKING:
    from typing_extensions import Self


class _MeasuredNoise(KalmanFilterXYAH):
    """Constant-velocity filter of Ultralytics, with the covariance ``R`` of the detection at hand.

    Ultralytics takes the same ``R``, a share of the box's size, for every detection. Here, with the predicted state
    ``(m, P)`` and the detection ``z``:

        S = P_box + R,    K = P[:, box] S^-1,    m' = m + K (z - m_box),    P' = P - K S K^T

    and a new track starts with ``P_box = R``. Without ``R`` the filter is Ultralytics', except for ``process``.

    Args:
        process: Standard deviation of the random motion of the box (not of its velocity) over that of Ultralytics. The
            latter, 1/20 of the box's size in every frame, is as large as its ``R`` and would drown the measured one.
    """

    noise: Floats | None = None

    def __init__(self, process: float = 1.0) -> None:
        super().__init__()
        self._process = np.repeat((process**2 - 1, 0.0), 4)

    def measuring(self, noise: Floats | None) -> Self:
        """Return this filter for a detection with the covariance ``noise``, Array[4, 4]; None: not known."""
        view = copy(self)
        view.noise = noise
        return view

    def initiate(self, measurement: Floats) -> tuple[Floats, Floats]:
        """Return mean Array[8] and covariance Array[8, 8] of a track that starts with this detection."""
        mean, covariance = super().initiate(measurement)
        if self.noise is not None:
            covariance[:4, :4] = self.noise
        return mean, covariance

    def predict(self, mean: Floats, covariance: Floats) -> tuple[Floats, Floats]:
        """Return mean and covariance one frame later."""
        change = self.process_change(mean[None])[0]
        mean, covariance = super().predict(mean, covariance)
        return mean, covariance + change

    def process_change(self, mean: Floats) -> Floats:
        """Return what ``process`` adds to the covariances after Ultralytics' prediction from means Array[N, 8]."""
        motion = super().multi_predict(mean, np.zeros((len(mean), 8, 8)))[1]
        change: Floats = motion * self._process
        return change

    def project(self, mean: Floats, covariance: Floats, confidence: float | None = None) -> tuple[Floats, Floats]:
        """Return the expected detection, Array[4], and the covariance ``S`` of its difference to the actual one."""
        if self.noise is None:
            return super().project(mean, covariance, confidence)
        return mean[:4].copy(), covariance[:4, :4] + self.noise

    def update(
        self, mean: Floats, covariance: Floats, measurement: Floats, confidence: float | None = None
    ) -> tuple[Floats, Floats]:
        """Return mean and covariance after a detection."""
        mean, covariance = super().update(mean, covariance, measurement, confidence)
        return mean, (covariance + covariance.T) / 2  # rounding would grow over a long track


class MeasuredXYAH(_MeasuredNoise):
    """Filter of (x, y, aspect ratio, height), that of ByteTrack."""


class MeasuredXYWH(_MeasuredNoise, KalmanFilterXYWH):
    """Filter of (x, y, width, height), that of BoT-SORT."""
