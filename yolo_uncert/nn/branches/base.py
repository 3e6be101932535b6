"""What an uncertainty branch is: its modules, what it adds to the output, and its loss term."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import nn

from yolo_uncert.functional.dtypes import at_least_float32
from yolo_uncert.losses.context import Assignment, LossContext


@dataclass(frozen=True)
class HeadSpec:
    """What a branch needs to know of the stock head that it joins.

    Attributes:
        task: ``detect`` or ``obb``.
        nc: Number of classes.
        reg_max: DFL bins per side; 1 means that the head regresses distances directly.
        hidden: Channels of the box branch's hidden features, per level.
        angle_hidden: The same of the angle branch (obb), else empty.
        finest: Channels of the finest feature map that the head is given.
        finer: Channels of the backbone's map of twice that resolution, if the head is given it too, else 0.
    """

    task: str
    nc: int
    reg_max: int
    hidden: tuple[int, ...]
    angle_hidden: tuple[int, ...] = ()
    finest: int = 0
    finer: int = 0


@dataclass(frozen=True)
class Places:
    """Where the sides of the predicted boxes are, for a branch that looks there; nothing of it has a gradient.

    Attributes:
        sides: Tensor[B, 4, A] distances l, t, r, b from the anchor in the box's frame, in grid units.
        anchors: Tensor[1 or B, 2, A] in grid units.
        strides: Tensor[1 or B, 1, A] pixels per grid unit.
        angle: Tensor[B, 1, A] of oriented boxes in radians, else None.
        extent: Width and height of the image in pixels, numbers that tracing may know as tensors.
    """

    sides: torch.Tensor
    anchors: torch.Tensor
    strides: torch.Tensor
    angle: torch.Tensor | None
    extent: tuple[Any, Any]

    def take(self, index: torch.Tensor) -> Places:
        """Return the places of the anchors Tensor[B, K]."""
        rows = index[:, None]

        def taken(x: torch.Tensor) -> torch.Tensor:
            return x.expand(len(index), -1, -1).gather(2, rows.expand(-1, x.shape[1], -1))

        angle = None if self.angle is None else taken(self.angle)
        return Places(taken(self.sides), taken(self.anchors), taken(self.strides), angle, self.extent)


@dataclass(frozen=True)
class Borders:
    """What the border branch has seen.

    Attributes:
        seen: Tensor[B, C, K] features of the K anchors that were looked at.
        size: Tensor[B, 4, K] their boxes' extent across the sides l, t, r, b, in grid units.
        index: Tensor[B, K] their places among all anchors; None if all were.
        anchors: Number of all anchors.
    """

    seen: torch.Tensor
    size: torch.Tensor
    index: torch.Tensor | None = None
    anchors: int = 0

    def among_all(self, values: torch.Tensor) -> torch.Tensor:
        """Return values Tensor[B, C, K] of the anchors looked at as Tensor[B, C, A], 0 for the others."""
        if self.index is None:
            return values
        index = self.index[:, None].expand(-1, values.shape[1], -1)
        return values.new_zeros(len(values), values.shape[1], self.anchors).scatter(2, index, values)


@dataclass(frozen=True)
class Features:
    """What the stock head computed, per level.

    Attributes:
        hidden: Tensor[B, C, H, W] features before the last convolution of the box branch.
        boxes: Tensor[B, 4 * reg_max, H, W] output of the box branch.
        angle_hidden: Like hidden, of the angle branch (obb), else empty.
        angles: Tensor[B, 1, H, W] output of the angle branch (obb), else empty.
        around: Tensor[1, 9 * C, 1, N] what the taps of a 3x3 convolution see of hidden, channel by channel,
            at the N anchors that the head runs at; empty where it runs everywhere.
        borders: What the border branch has seen, if there is one.
        side_var: Tensor[B, 4, A] variances of the side distributions about their means, where they are known already.
    """

    hidden: list[torch.Tensor]
    boxes: list[torch.Tensor]
    angle_hidden: list[torch.Tensor] = field(default_factory=list)
    angles: list[torch.Tensor] = field(default_factory=list)
    around: list[torch.Tensor] = field(default_factory=list)
    borders: Borders | None = None
    side_var: torch.Tensor | None = None

    def apart(self) -> Features:
        """Return the same without a gradient to the detector, in float32 at least."""
        hidden, boxes, angle_hidden, angles = map(apart, (self.hidden, self.boxes, self.angle_hidden, self.angles))
        return replace(self, hidden=hidden, boxes=boxes, angle_hidden=angle_hidden, angles=angles)


@dataclass(frozen=True)
class Decoded:
    """The stock head's decoded output, for branches whose channels depend on it.

    Attributes:
        boxes: Tensor[B, 4, A] in pixels.
        anchors: Tensor[2, A] in grid units.
        strides: Tensor[1, A] pixels per grid unit.
        side_var: Tensor[B, 4, A] variance of l, t, r, b in grid units^2 by the side distributions; None unless the head
            has the dfl branch.
    """

    boxes: torch.Tensor
    anchors: torch.Tensor
    strides: torch.Tensor
    side_var: torch.Tensor | None = None


class Branch:
    """One uncertainty branch. Subclasses override what they need; the defaults add nothing.

    Attributes:
        name: Key in the yaml's ``uncertainty:`` section and in the raw predictions.
        options_class: Dataclass of its options.
        field: Name of its field in :mod:`yolo_uncert.schema`, or "" if it adds no channel.
        loss_item: Name of its loss in the progress bar and results.csv, or "" if it has none.
        replaces: Stock loss item that its loss stands in for, or "".
        teaches: What of it changes the training of the detector's own output, other than by the features that it reads.
    """

    name: ClassVar[str]
    options_class: ClassVar[type[Any]]
    field: ClassVar[str] = ""
    teaches: str = ""
    loss_item: str = ""
    replaces: str = ""

    def __init__(self, options: Any, spec: HeadSpec) -> None:
        """Keep the options, after a check that they fit the head.

        Args:
            options: Instance of options_class.
            spec: The head that the branch joins.

        Raises:
            OptionError: The head cannot carry the branch.
        """
        self.options = options
        self.spec = spec

    @property
    def reads_around(self) -> bool:
        """Whether it reads the hidden features next to an anchor, too."""
        return False

    @property
    def reads_border(self) -> bool:
        """Whether it reads what a border branch has seen, if there is one."""
        return False

    def rates(self, modules: nn.ModuleList) -> dict[float, list[nn.Parameter]]:
        """Return the parameters of the branch's modules by their learning rate over that of the model."""
        return {1.0: list(modules.parameters())}

    def join(self, others: dict[str, Branch]) -> None:
        """Adapt to the other branches of the head; called once when all are known."""

    def build(self) -> nn.ModuleList | None:
        """Return the branch's modules, one per level, or None."""
        return None

    def forward(self, modules: nn.ModuleList, features: Features) -> torch.Tensor:
        """Return the raw prediction Tensor[B, C, A]."""
        raise TypeError(f"branch {self.name!r} has no modules to run")

    def decode(self, raw: dict[str, torch.Tensor], decoded: Decoded) -> torch.Tensor:
        """Return the branch's field Tensor[B, C, A] from the raw predictions of the head."""
        raise TypeError(f"branch {self.name!r} adds no channel")

    def move(self, assignment: Assignment, preds: dict[str, torch.Tensor]) -> Assignment:
        """Return the assignment with the boxes where the branch moves them; ``stock_boxes`` stay the detector's own."""
        return assignment

    def loss(self, context: LossContext) -> torch.Tensor:
        """Return the branch's loss as a scalar, gain included."""
        raise TypeError(f"branch {self.name!r} has no loss")


def apart(levels: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return maps without a gradient to the detector, in float32 at least."""
    return [level.detach().to(at_least_float32(level)) for level in levels]


def flat(levels: list[torch.Tensor]) -> torch.Tensor:
    """Concatenate per-level maps Tensor[B, C, H, W] to Tensor[B, C, A]."""
    return torch.cat([x.flatten(2) for x in levels], -1)
