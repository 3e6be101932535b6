"""From the head's output to the candidates of each image: score fusion, threshold, choice of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from ultralytics.utils import LOGGER
from ultralytics.utils.ops import xywh2xyxy

from yolo_uncert.engine.rules import check_fusion, pick_source
from yolo_uncert.functional.scores import fuse_iou, gaussian_yolo
from yolo_uncert.ops import above_threshold
from yolo_uncert.schema import Schema

LEAST_CLASS_SCORE = 0.001
"""Class score that a candidate needs beside a fused score above ``conf``: Ultralytics' ``conf`` of a validation, where
the root in the fused score would let in every class of every anchor."""


@dataclass
class Candidates:
    """Predictions of one image above the threshold, in network-input pixels.

    Attributes:
        boxes: Tensor[N, 4] xyxy, or Tensor[N, 5] xywhr for oriented boxes.
        conf: Tensor[N] scores after fusion.
        cls: Tensor[N] class indices, as floats.
        index: Tensor[N] anchor that each came from (end-to-end heads: its row).
        fields: What the model says of each, Tensor[N, channels] by name of the schema.
    """

    boxes: torch.Tensor
    conf: torch.Tensor
    cls: torch.Tensor
    index: torch.Tensor
    fields: dict[str, torch.Tensor]

    def take(self, rows: torch.Tensor) -> Candidates:
        """Return the candidates of these rows, indices or a mask."""
        fields = {name: values[rows] for name, values in self.fields.items()}
        return Candidates(self.boxes[rows], self.conf[rows], self.cls[rows], self.index[rows], fields)


def extract(y: torch.Tensor, schema: Schema, args: SimpleNamespace, *, multi_label: bool = False) -> list[Candidates]:
    """Collect the candidates of every image.

    Args:
        y: Tensor[B, 4 + nc + extra (+ angle), A]: xywh, class scores, extra channels, angle in rad.
        schema: Order of the extra channels.
        args: Run options ``conf``, ``classes`` and those of the score.
        multi_label: One candidate for every class above the threshold, not only for the best.

    Returns:
        One Candidates per image, in the order of anchors and then of classes.
    """
    return [_of_image(x, schema, args, multi_label) for x in _without_broken(y, 1)]


def extract_selected(y: torch.Tensor, schema: Schema, args: SimpleNamespace) -> list[Candidates]:
    """Collect the detections that an end-to-end head has selected, by descending score after fusion.

    Args:
        y: Tensor[B, K, 6 + extra (+ angle)]: box (xyxy, or xywh of oriented ones), score, class, extra channels, angle.
        schema: Order of the extra channels.
        args: Run options ``conf``, ``classes``, ``max_det`` and those of the score.

    Returns:
        One Candidates per image.
    """
    y = _without_broken(y, -1).float()
    size = y[..., 2:4] if schema.task == "obb" else y[..., 2:4] - y[..., :2]
    scores = fuse_scores(y[..., 4:5], schema.split(y[..., 6:]), size, args)[..., 0]
    found = []
    for x, score in zip(y, scores, strict=True):
        order = score.argsort(descending=True, stable=True)
        order = order[((score > args.conf) & _wanted(x[:, 5], args))[order]][: args.max_det]
        rows = x[order]
        boxes = _with_angle(rows[:, :4], rows, schema)
        found.append(Candidates(boxes, score[order], rows[:, 5], order, schema.split(rows[:, 6:])))
    return found


def least_class_score(schema: Schema, args: SimpleNamespace, *, end2end: bool = False) -> float:
    """Return what the best class score of an anchor exceeds if the anchor is a candidate, whatever else is said of it.

    Args:
        schema: Order of the extra channels.
        args: Run options ``conf`` and those of the score.
        end2end: The head selects its detections itself, by their number.
    """
    if not _fuses(schema, args):
        return float(args.conf)
    # No factor exceeds 1, so a fused score is at most p^alpha; rounding is allowed for.
    bound = 0.999 * args.conf ** (1 / args.iou_alpha) if args.iou_alpha > 0 else 0.0
    return float(max(bound, 0.0 if end2end else min(args.conf, LEAST_CLASS_SCORE)))


def fuse_scores(
    scores: torch.Tensor, fields: Mapping[str, torch.Tensor], size: torch.Tensor, args: SimpleNamespace
) -> torch.Tensor:
    """Return the class scores after the fusions that the options ask for and the model has the fields for.

    Args:
        scores: Tensor[..., C] in [0, 1].
        fields: Tensor[..., channels] by name of the schema.
        size: Tensor[..., 2], width and height in pixels.
        args: Run options ``score_fusion``, ``iou_alpha`` and ``sigma_source``.

    Raises:
        OptionError: ``score_fusion`` asks for standard deviations, and the model has none.
    """
    fused = scores
    if "quality" in fields and args.score_fusion in ("quality", "both"):
        fused = fused * fields["quality"]
    if args.score_fusion in ("gaussian", "both"):
        check_fusion(tuple(fields), args)
        std = fields[pick_source(tuple(fields), args.sigma_source)][..., :4]
        fused = fused * gaussian_yolo(torch.ones_like(size[..., 0]), std, size)[..., None]
    if "iou_aware" in fields and args.iou_alpha < 1:
        fused = fuse_iou(fused, fields["iou_aware"], args.iou_alpha)
    return fused.to(scores.dtype)


def _of_image(x: torch.Tensor, schema: Schema, args: SimpleNamespace, multi_label: bool) -> Candidates:
    """Return the candidates of an image Tensor[C, A]."""
    stock = 4 + schema.nc
    several = multi_label and schema.nc > 1
    if _fuses(schema, args):
        cls, index, conf = _fused(x, schema, args, several)
    else:
        cls, index = above_threshold(x[4:stock], args.conf, multi_label=several, backend=args.suppress_backend)
        conf = x[4:stock][cls, index]
    # Results in half precision would be off by pixels in a large image, and variances above 256^2 overflow.
    boxes, extra, conf = x[:4, index].T.float(), x[stock:, index].T.float(), conf.float()
    boxes = _with_angle(boxes, extra, schema) if schema.task == "obb" else xywh2xyxy(boxes)
    found = Candidates(boxes, conf, cls.float(), index, schema.split(extra))
    return found if args.classes is None else found.take(_wanted(found.cls, args))


def _fuses(schema: Schema, args: SimpleNamespace) -> bool:
    """Return whether anything changes the class scores."""
    if args.score_fusion in ("gaussian", "both"):
        return True
    iou = "iou_aware" in schema.names and args.iou_alpha < 1
    return iou or ("quality" in schema.names and args.score_fusion == "quality")


def _fused(
    x: torch.Tensor, schema: Schema, args: SimpleNamespace, several: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return class, anchor and score of what lies above the threshold after fusion."""
    stock = 4 + schema.nc
    # Fusion keeps the order of an anchor's classes, so the best one decides whether the anchor takes part.
    best = x[4:stock].amax(0)
    index = (best > least_class_score(schema, args)).nonzero().view(-1)
    score = fuse_scores(best[index, None], schema.split(x[stock:, index].T), x[2:4, index].T, args)[:, 0]
    index, score = index[score > args.conf], score[score > args.conf]
    plain = x[4:stock, index].T
    if not several:
        return plain.argmax(1), index, score
    scores = fuse_scores(plain, schema.split(x[stock:, index].T), x[2:4, index].T, args)
    anchor, cls = ((scores > args.conf) & (plain > min(args.conf, LEAST_CLASS_SCORE))).nonzero(as_tuple=True)
    return cls, index[anchor], scores[anchor, cls]


def _without_broken(y: torch.Tensor, channels: int) -> torch.Tensor:
    """Zero the predictions that hold a number that is not finite, with a warning that counts them."""
    # Whether there is one at all shows in the sum, at a fraction of the cost of a look at every number.
    if y.sum(dtype=torch.float32).isfinite():
        return y
    broken = ~y.isfinite().all(channels, keepdim=True)
    if count := int(broken.sum()):  # the sum of very large numbers is not finite either
        LOGGER.warning(f"dropped {count} prediction(s) whose box, score or standard deviation is not finite")
    return y.masked_fill(broken, 0)


def _wanted(cls: torch.Tensor, args: SimpleNamespace) -> torch.Tensor:
    """Return the mask of the classes that the options let through."""
    if args.classes is None:
        return torch.ones_like(cls, dtype=torch.bool)
    return torch.isin(cls, torch.as_tensor(args.classes, device=cls.device, dtype=cls.dtype))


def _with_angle(boxes: torch.Tensor, x: torch.Tensor, schema: Schema) -> torch.Tensor:
    """Put the angle, the last channel of oriented rows, behind their boxes."""
    return torch.cat((boxes, x[:, -1:]), 1) if schema.task == "obb" else boxes
