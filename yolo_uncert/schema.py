"""The one place that knows which channels a head adds behind the ``4 + nc`` of Ultralytics, and in which order.

A decoded prediction has the channels ``box (4), class scores (nc), extra fields, [angle]``. The angle of an oriented
box stays last, because Ultralytics reads it there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

FIELDS: dict[str, dict[str, int]] = {
    # field: channels for detect and for obb
    "gaussian": {"detect": 4, "obb": 7},  # std of l, t, r, b in pixels; obb: + std of the angle in rad, + offset x, y
    "dfl": {"detect": 4, "obb": 4},  # std of l, t, r, b in pixels from the DFL distribution
    "quality": {"detect": 1, "obb": 1},  # GFLv2 quality in [0, 1]
    "iou_aware": {"detect": 1, "obb": 1},  # predicted IoU in [0, 1]
}


@dataclass(frozen=True)
class Schema:
    """Order of the extra channels of one model.

    Attributes:
        task: ``detect`` or ``obb``.
        nc: Number of classes.
        names: Extra fields in channel order.
    """

    task: str
    nc: int
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: str, nc: int, names: Iterable[str]) -> Schema:
        """Return the schema with the given fields in canonical order.

        Raises:
            KeyError: A field is unknown.
        """
        wanted = set(names)
        if unknown := wanted - FIELDS.keys():
            raise KeyError(f"unknown output fields {sorted(unknown)}; known: {', '.join(FIELDS)}")
        return cls(task, nc, tuple(name for name in FIELDS if name in wanted))

    @property
    def channels(self) -> int:
        """Number of extra channels, the OBB angle not counted."""
        return sum(FIELDS[name][self.task] for name in self.names)

    def insert(self, decoded: torch.Tensor, extra: list[torch.Tensor]) -> torch.Tensor:
        """Put the extra fields behind the class scores of a stock decoded prediction.

        Args:
            decoded: Tensor[B, 4 + nc (+ 1), A] of the stock head.
            extra: One Tensor[B, C, A] per name of the schema, in its order.
        """
        if not extra:
            return decoded
        stock, angle = decoded.split((4 + self.nc, decoded.shape[1] - 4 - self.nc), 1)
        return torch.cat((stock, *extra, angle), 1)

    def split(self, extra: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cut extra channels into named fields.

        Args:
            extra: ``Tensor[..., C]``, the channels behind box and scores; an OBB angle at their end is left out.

        Returns:
            Field name to its channels, ``Tensor[..., c]``.
        """
        if not self.names:
            return {}
        sizes = [FIELDS[name][self.task] for name in self.names]
        return dict(zip(self.names, extra[..., : self.channels].split(sizes, -1), strict=True))
