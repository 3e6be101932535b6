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
from ultralytics.utils.metrics import box_iou

from yolo_uncert.engine.metrics import UncertDetMetrics, UncertOBBMetrics, sigma_prefixes
from yolo_uncert.engine.options import put_options, split_options
from yolo_uncert.engine.postprocess import check_rules, postprocess, scale_fields
from yolo_uncert.engine.records import image_record
from yolo_uncert.engine.schemas import schema_of
from yolo_uncert.functional.boxes import align_representation
from yolo_uncert.functional.residuals import SigmaSummary
from yolo_uncert.ops import pairwise_rotated_iou, warm_up


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
        """Return the stock ``tp`` and what the records need, with residuals and sigma in original pixels."""
        stats: dict[str, np.ndarray] = super()._process_batch(preds, batch)
        (gain, _), pad = batch["ratio_pad"]
        detections = {"bboxes": _original(preds["bboxes"], gain, pad), "std": self._original_std(preds["std"], gain)}
        detections |= {name: preds[name].double().cpu().numpy() for name in ("conf", "cls")}
        truth = {"bboxes": _original(batch["bboxes"], gain, pad), "cls": batch["cls"].double().cpu().numpy()}
        iou = self._overlaps(batch["bboxes"], preds["bboxes"]).double().cpu().numpy()
        shape = tuple(batch["ori_shape"])
        records, rows, targets = image_record(detections, truth, iou, shape, batch["im_file"])
        if detections["std"].shape[1]:
            residual = self._residual(detections["bboxes"][rows], truth["bboxes"][targets])
            sigma = detections["std"][rows]
        else:
            residual = sigma = np.zeros((0, self.coordinates))
        return {**stats, **records, "residual": residual, "sigma": sigma}

    def _original_std(self, std: torch.Tensor, gain: float) -> np.ndarray:
        """Return standard deviations in original pixels."""
        return scale_fields({"std": std.double()}, gain)["std"].cpu().numpy()

    def _overlaps(self, truth: torch.Tensor, preds: torch.Tensor) -> torch.Tensor:
        return box_iou(truth, preds)

    def _residual(self, preds: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return truth - preds


class UncertDetectionValidator(_UncertValidator):
    """Validate horizontal boxes with uncertainty."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take Ultralytics' arguments and use metrics that know sigma."""
        super().__init__(*args, **kwargs)
        self.metrics = UncertDetMetrics()


class UncertOBBValidator(_UncertValidator, OBBValidator):
    """Validate oriented boxes with uncertainty.

    The stock table matches by probIoU, as Ultralytics does. What is measured of sigma and of the scores matches by the
    exact overlap: probIoU is above 0 for boxes that do not touch.
    """

    coordinates = 5

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take Ultralytics' arguments and use metrics that know sigma."""
        super().__init__(*args, **kwargs)
        self.metrics = UncertOBBMetrics()

    def _overlaps(self, truth: torch.Tensor, preds: torch.Tensor) -> torch.Tensor:
        return pairwise_rotated_iou(truth.float(), preds.float())

    def _residual(self, preds: np.ndarray, truth: np.ndarray) -> np.ndarray:
        aligned = align_representation(torch.from_numpy(truth), torch.from_numpy(preds[:, 4]))
        return aligned.numpy() - preds


def _original(boxes: torch.Tensor, gain: float, pad: tuple[float, float]) -> np.ndarray:
    """Return boxes, xyxy or xywhr, in pixels of the original image; not clipped to it, so that errors stay errors."""
    rows = boxes.double().cpu().numpy()
    shift = (*pad, 0, 0) if rows.shape[1] == 5 else (*pad, *pad)
    return np.hstack(((rows[:, :4] - shift) / gain, rows[:, 4:]))


def format_summary(summary: SigmaSummary, unit: str) -> str:
    """Return one line for the terminal."""
    return (
        f"Sigma ({unit}): {summary.n} matched boxes, Spearman {summary.spearman:.3f}, "
        f"mean sigma {summary.sharpness:.3g}, mean error {summary.error:.3g}, "
        f"within 1 sigma {summary.coverage68:.1%}, NLL {summary.nll:.3f} "
        f"({summary.nll_calibrated:.3f} at temperature {summary.temperature:.2f}; "
        f"constant sigma {summary.nll_constant:.3f})"
    )
