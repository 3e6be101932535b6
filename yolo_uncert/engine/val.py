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

from yolo_uncert.data import data_name
from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.engine.calibration import Calibration, applicable, apply_calibration, calibration_of
from yolo_uncert.engine.metrics import UncertDetMetrics, UncertOBBMetrics
from yolo_uncert.engine.options import put_iou, put_options, split_options
from yolo_uncert.engine.postprocess import postprocess, scale_fields
from yolo_uncert.engine.records import image_record, pdq_record
from yolo_uncert.engine.results import UncertResults
from yolo_uncert.engine.rules import check_rules, sigma_prefixes
from yolo_uncert.engine.schemas import schema_of
from yolo_uncert.engine.standards import coco_results, coco_tables, dota_records, exact_table
from yolo_uncert.engine.tables import Table, as_text, interval_table, tables, titles, without_classes, write_results
from yolo_uncert.evaluation import write_dota
from yolo_uncert.functional.boxes import align_representation
from yolo_uncert.ops import pairwise_rotated_iou, warm_up


class _UncertValidator(DetectionValidator):
    """Post-process with uncertainty and compare sigma with the errors of the matched boxes."""

    coordinates: tuple[str, ...] = UncertBoxes.coordinates
    calibration: Calibration | None = None

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
        put_iou(self.args, stock)

    def init_metrics(self, model: torch.nn.Module) -> None:
        """Learn the model's extra channels before the first batch."""
        super().init_metrics(model)
        self.schema = schema_of(model, self.args.task)
        check_rules(self.schema, self.args, end2end=self.end2end)
        warm_up(self.args.suppress_backend)
        self.calibration = applicable(calibration_of(model), self.schema, self.args, end2end=self.end2end)
        self._compare_names(model)
        self._compare_origin()
        self.metrics.prefixes = sigma_prefixes(self.schema, self.args.sigma_source)

    def _compare_origin(self) -> None:
        """Warn where a calibration may be about to be measured on the images that it was fitted to: names are alike."""
        origin = self.calibration.origin if self.calibration else {}
        here = data_name(str(self.args.data)), self.args.split
        if origin and (data_name(origin["data"]), origin["split"]) == here:
            LOGGER.warning(
                f"the model was calibrated on {origin['data']}, split={origin['split']}. If that is this data set, "
                "coverage and calibration error are better than on other images: measure on another split"
            )

    def _compare_names(self, model: Any) -> None:
        """Warn where the classes of the data are others than those that the model was trained on."""
        both = model.names, self.data["names"]
        known, given = (names if isinstance(names, dict) else dict(enumerate(names)) for names in both)
        other = [i for i in given if known.get(i) != given[i]]
        if other and not self.args.single_cls:
            i = other[0]
            LOGGER.warning(
                f"{len(other)} classes of the data are not those of the model, and compared by their number: {i} is "
                f"{given[i]!r} in the data and {known.get(i, 'unknown')!r} in the model"
            )

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
        fields = apply_calibration(scale_fields({"std": predn["std"]}, gain), self.calibration)
        return {**super().scale_preds(predn, pbatch), **fields}

    def pred_to_json(self, predn: dict[str, torch.Tensor], pbatch: dict[str, Any]) -> None:
        """Add ``std`` to the stock rows: x1, y1, x2, y2 in pixels, or x, y, w, h in pixels and angle in rad."""
        start = len(self.jdict)
        super().pred_to_json(predn, pbatch)
        if predn["std"].shape[1]:
            for row, std in zip(self.jdict[start:], predn["std"].tolist(), strict=True):
                row["std"] = [round(s, 4) for s in std]

    def save_one_txt(self, predn: dict[str, torch.Tensor], save_conf: bool, shape: tuple[int, int], file: Path) -> None:
        """Append the standard deviations to the stock columns, as `UncertResults.save_txt` does."""
        rows = torch.cat((predn["bboxes"], predn["conf"][:, None], predn["cls"][:, None]), 1)
        blank, fields = np.zeros(shape, np.uint8), {"std": predn["std"]} if predn["std"].shape[1] else {}
        boxes, obb = (rows, None) if len(self.coordinates) == 4 else (None, rows)
        UncertResults(blank, "", self.names, boxes, obb=obb, fields=fields).save_txt(file, save_conf)

    def finalize_metrics(self) -> None:
        """Write what was measured beside the stock results; not in every epoch of a training."""
        super().finalize_metrics()
        if not self.training:
            self.metrics.further = self._further_tables()
            self._write()

    def _further_tables(self) -> list[Table]:
        """Return the tables of what only some models or tasks have."""
        conformal = self.calibration.conformal if self.calibration else None
        if conformal is None or not len(self.metrics.matches):
            return []
        return [interval_table(self.metrics.matches, conformal, self.coordinates)]

    def _write(self) -> None:
        options = {k: v for k, v in vars(self.args).items() if v is not None}
        origin = self.calibration.origin if self.calibration else None
        write_results(self.metrics, {**options, "calibration": origin}, self.save_dir)

    def print_results(self) -> None:
        """Print the stock table, and after a training or by itself those of AP by overlap, sigma and scores."""
        super().print_results()
        if self.training:
            return
        further = self.metrics.further if self.args.verbose else map(without_classes, self.metrics.further)
        for table in [*tables(self.metrics, classes=self.args.verbose), *further]:
            LOGGER.info(as_text(table))

    def _process_batch(self, preds: dict[str, torch.Tensor], batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return the stock ``tp`` and what the records need, with residuals and sigma in original pixels."""
        stats: dict[str, np.ndarray] = super()._process_batch(preds, batch)
        gains, pad = batch["ratio_pad"]
        detections = {"bboxes": _original(preds["bboxes"], gains, pad), "std": self._original_std(preds["std"], gains)}
        detections |= {name: preds[name].cpu().double().numpy() for name in ("conf", "cls")}
        truth = {"bboxes": _original(batch["bboxes"], gains, pad), "cls": batch["cls"].cpu().double().numpy()}
        iou = self._overlaps(batch["bboxes"], preds["bboxes"]).cpu().double().numpy()
        shape = tuple(batch["ori_shape"])
        records, rows, targets = image_record(detections, truth, iou, shape, batch["im_file"])
        records["pdq"] = pdq_record(detections if self.args.pdq else None, truth, shape)
        # Evaluations of their own need all boxes; to keep them in every epoch would be a waste.
        kept = 0 if self.training else None
        records |= {"boxes": detections["bboxes"][:kept], "target_boxes": truth["bboxes"][:kept]}
        residual = self._residual(detections["bboxes"][rows], truth["bboxes"][targets])
        sigma = detections["std"][rows] if detections["std"].shape[1] else np.full_like(residual, np.nan)
        return {**stats, **records, "residual": residual, "sigma": sigma}

    def _original_std(self, std: torch.Tensor, gains: tuple[float, float]) -> np.ndarray:
        """Return standard deviations in original pixels, calibrated if the model is."""
        columns = std.shape[1]
        fields = {"std": std.cpu().double() / torch.from_numpy(_scales(gains, len(self.coordinates))[:columns])}
        return apply_calibration(fields, self.calibration)["std"].numpy()

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

    def coco_evaluate(
        self, stats: dict[str, Any], pred_json: Any, anno_json: Any, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Evaluate as COCO does, without the package that upstream would install for it; LVIS is left to upstream."""
        if self.is_lvis or not self.jdict:
            return super().coco_evaluate(stats, pred_json, anno_json, *args, **kwargs)
        images = [int(Path(file).stem) for file in self.dataloader.dataset.im_files] if self.is_coco else None
        try:
            found = coco_results(anno_json, pred_json, images)
        except (ValueError, OSError) as error:  # what is measured already must not be lost
            LOGGER.warning(f"no COCO evaluation: {error}")
            return stats
        stats.update({f"metrics/mAP_{size}(B)": found[f"coco/AP_{size}"] for size in ("small", "medium", "large")})
        if self.training:
            return stats
        coco = coco_tables(found)
        self.metrics.further += coco
        for table in coco:
            LOGGER.info(as_text(table))
        self._write()
        if self.is_coco:
            stats.update({"metrics/mAP50(B)": found["coco/AP50"], "metrics/mAP50-95(B)": found["coco/AP"]})
        return {**stats, **found}


class UncertOBBValidator(_UncertValidator, OBBValidator):
    """Validate oriented boxes with uncertainty.

    The stock table matches by probIoU, as Ultralytics does. What is measured of sigma and of the scores matches by the
    exact overlap: probIoU is above 0 for boxes that do not touch.
    """

    coordinates = UncertOBB.coordinates

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take Ultralytics' arguments and use metrics that know sigma."""
        super().__init__(*args, **kwargs)
        self.metrics = UncertOBBMetrics()

    def _further_tables(self) -> list[Table]:
        """Return AP by the exact overlap as well."""
        if self.metrics.scored is None or not len(self.metrics.scored.target_cls):
            return super()._further_tables()
        detections, truth = dota_records(self.metrics, self.names)
        return [*super()._further_tables(), exact_table(detections, truth, self.names)]

    def print_results(self) -> None:
        """Write DOTA's result files too, if results are to be saved."""
        super().print_results()
        if self.args.save_json and not self.training:
            try:
                detections, _ = dota_records(self.metrics, self.names)
                write_dota(self.save_dir / "dota", detections, titles(self.names).values())
            except (ValueError, OSError) as error:  # what is measured already must not be lost
                LOGGER.warning(f"no result files of DOTA: {error}")

    def _overlaps(self, truth: torch.Tensor, preds: torch.Tensor) -> torch.Tensor:
        return pairwise_rotated_iou(truth.float(), preds.float())

    def _residual(self, preds: np.ndarray, truth: np.ndarray) -> np.ndarray:
        aligned = align_representation(torch.from_numpy(truth), torch.from_numpy(preds[:, 4]))
        return aligned.numpy() - preds


def _original(boxes: torch.Tensor, gains: tuple[float, float], pad: tuple[float, float]) -> np.ndarray:
    """Return boxes, xyxy or xywhr, in pixels of the original image; not clipped to it, so that errors stay errors."""
    rows = boxes.cpu().double().numpy()
    shift = (*pad, 0, 0, 0) if rows.shape[1] == 5 else (*pad, *pad)
    return (rows - shift) / _scales(gains, rows.shape[1])


def _scales(gains: tuple[float, float], coordinates: int) -> np.ndarray:
    """Return network-input pixels per original pixel of every coordinate, 1 for an angle.

    Args:
        gains: Of height and width. They differ where the sides of a long image were rounded; upstream takes the first.
        coordinates: 4 of horizontal boxes, 5 of oriented ones, whose sides point anywhere.
    """
    y, x = gains
    side = float(np.sqrt(x * y))
    return np.array([x, y, x, y] if coordinates == 4 else [x, y, side, side, 1.0])
