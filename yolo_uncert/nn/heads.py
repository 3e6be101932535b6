"""Detection heads: the stock heads of Ultralytics with uncertainty branches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultralytics.nn.modules.head import OBB, OBB26, Detect

from yolo_uncert.nn.branched import Branched


class UncertDetect(Branched):
    """Horizontal boxes with uncertainty branches.

    Decoded output: Tensor[B, 4 + nc + extra, A], with the extra channels of :class:`yolo_uncert.schema.Schema`.
    """

    def __init__(
        self,
        nc: int = 80,
        reg_max: int = 16,
        end2end: bool = False,
        ch: tuple[int, ...] = (),
        uncertainty: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the stock head and its branches; the arguments are those of Ultralytics' Detect, and the branches."""
        super().__init__(nc, reg_max, end2end, ch)
        self.attach(uncertainty or {})


class UncertOBB(Branched, OBB):
    """Oriented boxes with uncertainty branches; the angle stays the last channel."""

    task = "obb"

    def __init__(
        self,
        nc: int = 80,
        ne: int = 1,
        reg_max: int = 16,
        end2end: bool = False,
        ch: tuple[int, ...] = (),
        uncertainty: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the stock head and its branches; the arguments are those of Ultralytics' OBB, and the branches."""
        super().__init__(nc, ne, reg_max, end2end, ch)
        self.attach(uncertainty or {})


class UncertOBB26(UncertOBB, OBB26):
    """Oriented boxes of YOLO26, whose angle is a raw output, with uncertainty branches."""


STOCK_TO_UNCERT: dict[type[Detect], type[Branched]] = {Detect: UncertDetect, OBB: UncertOBB, OBB26: UncertOBB26}
"""Stock head to the head that carries branches on it."""
