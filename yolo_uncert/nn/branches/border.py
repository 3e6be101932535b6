"""Border branch: look again at the image's features where the predicted box has its sides."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812  the customary name
from torch import nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.utils.metrics import bbox_iou, probiou

from yolo_uncert.config import BorderOptions
from yolo_uncert.functional.boxes import rbox_to_sides, sides_to_rbox
from yolo_uncert.losses.context import Assignment, LossContext
from yolo_uncert.nn.branches.base import Borders, Branch, Features, HeadSpec, Places
from yolo_uncert.nn.branches.sides import POINTS, at_anchors, at_points, border_points, by_side, mixed_at_points
from yolo_uncert.options import OptionError

SHARE = 0.25
"""Share of the box by which a raw prediction of 1 moves a side, and radians by which it turns a box."""

FARTHEST = 0.45
"""Largest part of the box by which a side moves: below half of it, no box is turned inside out."""

MOST_TURN = math.pi / 4
"""Largest angle by which a box turns: beyond it, width and height would be the other way round."""

LARGE = 20
"""Of large images one anchor in so many is looked at again, however few candidates are asked for: more is in them."""

DEAR = 4
"""At a point alone the mixing of the finer map takes the time of about so many places of it."""

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
            OptionError: A finer map is asked for, and the head is not given one, or it is reduced and not asked for; or
                boxes are to turn that have no angle, or are to stay.
        """
        super().__init__(options, spec)
        if options.turn and spec.task != "obb":
            raise OptionError("turn: true is for oriented boxes (task: obb), horizontal ones have no angle")
        if options.turn and not options.refine:
            raise OptionError("turn: true needs refine: true, which moves the boxes")
        if options.finer and not spec.finer:
            raise OptionError("finer: true needs a backbone layer with twice the resolution of the head's finest map")
        if options.finer_channels and not options.finer:
            raise OptionError("finer_channels needs finer: true, the map that it is of")
        self.loss_item = "border_loss" if options.refine else ""

    def join(self, others: dict[str, Branch]) -> None:
        """Refuse to look at what nobody asks for."""
        if not self.options.refine and not any(branch.reads_border for branch in others.values()):
            raise OptionError(
                "refine: false leaves the boxes, and there is no branch to read what is seen: gaussian, or iou_aware "
                "with reads: border"
            )

    @property
    def channels(self) -> int:
        """Channels of what is seen, for other branches."""
        return 4 * self.options.hidden

    def rates(self, modules: nn.ModuleList) -> dict[float, list[nn.Parameter]]:
        """Return the parameters by rate: the branch starts from nothing beside a detector that may be trained."""
        return {self.options.lr_mult: list(modules.parameters())}

    def build(self) -> nn.ModuleList:
        """Return the layers: on the finest map, at the anchors, for the sides, to move, to turn, on the finer map."""
        read, hidden = self.options.channels, self.options.hidden
        value = Conv(self.spec.finest, 4 * read, 1)
        centres = nn.ModuleList(nn.Conv2d(c, 4 * hidden, 1) for c in self.spec.hidden)
        points = POINTS * (3 if self.options.beside else 1)
        fine = (self.options.finer_channels or self.spec.finer) * self.options.finer
        side = nn.Conv1d(4 * points * (read + fine), 4 * hidden, 1, groups=4, bias=False)
        last = [nn.Conv1d(4 * hidden, 4, 1, groups=4)] if self.options.refine else []
        if self.options.turn:
            last.append(nn.Conv1d(4 * hidden, 1, 1))
        for layer in last:
            nn.init.normal_(layer.weight, std=INIT_STD)
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
        reduce = [nn.Conv2d(self.spec.finer, fine, 1, bias=False)] if self.options.finer_channels else []
        return nn.ModuleList((value, centres, side, *last, *reduce))

    def look(
        self,
        modules: nn.ModuleList,
        features: Features,
        maps: list[torch.Tensor],
        places: Places,
        index: torch.Tensor | None = None,
        *,
        few: bool = False,
    ) -> Borders:
        """Read the borders.

        Args:
            modules: Those of :meth:`build`.
            features: What the stock head computed.
            maps: Tensor[B, C, H, W] finest feature map that the head is given, and the finer one if it is read.
            places: Where the sides are.
            index: Tensor[B, K] of the anchors to look at; None for all.
            few: Whether the places may be so few that a layer takes less time at their points than everywhere.
        """
        value, centres, side, *_ = modules
        assert isinstance(centres, nn.ModuleList)  # noqa: S101  as built
        count, places = places.sides.shape[2], places if index is None else places.take(index)
        centre = at_anchors(centres, features.hidden, index)
        share, points = self.options.grad_finest, border_points(places, self.options.beside)
        maps = [x.detach().lerp(x, share) if share < 1 and x.requires_grad else x for x in maps]
        read = at_points(value(maps[0]).unflatten(1, (4, self.options.channels)), points)
        if self.options.finer:
            if few and self.options.finer_channels and DEAR * points[0, ..., 0].numel() < maps[1][0, 0].numel():
                finer = mixed_at_points(modules[-1], maps[1], points)
            else:
                finer = at_points((modules[-1](maps[1]) if self.options.finer_channels else maps[1])[:, None], points)
            read = torch.cat((read, finer), 2)
        size = (places.sides[:, :2] + places.sides[:, 2:]).repeat(1, 2, 1)
        return Borders(F.silu(by_side(side, read) + centre), size, index, count)

    def most(self, anchors: int) -> int:
        """Return how many of an image's anchors are looked at, unless all are."""
        return max(self.options.candidates, anchors // LARGE)

    def choose(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Return Tensor[B, K] of the anchors to look at, the best by class logit Tensor[B, nc, A]; None for all."""
        count = scores.shape[2]
        looked = self.most(count)
        return scores.amax(1).topk(looked, 1).indices if looked < count else None

    def forward(self, modules: nn.ModuleList, features: Features) -> torch.Tensor:
        """Return the growth of l, t, r, b in grid units, and the turn in rad if boxes turn: Tensor[B, 4 or 5, A]."""
        borders = features.borders
        assert borders is not None  # noqa: S101  the head looks before it runs the branches
        if not self.options.refine:
            return borders.among_all(torch.zeros_like(borders.size))
        parts = (by_side(modules[3], borders.seen.unflatten(1, (4, -1))) * SHARE).clamp(-FARTHEST, FARTHEST)
        moved = parts * borders.size
        if self.options.turn:
            angle = (modules[4](borders.seen) * SHARE).clamp(-MOST_TURN, MOST_TURN)
            moved = torch.cat((moved, angle), 1)
        return borders.among_all(moved)

    def move(self, assignment: Assignment, preds: dict[str, torch.Tensor]) -> Assignment:
        """Return the assignment with moved boxes; the detector's own get no gradient from there."""
        if not self.options.refine:
            return assignment
        growth = preds[self.name].transpose(1, 2)
        boxes = assignment.pred_boxes.detach()
        if boxes.shape[-1] == 4:
            moved = boxes + torch.cat((-growth[..., :2], growth[..., 2:]), -1)
        else:
            sides = rbox_to_sides(assignment.anchors, boxes) + growth[..., :4]
            turn = growth[..., 4] if self.options.turn else 0
            moved = sides_to_rbox(assignment.anchors, sides, boxes[..., 4] + turn)
        return replace(assignment, pred_boxes=moved, stock_boxes=assignment.pred_boxes)

    def loss(self, context: LossContext) -> torch.Tensor:
        """Return the loss of the stock boxes, CIoU or probIoU, of the moved ones.

        ProbIoU is taken as published (Llerena et al., arXiv 2106.06072), without the floor that Ultralytics gives the
        covariances in its training: what it bounds, gradients at boxes far smaller than a cell, are bounded here by how
        far a side moves and by the clipping of the branches' own gradient.
        """
        pred, target = context.pred_boxes, context.target_boxes
        overlap = bbox_iou(pred, target, xywh=False, CIoU=True) if context.task == "detect" else probiou(pred, target)
        return context.mean(1 - overlap.squeeze(-1)) * context.hyp.box * self.options.gain


def among_first(positive: torch.Tensor) -> torch.Tensor:
    """Return Tensor[B, K] of the anchors Tensor[B, A] bool of each image, filled up with others to the longest row."""
    return positive.int().topk(max(int(positive.sum(1).max()), 1), 1).indices
