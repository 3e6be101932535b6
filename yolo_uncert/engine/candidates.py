"""From the head's output to the candidates of each image: score fusion, threshold, choice of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from ultralytics.utils import LOGGER

from yolo_uncert.config import OptionError
from yolo_uncert.functional.scores import fuse_iou, gaussian_yolo
from yolo_uncert.schema import Schema


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


def pick_source(names: tuple[str, ...], wanted: str | None) -> str:
    """Return which field the standard deviations come from: ``gaussian``, ``dfl`` or ``none``.

    Raises:
        OptionError: The model does not have the field asked for.
    """
    available = [name for name in ("gaussian", "dfl") if name in names]
    if wanted is None:
        return available[0] if available else "none"
    if wanted != "none" and wanted not in available:
        raise OptionError(
            f"sigma_source={wanted}: this model has no such branch. It has: {', '.join(available) or 'none'}"
        )
    return wanted


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
    stock = 4 + schema.nc
    rows = y.transpose(1, 2)
    # Fusion keeps the order of an anchor's classes, so the best one decides whether the anchor takes part.
    best = y[:, 4:stock].amax(1)[..., None]
    score = fuse_scores(best, schema.split(rows[..., stock:], -1), rows[..., 2:4], args)[..., 0]
    mask = _without_broken(score > args.conf, y, 1)
    return [_of_anchors(x[index], index, schema, args, multi_label) for x, index in _by_image(rows, mask)]


def extract_selected(y: torch.Tensor, schema: Schema, args: SimpleNamespace) -> list[Candidates]:
    """Collect the detections that an end-to-end head has selected, by descending score after fusion.

    Args:
        y: Tensor[B, K, 6 + extra (+ angle)]: box (xyxy, or xywh of oriented ones), score, class, extra channels, angle.
        schema: Order of the extra channels.
        args: Run options ``conf``, ``classes``, ``max_det`` and those of the score.

    Returns:
        One Candidates per image.
    """
    size = y[..., 2:4] if schema.task == "obb" else y[..., 2:4] - y[..., :2]
    score = fuse_scores(y[..., 4:5], schema.split(y[..., 6:], -1), size, args)[..., 0]
    mask = _without_broken((score > args.conf) & _wanted(y[..., 5], args), y, -1)
    found = []
    for image, (x, index) in enumerate(_by_image(y, mask)):
        conf = score[image, index]
        order = conf.argsort(descending=True, stable=True)[: args.max_det]
        x, index = x[index[order]], index[order]
        boxes = _with_angle(x[:, :4], x, schema)
        found.append(Candidates(boxes, conf[order], x[:, 5], index, schema.split(x[:, 6:], -1)))
    return found


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
        fused = fused * gaussian_yolo(torch.ones_like(size[..., 0]), _std(fields, args), size)[..., None]
    if "iou_aware" in fields and args.iou_alpha < 1:
        fused = fuse_iou(fused, fields["iou_aware"], args.iou_alpha)
    return fused.to(scores.dtype)


def _std(fields: Mapping[str, torch.Tensor], args: SimpleNamespace) -> torch.Tensor:
    """Return the standard deviations Tensor[..., 4] of the sides."""
    source = pick_source(tuple(fields), args.sigma_source)
    if source == "none":
        raise OptionError(
            f"score_fusion={args.score_fusion} needs standard deviations: this model has none, or sigma_source=none"
        )
    return fields[source][..., :4]


def _of_anchors(
    x: torch.Tensor, index: torch.Tensor, schema: Schema, args: SimpleNamespace, multi_label: bool
) -> Candidates:
    """Return the candidates of the anchors with the rows Tensor[N, C]."""
    stock = 4 + schema.nc
    fields = schema.split(x[:, stock:], -1)
    scores = fuse_scores(x[:, 4:stock], fields, x[:, 2:4], args)
    conf, cls = scores.max(1)
    boxes = _with_angle(x[:, :4] if schema.task == "obb" else _xyxy(x), x, schema)
    found = Candidates(boxes, conf, cls.to(x.dtype), index, fields)
    if multi_label and schema.nc > 1:
        anchor, cls = (scores > args.conf).nonzero(as_tuple=True)
        found = found.take(anchor)
        found.conf, found.cls = scores[anchor, cls], cls.to(x.dtype)
    return found if args.classes is None else found.take(_wanted(found.cls, args))


def _by_image(rows: torch.Tensor, mask: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return per image all its rows, and the indices of those in the mask."""
    return [(x, chosen.nonzero().view(-1)) for x, chosen in zip(rows, mask, strict=True)]


def _without_broken(mask: torch.Tensor, y: torch.Tensor, channels: int) -> torch.Tensor:
    """Take the predictions out of the mask that hold a number that is not finite, with a warning that counts them."""
    broken = ~y.isfinite().all(channels)
    if count := int(broken.sum()):
        LOGGER.warning(f"dropped {count} prediction(s) whose box, score or standard deviation is not finite")
    return mask & ~broken


def _wanted(cls: torch.Tensor, args: SimpleNamespace) -> torch.Tensor:
    """Return the mask of the classes that the options let through."""
    if args.classes is None:
        return torch.ones_like(cls, dtype=torch.bool)
    return torch.isin(cls, torch.as_tensor(args.classes, device=cls.device, dtype=cls.dtype))


def _xyxy(x: torch.Tensor) -> torch.Tensor:
    half = x[:, 2:4] / 2
    return torch.cat((x[:, :2] - half, x[:, :2] + half), 1)


def _with_angle(boxes: torch.Tensor, x: torch.Tensor, schema: Schema) -> torch.Tensor:
    """Put the angle, the last channel of oriented rows, behind their boxes."""
    return torch.cat((boxes, x[:, -1:]), 1) if schema.task == "obb" else boxes
