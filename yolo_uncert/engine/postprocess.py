"""From the head's output to detections: score fusion, suppression and the standard deviations of what is kept.

One function serves validator, predictor, trackers and exported models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from ultralytics.utils import LOGGER
from ultralytics.utils.nms import non_max_suppression

from yolo_uncert.config import OptionError
from yolo_uncert.functional.boxes import UNKNOWN_ANGLE_STD, rbox_std
from yolo_uncert.functional.scores import fuse_iou
from yolo_uncert.schema import Schema

NO_TIME_LIMIT = 1e9
"""Seconds per image: Ultralytics' suppression stops at its time limit and drops the images that are left."""


@dataclass
class Detections:
    """Detections of one image in network-input pixels.

    Attributes:
        boxes: Tensor[N, 4] xyxy, or Tensor[N, 5] xywhr for oriented boxes.
        conf: Tensor[N] scores after fusion, descending.
        cls: Tensor[N] class indices.
        index: Tensor[N] anchor that each detection came from (end-to-end heads: its rank among the selected rows).
        fields: ``std`` Tensor[N, 4 or 5], ``iou`` and ``quality`` Tensor[N], ``sides`` Tensor[N, 7] (oriented: std of
            l, t, r, b and angle, centre offset x, y), each only where the model provides it.
    """

    boxes: torch.Tensor
    conf: torch.Tensor
    cls: torch.Tensor
    index: torch.Tensor
    fields: dict[str, torch.Tensor]


def postprocess(
    y: torch.Tensor, schema: Schema, args: SimpleNamespace, *, end2end: bool = False, **nms: Any
) -> list[Detections]:
    """Turn the head's output into detections.

    Args:
        y: Tensor[B, 4 + nc + extra (+ angle), A]; of an end-to-end head Tensor[B, K, 6 + extra (+ angle)].
        schema: Order of the extra channels.
        args: Run options: ``conf``, ``iou``, ``max_det``, ``agnostic_nms``, ``classes`` and ours.
        end2end: The head has already selected its detections.
        nms: Further arguments of Ultralytics' ``non_max_suppression``, such as ``multi_label``.

    Returns:
        One Detections per image.
    """
    y = (_fuse_end2end if end2end else _fuse)(_without_broken(y, -1 if end2end else 1), schema, args)
    settings = {"iou_thres": args.iou, "agnostic": args.agnostic_nms, "max_det": args.max_det, **nms}
    settings |= {"nc": schema.nc, "rotated": schema.task == "obb", "end2end": end2end, "max_time_img": NO_TIME_LIMIT}
    kept, index = non_max_suppression(y, args.conf, return_idxs=True, **settings)
    return [_to_detections(x, i.view(-1), schema, args.sigma_source) for x, i in zip(kept, index, strict=True)]


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


def _without_broken(y: torch.Tensor, dim: int) -> torch.Tensor:
    """Zero the predictions that hold a number that is not finite, with a warning that counts them.

    This comes before the suppression, because a box with a NaN suppresses any box.
    """
    broken = ~y.isfinite().all(dim, keepdim=True)
    if count := int(broken.sum()):
        LOGGER.warning(f"dropped {count} prediction(s) whose box, score or standard deviation is not finite")
        return y.masked_fill(broken, 0)
    return y


def _fuse_scores(fields: Mapping[str, torch.Tensor], scores: torch.Tensor, args: SimpleNamespace) -> torch.Tensor:
    """Return the class scores times quality and fused with the predicted IoU, as far as the model has them."""
    if "quality" in fields and args.quality_fusion:
        scores = scores * fields["quality"]
    if "iou_aware" in fields and args.iou_alpha < 1:
        scores = fuse_iou(scores, fields["iou_aware"], args.iou_alpha).to(scores.dtype)
    return scores


def _fuse(y: torch.Tensor, schema: Schema, args: SimpleNamespace) -> torch.Tensor:
    """Fuse the class scores of every anchor, Tensor[B, C, A]."""
    stock = 4 + schema.nc
    scores = y[:, 4:stock]
    fused = _fuse_scores(schema.split(y[:, stock:]), scores, args)
    return y if fused is scores else torch.cat((y[:, :4], fused, y[:, stock:]), 1)


def _fuse_end2end(y: torch.Tensor, schema: Schema, args: SimpleNamespace) -> torch.Tensor:
    """Fuse the scores of selected rows Tensor[B, K, C] and sort them anew."""
    scores = y[..., 4:5]
    fused = _fuse_scores(schema.split(y[..., 6:], -1), scores, args)
    if fused is scores:
        return y
    order = fused.argsort(dim=1, descending=True, stable=True)
    return torch.cat((y[..., :4], fused, y[..., 5:]), -1).gather(1, order.expand_as(y))


def _to_detections(x: torch.Tensor, index: torch.Tensor, schema: Schema, sigma_source: str | None) -> Detections:
    """Split rows (box, score, class, extra, angle) and derive the standard deviations of the box."""
    fields = schema.split(x[:, 6:])
    source = pick_source(schema.names, sigma_source)
    out: dict[str, torch.Tensor] = {}
    boxes = x[:, :4]
    if schema.task == "obb":
        boxes = torch.cat((boxes, x[:, -1:]), 1)
        if source != "none":
            out.update(_oriented_std(fields[source], x[:, -1], known=source == "gaussian"))
    elif source != "none":
        out["std"] = fields[source]
    if "iou_aware" in fields:
        out["iou"] = fields["iou_aware"][:, 0]
    if "quality" in fields:
        out["quality"] = fields["quality"][:, 0]
    return Detections(boxes, x[:, 4], x[:, 5], index, out)


def _oriented_std(field: torch.Tensor, angle: torch.Tensor, *, known: bool) -> dict[str, torch.Tensor]:
    """Return ``std`` (x, y, w, h, angle) and ``sides`` from the std of the four sides, and of the angle if known."""
    sides = field
    if not known:
        unknown = field.new_full((len(field), 1), UNKNOWN_ANGLE_STD)
        sides = torch.cat((field, unknown, torch.zeros_like(field[:, :2])), 1)
    std = rbox_std(sides[:, :4], sides[:, 4], sides[:, 5:7], angle, angle_known=known)
    return {"std": std, "sides": sides}


def scale_fields(fields: Mapping[str, torch.Tensor], gain: float) -> dict[str, torch.Tensor]:
    """Bring the fields from network-input pixels to those of the original image.

    Args:
        fields: Fields of Detections.
        gain: Network-input pixels per pixel of the original image.
    """
    scaled = dict(fields)
    if "std" in scaled:
        scaled["std"] = torch.cat((fields["std"][:, :4] / gain, fields["std"][:, 4:]), 1)
    if "sides" in scaled:
        sides = fields["sides"]
        scaled["sides"] = torch.cat((sides[:, :4] / gain, sides[:, 4:5], sides[:, 5:] / gain), 1)
    return scaled


def letterbox_gain(shape: tuple[int, int], original: tuple[int, int]) -> float:
    """Return network-input pixels per original pixel of a letterboxed image, both shapes (height, width)."""
    return min(shape[0] / original[0], shape[1] / original[1])
