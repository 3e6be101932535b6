"""Detected boxes that carry their uncertainty along: stock ``Boxes`` and ``OBB`` plus named per-box fields.

Shape shorthand: N boxes of one image. Pixels are those of the original image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from ultralytics.engine.results import OBB, BaseTensor, Boxes

from yolo_uncert.functional.conformal import Conformal, check_level, gaussian_quantile
from yolo_uncert.functional.residuals import SIGMA_MIN

if TYPE_CHECKING:
    from typing_extensions import Self

Array: TypeAlias = Tensor | npt.NDArray[Any]

TURNED = "turned"
"""Field for conformal intervals alone: 1 where w and h of an oriented box have changed places since it was detected."""

SAME_SCORE = 1e-6
"""Largest difference of score and class between a track and the detection it came from: float32 rounding."""


class _UncertTensor(BaseTensor):
    """Rows of a stock ``BaseTensor`` with further columns that are converted, moved and indexed together with them.

    Stock ``Boxes`` and ``OBB`` accept a fixed number of columns, so the fields live beside ``data``.

    Attributes:
        fields: Field name to Array[N, ...], of the same kind (torch or numpy) and on the same device as ``data``.
        conformal: Scores of a calibration set in units of ``std``, for conformal intervals.
    """

    coordinates: ClassVar[tuple[str, ...]]
    """Names of the columns of ``std``."""

    _columns: ClassVar[Mapping[str, tuple[int, ...]]]

    def __init__(
        self,
        data: Array,
        orig_shape: tuple[int, int],
        fields: Mapping[str, Array] | None = None,
        conformal: Conformal | None = None,
    ) -> None:
        super().__init__(data, orig_shape)
        self.conformal = conformal
        self.fields: dict[str, Array] = {name: _like(value, self.data) for name, value in (fields or {}).items()}
        for name, value in self.fields.items():
            want = (len(self), *self._columns.get(name, value.shape[1:]))
            if tuple(value.shape) != want:
                raise ValueError(f"field '{name}' has shape {tuple(value.shape)}, {len(self)} boxes need {want}")

    @property
    def std(self) -> Array | None:
        """Standard deviations of the box's coordinates, see the class; None when the model predicts none."""
        return self.fields.get("std")

    @property
    def stdn(self) -> Array | None:
        """``std`` relative to the image: x and w by its width, y and h by its height; an angle stays in radians."""
        height, width = self.orig_shape
        size = np.array([width, height, width, height, 1], dtype=np.float32)
        return None if self.std is None else self.std / _like(size[: self.std.shape[1]], self.data)

    @property
    def iou(self) -> Array | None:
        """Predicted IoU with the object, Array[N] in [0, 1]; None when the model has no such branch."""
        return self.fields.get("iou")

    @property
    def track_std(self) -> Array | None:
        """Standard deviations of the box that an uncertainty-aware tracker filtered, Array[N, 4] in pixels.

        They are those of (x1, y1, x2, y2), or of (x, y, w, h) of oriented boxes, and the diagonal of the covariance
        ``fields["track_cov"]``, Array[N, 4, 4]. ``std`` stays that of the detection. None without such a tracker.
        """
        covariance: Any = self.fields.get("track_cov")
        return None if covariance is None else covariance.diagonal(0, 1, 2) ** 0.5

    def interval(self, level: float = 0.9, boxwise: bool = False) -> Array | None:
        """Return intervals that hold the object's coordinates with a given probability.

        Conformal, and valid whatever the errors' distribution, where the model carries a conformal calibration;
        otherwise Gaussian, coordinate +- z * std.

        Args:
            level: Probability in (0, 1).
            boxwise: The probability is that of all coordinates of a box together, not of each by itself.

        Returns:
            Array[N, C, 2] of lower and upper bounds, coordinates and units those of ``std``; None without ``std``. NaN
            for a track without a detection of its own.

        Raises:
            ValueError: The level is not in (0, 1), or above the largest that the calibration set supports.
        """
        check_level(level)
        if self.std is None:
            return None
        count = self.std.shape[1]
        if self.conformal is None:
            reach = self.std * self._row(gaussian_quantile(level, count, boxwise))
        else:
            # The scores were measured with this floor, too.
            reach = self.std.clip(SIGMA_MIN) * self._quantiles(self._row(self.conformal.quantile(level, boxwise)))
        centre = self.data[:, :count]
        stack: Any = torch.stack if isinstance(self.data, Tensor) else np.stack
        return stack((centre - reach, centre + reach), -1)

    def _quantiles(self, row: Array) -> Array:
        """Return the quantiles of each box's coordinates, given one for each coordinate."""
        return row

    def _row(self, values: npt.NDArray[np.floating]) -> Array:
        """Return one value per coordinate in the kind and dtype of ``std``."""
        std: Any = self.std
        return std.new_tensor(values) if isinstance(std, Tensor) else values.astype(std.dtype)

    def cpu(self) -> Self:
        """Return a copy in CPU memory."""
        return self if isinstance(self.data, np.ndarray) else self._map(lambda rows: rows.cpu())

    def numpy(self) -> Self:
        """Return a copy as numpy arrays."""
        return self if isinstance(self.data, np.ndarray) else self._map(lambda rows: rows.cpu().numpy())

    def cuda(self) -> Self:
        """Return a copy on the GPU."""
        return self._map(lambda rows: torch.as_tensor(rows).cuda())

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return a copy as torch tensors with the device and dtype of ``torch.Tensor.to``."""
        return self._map(lambda rows: torch.as_tensor(rows).to(*args, **kwargs))

    def __getitem__(self, idx: Any) -> Self:
        single = self.data[idx].ndim == 1
        return self._map(lambda rows: rows[idx][None] if single else rows[idx])

    def adopt(self, boxes: BaseTensor) -> Self:
        """Return other boxes for the same rows, with the fields of these.

        This is the step after a tracker: it picks rows by detection index and then replaces their boxes by the filtered
        ones. The fields stay those of the detection. TrackTrack also tracks boxes that suppression had dropped; they
        have no row here, their index -1 picks the last one. Score and class are the detection's own in every tracker,
        so a track that differs there is such a box, and its fields become NaN: unknown.

        Args:
            boxes: Stock boxes of the same kind. With a different number of rows the fields are dropped.
        """
        if len(boxes) != len(self):
            return type(self)(boxes.data, boxes.orig_shape)
        adopted = type(self)(boxes.data, boxes.orig_shape, self.fields, self.conformal)
        if adopted.is_track:
            foreign = (abs(adopted.data[:, -2:] - _like(self.data[:, -2:], adopted.data)) > SAME_SCORE).any(1)
            adopted.fields = {name: _with_unknown(rows, foreign) for name, rows in adopted.fields.items()}
        return adopted

    def _map(self, function: Callable[[Any], Array]) -> Self:
        """Apply a function to the boxes and to every field."""
        fields = {name: function(rows) for name, rows in self.fields.items()}
        return type(self)(function(self.data), self.orig_shape, fields, self.conformal)


class UncertBoxes(_UncertTensor, Boxes):
    """Boxes of one image with their uncertainty.

    Known fields, all optional and of floating point: ``std`` Array[N, 4], standard deviations of (x1, y1, x2, y2) in
    pixels; ``iou`` Array[N], predicted IoU in [0, 1]; ``quality`` Array[N] in [0, 1]. Any other name takes N rows.

    Args:
        data: Array[N, 6 or 7] as in Ultralytics: x1, y1, x2, y2 in pixels, (track id), score, class.
        orig_shape: Height and width of the image.
        fields: Field name to Array[N, ...].
        conformal: Scores of a calibration set, see ``interval``.

    Raises:
        ValueError: A field does not have one row per box or the columns above.
    """

    coordinates = ("x1", "y1", "x2", "y2")
    _columns: ClassVar[Mapping[str, tuple[int, ...]]] = {"std": (4,), "iou": (), "quality": (), "track_cov": (4, 4)}

    @property
    def side_std(self) -> Array | None:
        """Standard deviations of the left, top, right and bottom side, Array[N, 4] in pixels."""
        return self.std


class UncertOBB(_UncertTensor, OBB):
    """Oriented boxes of one image with their uncertainty.

    Known fields, all optional and of floating point: ``std`` Array[N, 5], standard deviations of (x, y, w, h) in pixels
    and of the angle in radians; ``iou`` and ``quality`` as for :class:`UncertBoxes`; ``sides`` Array[N, 7] for voting,
    tracking and drawing: standard deviations of the distances l, t, r, b in pixels, along the box's own axes, and of
    the angle, then the offset (ox, oy) in pixels of the box centre from the anchor point, along the same axes. Any
    other name takes N rows.

    An angle of which nothing is known (only the DFL distribution of the sides was predicted) has the standard deviation
    of the uniform distribution over the half turn in which an oriented box repeats itself: pi / sqrt(12), see
    ``functional.boxes.UNKNOWN_ANGLE_STD``.

    Args:
        data: Array[N, 7 or 8] as in Ultralytics: x, y, w, h in pixels, angle in radians, (track id), score, class.
        orig_shape: Height and width of the image.
        fields: Field name to Array[N, ...].
        conformal: Scores of a calibration set, see ``interval``.

    Raises:
        ValueError: A field does not have one row per box or the columns above.
    """

    coordinates = ("x", "y", "w", "h", "angle")
    _columns: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "std": (5,),
        "sides": (7,),
        "iou": (),
        "quality": (),
        "track_cov": (4, 4),
    }

    @property
    def side_std(self) -> Array | None:
        """Standard deviations of the left, top, right and bottom side along the box axes, Array[N, 4] in pixels.

        Without the field ``sides`` opposite sides are taken as independent and equally uncertain: as w = l + r, the
        variance of w is then twice that of a side.
        """
        if "sides" in self.fields:
            return self.fields["sides"][:, :4]
        return None if self.std is None else self.std[:, [2, 3, 2, 3]] / math.sqrt(2)

    def _quantiles(self, row: Array) -> Array:
        """Exchange those of w and h where the box was turned by a quarter after it was detected."""
        turned: Any = self.fields.get(TURNED)
        if turned is None or not len(row):
            return row
        where: Any = torch.where if isinstance(self.data, Tensor) else np.where
        return where(turned[:, None] == 1, row[[0, 1, 3, 2, 4]], row)

    def adopt(self, boxes: BaseTensor) -> Self:
        """Return other boxes for the same rows, with the fields of these, which follow the new box axes.

        Ultralytics' trackers take the longer side for w, and continue the angle past the half turn at which the
        detector's range ends. The box is the same, its axes are turned by quarters: after one, the new left is the old
        top, w and h are exchanged, and so are the axes of the offset.
        """
        adopted = super().adopt(boxes)
        if not adopted.fields:
            return adopted
        quarters = ((adopted.data[:, 4] - _like(self.data[:, 4], adopted.data)) / (np.pi / 2)).round() % 4
        for name in adopted.fields.keys() & QUARTER_TURN.keys():
            rows: Any = _copy(adopted.fields[name])
            for turns in (1, 2, 3):
                if (where := quarters == turns).any():
                    order, signs = _turns(name, turns)
                    rows[where] = rows[where][:, order] * _like(signs, rows)
            adopted.fields[name] = rows
        before: Any = adopted.fields.get(TURNED, 0)
        if adopted.conformal is not None and (TURNED in adopted.fields or bool((quarters % 2 == 1).any())):
            adopted.fields[TURNED] = (quarters + before) % 2
        return adopted


BOXES: dict[str, type[UncertBoxes] | type[UncertOBB]] = {"detect": UncertBoxes, "obb": UncertOBB}
"""Boxes by task."""


QUARTER_TURN = {"std": [0, 1, 3, 2, 4], "sides": [1, 2, 3, 0, 4, 6, 5]}
"""Column that each column of a field becomes when the axes of an oriented box turn by a quarter."""


@cache
def _turns(name: str, quarters: int) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Return order and signs of the columns of a field after so many quarter turns of the box axes."""
    columns = np.arange(1, len(QUARTER_TURN[name]) + 1)
    for _ in range(quarters):
        columns = columns[QUARTER_TURN[name]]
        if name == "sides":
            columns[-1] *= -1  # what lay along the old w lies against the new h
    return [int(column) for column in abs(columns) - 1], np.sign(columns).astype(np.float32)


def _like(value: Array, data: Array) -> Array:
    """Convert an array to the kind (torch on a device, or numpy) of another, keeping its dtype."""
    if isinstance(data, Tensor):
        return torch.as_tensor(value, device=data.device)
    return value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _copy(rows: Array) -> Array:
    return rows.clone() if isinstance(rows, Tensor) else rows.copy()


def _with_unknown(rows: Array, where: Array) -> Array:
    """Return a copy with NaN in the rows of a mask."""
    rows = _copy(rows)
    rows[where] = float("nan")
    return rows
