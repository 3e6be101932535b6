"""From the head's output to detections: candidates, suppression, voting, and the standard deviations of what is kept.

One function serves validator, predictor, trackers and exported models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from yolo_uncert.engine.candidates import Candidates, extract, extract_selected
from yolo_uncert.engine.rules import pick_source, suppression_of
from yolo_uncert.functional.boxes import UNKNOWN_ANGLE_STD, rbox_std
from yolo_uncert.ops import Kept, Suppression, batched_suppress
from yolo_uncert.schema import Schema


@dataclass
class Detections:
    """Detections of one image in network-input pixels.

    Attributes:
        boxes: Tensor[N, 4] xyxy, or Tensor[N, 5] xywhr for oriented boxes; voted if voting is on.
        conf: Tensor[N] scores after fusion and decay, descending.
        cls: Tensor[N] class indices.
        index: Tensor[N] anchor that each detection came from (end-to-end heads: its row).
        fields: ``std`` Tensor[N, 4 or 5], ``iou`` and ``quality`` Tensor[N], ``sides`` Tensor[N, 7] (oriented: std of
            l, t, r, b and angle, centre offset x, y), each only where the model provides it.
    """

    boxes: torch.Tensor
    conf: torch.Tensor
    cls: torch.Tensor
    index: torch.Tensor
    fields: dict[str, torch.Tensor]


def postprocess(
    y: torch.Tensor, schema: Schema, args: SimpleNamespace, *, end2end: bool = False, multi_label: bool = False
) -> list[Detections]:
    """Turn the head's output into detections.

    Args:
        y: Tensor[B, 4 + nc + extra (+ angle), A]; of an end-to-end head Tensor[B, K, 6 + extra (+ angle)].
        schema: Order of the extra channels.
        args: Run options: ``conf``, ``iou``, ``max_det``, ``agnostic_nms``, ``classes`` and ours.
        end2end: The head has selected its detections itself: they are neither suppressed nor voted.
        multi_label: Every class above the threshold makes a candidate of an anchor, unless the run option decides.

    Returns:
        One Detections per image.

    Raises:
        OptionError: An option asks for what this model does not predict.
    """
    source = pick_source(schema.names, args.sigma_source)
    if end2end:
        return [_describe(found, schema, source) for found in extract_selected(y, schema, args)]
    options = suppression_of(args, schema)
    labels = multi_label if args.multi_label is None else args.multi_label
    found = extract(y, schema, args, multi_label=labels)
    return suppress_candidates(found, options, schema, source, args.suppress_backend)


def suppress_candidates(
    found: list[Candidates], options: Suppression, schema: Schema, source: str, backend: str
) -> list[Detections]:
    """Suppress the duplicates of each image and let them vote.

    Args:
        found: Candidates of each image, boxes and fields in the same pixels.
        options: Suppression and vote.
        schema: Order of the extra channels.
        source: Field of the standard deviations: ``gaussian``, ``dfl`` or ``none``.
        backend: See `yolo_uncert.ops.suppress`.
    """
    voting = options.vote != "off" and source != "none"
    images: list[Kept[torch.Tensor]] = batched_suppress(
        [candidates.boxes for candidates in found],
        [candidates.conf for candidates in found],
        [candidates.cls for candidates in found],
        [_sides_std(candidates, schema, source).square() for candidates in found] if voting else None,
        options,
        ious=[candidates.fields["iou_aware"][:, 0] for candidates in found] if options.guided else None,
        backend=backend,
    )
    detections = []
    for candidates, kept in zip(found, images, strict=True):
        chosen = candidates.take(kept.index)
        chosen.boxes, chosen.conf = kept.boxes, kept.scores
        voted = kept.variances.sqrt() if kept.variances is not None else None
        detections.append(_describe(chosen, schema, source, voted))
    return detections


def _sides_std(found: Candidates, schema: Schema, source: str) -> torch.Tensor:
    """Return the standard deviations of l, t, r, b and, for oriented boxes where it is known, of the angle."""
    return found.fields[source][:, : 5 if schema.task == "obb" else 4]


def _describe(found: Candidates, schema: Schema, source: str, voted: torch.Tensor | None = None) -> Detections:
    """Derive the standard deviations of the boxes, from those of their sides after a vote or as predicted."""
    fields = {}
    if source != "none":
        sides = _sides_std(found, schema, source) if voted is None else voted
        fields["std"] = sides
        if schema.task == "obb":
            fields.update(_oriented_std(sides, found.fields[source], found.boxes[:, 4], known=source == "gaussian"))
    if "iou_aware" in found.fields:
        fields["iou"] = found.fields["iou_aware"][:, 0]
    if "quality" in found.fields:
        fields["quality"] = found.fields["quality"][:, 0]
    return Detections(found.boxes, found.conf, found.cls, found.index, fields)


def _oriented_std(
    sides: torch.Tensor, field: torch.Tensor, angle: torch.Tensor, *, known: bool
) -> dict[str, torch.Tensor]:
    """Return ``std`` (x, y, w, h, angle) and ``sides`` from the std of the four sides, and of the angle if known."""
    angle_std = sides[:, 4] if known else torch.full_like(angle, UNKNOWN_ANGLE_STD)
    offset = field[:, 5:7] if known else torch.zeros_like(field[:, :2])
    std = rbox_std(sides[:, :4], angle_std, offset, angle, angle_known=known)
    return {"std": std, "sides": torch.cat((sides[:, :4], angle_std[:, None], offset), 1)}


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
