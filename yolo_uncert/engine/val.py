"""Validators: Ultralytics' own with our post-processing, and residuals of matched boxes against their sigma."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.models.yolo.obb import OBBValidator
from ultralytics.utils import LOGGER
from ultralytics.utils.metrics import batch_probiou, box_iou

from yolo_uncert.engine.metrics import UncertDetMetrics, UncertOBBMetrics, sigma_prefixes
from yolo_uncert.engine.options import put_options, split_options
from yolo_uncert.engine.postprocess import check_rules, postprocess, scale_fields
from yolo_uncert.engine.schemas import schema_of
from yolo_uncert.functional.boxes import align_representation
from yolo_uncert.functional.residuals import SigmaSummary
from yolo_uncert.ops import warm_up

MATCH_IOU = 0.5
"""Overlap at which a detection counts as a measurement of an object, the customary threshold of the field."""


class _UncertValidator(DetectionValidator):
    """Post-process with uncertainty and compare sigma with the errors of the matched boxes."""

    coordinates = 4

    def __init__(
        self,
        dataloader: Any = None,
        save_dir: Path | None = None,
        args: dict[str, Any] | SimpleNamespace | None = None,
        _callbacks: dict[str, Any] | None = None,
    ) -> None:
        """Take Ultralytics' arguments, ``args`` with our run options among them."""
        stock, ours = split_options(args)
        super().__init__(dataloader, save_dir, stock, _callbacks)
        put_options(self.args, ours, "val")

    def init_metrics(self, model: torch.nn.Module) -> None:
        """Learn the model's extra channels before the first batch."""
        super().init_metrics(model)
        self.schema = schema_of(model, self.args.task)
        check_rules(self.schema, self.args, end2end=self.end2end)
        warm_up(self.args.suppress_backend)
        self.metrics.prefixes = sigma_prefixes(self.schema, self.args.sigma_source)

    def postprocess(self, preds: Any) -> list[dict[str, torch.Tensor]]:
        """Return per image ``bboxes``, ``conf``, ``cls`` and ``std`` (no columns without an uncertainty branch)."""
        y = preds[0] if isinstance(preds, (list, tuple)) else preds
        options = SimpleNamespace(**{**vars(self.args), "agnostic_nms": self.args.single_cls or self.args.agnostic_nms})
        found = postprocess(y, self.schema, options, end2end=self.end2end, multi_label=True)
        return [
            {
                "bboxes": d.boxes,
                "conf": d.conf,
                "cls": d.cls,
                "std": d.fields.get("std", d.boxes.new_zeros(len(d.boxes), 0)),
            }
            for d in found
        ]

    def scale_preds(self, predn: dict[str, torch.Tensor], pbatch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Scale boxes and standard deviations to the original image."""
        # Not from the shapes: validation pads an image beyond the size that it is scaled to.
        gain = pbatch["ratio_pad"][0][0]
        return {**super().scale_preds(predn, pbatch), **scale_fields({"std": predn["std"]}, gain)}

    def pred_to_json(self, predn: dict[str, torch.Tensor], pbatch: dict[str, Any]) -> None:
        """Add ``std`` to the stock rows: x1, y1, x2, y2 in pixels, or x, y, w, h in pixels and angle in rad."""
        start = len(self.jdict)
        super().pred_to_json(predn, pbatch)
        if predn["std"].shape[1]:
            for row, std in zip(self.jdict[start:], predn["std"].tolist(), strict=True):
                row["std"] = [round(s, 4) for s in std]

    def print_results(self) -> None:
        """Print the stock table and one line on sigma."""
        super().print_results()
        for unit, summary in (("px", self.metrics.sigma), ("rad", self.metrics.angle_sigma)):
            if summary is not None and summary.n:
                LOGGER.info(format_summary(summary, unit))

    def _process_batch(self, preds: dict[str, torch.Tensor], batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return the stock ``tp`` and, for each detection matched at IoU 0.5, residual and sigma in original pixels."""
        stats: dict[str, np.ndarray] = super()._process_batch(preds, batch)
        empty = np.zeros((0, self.coordinates))
        stats.update(residual=empty, sigma=empty)
        if not (len(preds["cls"]) and len(batch["cls"]) and preds["std"].shape[1]):
            return stats
        detection, truth = self._match(preds, batch)
        residual = self._residual(preds["bboxes"][detection], batch["bboxes"][truth])
        gain = batch["ratio_pad"][0][0]
        for name, values in (("residual", residual), ("sigma", preds["std"][detection])):
            stats[name] = scale_fields({"std": values.double()}, gain)["std"].cpu().numpy()
        return stats

    def _overlaps(self, truth: torch.Tensor, preds: torch.Tensor) -> torch.Tensor:
        return box_iou(truth, preds)

    def _residual(self, preds: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return truth - preds

    def _match(self, preds: dict[str, torch.Tensor], batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Match greedily by descending score, class by class: indices of detections and of their ground truths."""
        iou = self._overlaps(batch["bboxes"], preds["bboxes"]) * (batch["cls"][:, None] == preds["cls"])
        iou = iou.cpu().numpy()
        pairs = []
        for j in np.flatnonzero(iou.max(0) >= MATCH_IOU):
            i = int(iou[:, j].argmax())
            if iou[i, j] >= MATCH_IOU:
                pairs.append((int(j), i))
                iou[i] = 0
        index = torch.tensor(pairs, dtype=torch.long, device=preds["cls"].device).view(-1, 2)
        return index[:, 0], index[:, 1]


class UncertDetectionValidator(_UncertValidator):
    """Validate horizontal boxes with uncertainty."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take Ultralytics' arguments and use metrics that know sigma."""
        super().__init__(*args, **kwargs)
        self.metrics = UncertDetMetrics()


class UncertOBBValidator(_UncertValidator, OBBValidator):
    """Validate oriented boxes with uncertainty; matched by probIoU, as Ultralytics does."""

    coordinates = 5

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take Ultralytics' arguments and use metrics that know sigma."""
        super().__init__(*args, **kwargs)
        self.metrics = UncertOBBMetrics()

    def _overlaps(self, truth: torch.Tensor, preds: torch.Tensor) -> torch.Tensor:
        return batch_probiou(truth, preds)

    def _residual(self, preds: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return align_representation(truth, preds[:, 4]) - preds


def format_summary(summary: SigmaSummary, unit: str) -> str:
    """Return one line for the terminal."""
    return (
        f"Sigma ({unit}): {summary.n} matched boxes, Spearman {summary.spearman:.3f}, "
        f"mean sigma {summary.sharpness:.3g}, mean error {summary.error:.3g}, "
        f"within 1 sigma {summary.coverage68:.1%}, NLL {summary.nll:.3f} "
        f"({summary.nll_calibrated:.3f} at temperature {summary.temperature:.2f}; "
        f"constant sigma {summary.nll_constant:.3f})"
    )
