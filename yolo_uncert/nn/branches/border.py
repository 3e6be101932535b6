"""Border branch: look again at the image's features where the predicted box has its sides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the customary name
from torch import nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.utils.metrics import bbox_iou, probiou

from yolo_uncert.config import BorderOptions
from yolo_uncert.functional.boxes import rbox_to_sides, sides_to_rbox
from yolo_uncert.functional.dtypes import at_least_float32
from yolo_uncert.losses.context import Assignment, LossContext
from yolo_uncert.nn.branches.base import Borders, Branch, Features, HeadSpec, Places, flat
from yolo_uncert.options import OptionError

POINTS = 3
"""Points on each side at which the features are read, in the middle of equal parts."""

SHARE = 0.25
"""Share of the box by which a raw prediction of 1 moves a side."""

FARTHEST = 0.45
"""Largest part of the box by which a side moves: below half of it, no box is turned inside out."""

LARGE = 20
"""Of large images one anchor in so many is looked at again, however few candidates are asked for: more is in them."""

INIT_STD = 1e-3
"""Standard deviation of the last layer's initial weights: boxes start where the detector puts them."""


class BorderBranch(Branch):
    """Move the sides by what is seen at them (BorderDet, Qiu et al., ECCV 2020), and let sigma read it.

    The features of an anchor lie near the middle of its object; where a side is, and whether it is blurred, cut or
    hidden, shows at the side. As in BorderAlign each side has channels of its own. Other than there all levels read the
    finest map, and the points keep their order instead of being pooled. The detector's own boxes are trained as before.
    """

    name = "border"
    options_class = BorderOptions
    loss_item = "border_loss"
    options: BorderOptions

    def __init__(self, options: BorderOptions, spec: HeadSpec) -> None:
        """Have no loss if the boxes stay.

        Raises:
            OptionError: A finer map is asked for, and the head is not given one.
        """
        super().__init__(options, spec)
        if options.finer and not spec.finer:
            raise OptionError("finer: true needs a backbone layer with twice the resolution of the head's finest map")
        self.loss_item = "border_loss" if options.refine else ""

    def join(self, others: dict[str, Branch]) -> None:
        """Refuse to look at what nobody asks for."""
        if not self.options.refine and "gaussian" not in others:
            raise OptionError("refine: false leaves the boxes, and there is no gaussian branch to read what is seen")

    @property
    def channels(self) -> int:
        """Channels of what is seen, for other branches."""
        return 4 * self.options.hidden

    def rates(self, modules: nn.ModuleList) -> dict[float, list[nn.Parameter]]:
        """Return the parameters by rate: the branch starts from nothing beside a detector that may be trained."""
        return {self.options.lr_mult: list(modules.parameters())}

    def build(self) -> nn.ModuleList:
        """Return the layers: one on the finest map, one per level at the anchors, one for the sides, and the last."""
        read, hidden = self.options.channels, self.options.hidden
        value = Conv(self.spec.finest, 4 * read, 1)
        centres = nn.ModuleList(nn.Conv2d(c, 4 * hidden, 1) for c in self.spec.hidden)
        seen = POINTS * (read + self.options.finer * self.spec.finer)
        side = nn.Conv1d(4 * seen, 4 * hidden, 1, groups=4, bias=False)
        modules = nn.ModuleList((value, centres, side))
        if self.options.refine:
            move = nn.Conv1d(4 * hidden, 4, 1, groups=4)
            move.bias = nn.Parameter(torch.zeros(4))
            nn.init.normal_(move.weight, std=INIT_STD)
            modules.append(move)
        return modules

    def look(
        self,
        modules: nn.ModuleList,
        features: Features,
        maps: list[torch.Tensor],
        places: Places,
        scores: torch.Tensor | None = None,
    ) -> Borders:
        """Read the borders.

        Args:
            modules: Those of :meth:`build`.
            features: What the stock head computed.
            maps: Tensor[B, C, H, W] finest feature map that the head is given, and the finer one if it is read.
            places: Where the sides are.
            scores: Tensor[B, nc, A] class logits, by which the best anchors are chosen; None to look at all of them, as
                in training, where it is not known yet which ones count.
        """
        value, centres, side, *_ = modules
        assert isinstance(centres, nn.ModuleList)  # noqa: S101  as built
        index = None if scores is None else self._choose(scores)
        count, places = places.sides.shape[2], places if index is None else places.take(index)
        centre = at_anchors(centres, features.hidden, index)
        share, points = self.options.grad_finest, border_points(places)
        maps = [x.detach().lerp(x, share) if share < 1 and x.requires_grad else x for x in maps]
        read = at_points(value(maps[0]).unflatten(1, (4, self.options.channels)), points)
        if self.options.finer:
            read = torch.cat((read, at_points(maps[1][:, None], points)), 2)
        size = (places.sides[:, :2] + places.sides[:, 2:]).repeat(1, 2, 1)
        return Borders(F.silu(by_side(side, read) + centre), size, index, count)

    def most(self, anchors: int) -> int:
        """Return how many of an image's anchors are looked at, unless all are."""
        return max(self.options.candidates, anchors // LARGE)

    def _choose(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Return Tensor[B, K] of the anchors to look at, the best by class score; None for all."""
        count = scores.shape[2]
        looked = self.most(count)
        return scores.amax(1).topk(looked, 1).indices if looked < count else None

    def forward(self, modules: nn.ModuleList, features: Features) -> torch.Tensor:
        """Return by how much the distances l, t, r, b grow, Tensor[B, 4, A] in grid units."""
        borders = features.borders
        assert borders is not None  # noqa: S101  the head looks before it runs the branches
        if not self.options.refine:
            return borders.among_all(torch.zeros_like(borders.size))
        parts = (by_side(modules[3], borders.seen.unflatten(1, (4, -1))) * SHARE).clamp(-FARTHEST, FARTHEST)
        return borders.among_all(parts * borders.size)

    def move(self, assignment: Assignment, preds: dict[str, torch.Tensor]) -> Assignment:
        """Return the assignment with moved boxes; the detector's own get no gradient from there."""
        if not self.options.refine:
            return assignment
        growth = preds[self.name].transpose(1, 2)
        boxes = assignment.pred_boxes.detach()
        if boxes.shape[-1] == 4:
            moved = boxes + torch.cat((-growth[..., :2], growth[..., 2:]), -1)
        else:
            sides = rbox_to_sides(assignment.anchors, boxes) + growth
            moved = sides_to_rbox(assignment.anchors, sides, boxes[..., 4])
        return replace(assignment, pred_boxes=moved, stock_boxes=assignment.pred_boxes)

    def loss(self, context: LossContext) -> torch.Tensor:
        """Return the loss of the stock boxes, CIoU or probIoU, of the moved ones."""
        pred, target = context.pred_boxes, context.target_boxes
        overlap = bbox_iou(pred, target, xywh=False, CIoU=True) if context.task == "detect" else probiou(pred, target)
        return context.mean(1 - overlap.squeeze(-1)) * context.hyp.box * self.options.gain


def at_points(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return what maps show at points of the sides.

    Args:
        maps: Tensor[B, 4, C, H, W], a map for each side, or Tensor[B, 1, C, H, W], one for all.
        points: Tensor[B, 4, K, P, 2] of :func:`border_points`.

    Returns:
        Tensor[B, 4, C * P, K].
    """
    points = points.unflatten(1, (maps.shape[1], -1)).flatten(2, 3).flatten(0, 1)  # [B * maps, K or 4 K, P, 2]
    exact = maps.flatten(0, 1).to(at_least_float32(maps, points))
    read = F.grid_sample(exact, points.to(exact.dtype), padding_mode="border", align_corners=False).to(maps.dtype)
    by_map = read.unflatten(0, (-1, maps.shape[1])).unflatten(3, (4 // maps.shape[1], -1))
    return by_map.permute(0, 1, 3, 2, 5, 4).flatten(1, 2).flatten(2, 3)


def at_anchors(layers: nn.ModuleList, levels: list[torch.Tensor], index: torch.Tensor | None) -> torch.Tensor:
    """Return each level's layer at its anchors; where few are asked for, it does not run at the others.

    Args:
        layers: A 1x1 convolution per level.
        levels: Tensor[B, C, H, W] features per level, C the same in all.
        index: Tensor[B, K] places among the anchors of all levels; None for all.

    Returns:
        Tensor[B, C_out, K or A].
    """
    if index is None:
        return flat([layer(x) for layer, x in zip(layers, levels, strict=True)])
    found: Any = None
    start = 0
    for layer, level in zip(layers, levels, strict=True):
        every = level.flatten(2)
        own = (index - start).clamp(0, every.shape[2] - 1)[:, None]
        values = by_matrix(layer, every.gather(2, own.expand(-1, every.shape[1], -1)))
        found = values if found is None else torch.where((index >= start)[:, None], values, found)
        start += every.shape[2]
    return found


def by_matrix(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Run a 1x1 convolution at points Tensor[B, C, K], which a product of matrices does faster than a convolution."""
    return torch.baddbmm(layer.bias[:, None], layer.weight.flatten(1).expand(len(x), -1, -1), x)


def by_side(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Run a 1x1 convolution of four groups as a product of matrices, which takes a fraction of its time.

    Args:
        layer: An ``nn.Conv1d``, its groups the sides.
        x: Tensor[B, 4, C, K].

    Returns:
        Tensor[B, C_out, K].
    """
    out = (layer.weight[..., 0].unflatten(0, (4, -1)) @ x).flatten(1, 2)
    return out if layer.bias is None else out + layer.bias[:, None].to(out.dtype)


def border_points(places: Places) -> torch.Tensor:
    """Return points on the sides of boxes in the coordinates of ``grid_sample``: -1 to 1 from edge to edge of the map.

    Args:
        places: Where the sides are.

    Returns:
        Tensor[B, 4, A, POINTS, 2]; the sides in the order l, t, r, b.
    """
    # In half precision coordinates would be off by up to half a pixel.
    dtype = at_least_float32(places.sides)
    sides, anchors = (x.to(dtype) * places.strides for x in (places.sides, places.anchors))
    left, top, right, bottom = (side[..., None] for side in sides.unbind(1))
    part = (torch.arange(POINTS, device=left.device, dtype=left.dtype) + 0.5) / POINTS
    across, down = (left + right) * part - left, (top + bottom) * part - top
    x = torch.stack(((-left).expand_as(across), across, right.expand_as(across), across), 1)
    y = torch.stack((down, (-top).expand_as(down), down, bottom.expand_as(down)), 1)
    if places.angle is not None:
        angle = places.angle.to(dtype)[..., None]
        cos, sin = angle.cos(), angle.sin()
        x, y = x * cos - y * sin, x * sin + y * cos
    ends = zip((x, y), anchors.unbind(1), places.extent, strict=True)
    return torch.stack([(c + a[:, None, :, None]) * (2 / n) - 1 for c, a, n in ends], -1)
