"""Predictors: Ultralytics' own with our post-processing and results that carry the uncertainty."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.models.yolo.obb import OBBPredictor
from ultralytics.utils import DEFAULT_CFG, ops
from ultralytics.utils.patches import override_configs

from yolo_uncert.engine.calibration import Calibration, applicable, apply_calibration, calibration_of
from yolo_uncert.engine.options import put_options, split_options
from yolo_uncert.engine.postprocess import Detections, check_rules, letterbox_gain, postprocess, scale_fields
from yolo_uncert.engine.results import UncertResults
from yolo_uncert.engine.schemas import schema_of
from yolo_uncert.ops import warm_up


class _UncertPredictor(DetectionPredictor):
    """Post-process with uncertainty and return results with standard deviations."""

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | SimpleNamespace | None = None,
        _callbacks: dict[str, Any] | None = None,
    ) -> None:
        """Take Ultralytics' arguments, ``overrides`` with our run options among them."""
        stock, ours = split_options(overrides)
        super().__init__(cfg, stock, _callbacks)
        put_options(self.args, ours, "predict")

    def setup_model(self, model: Any, verbose: bool = True) -> None:
        """Load the model and learn its extra channels."""
        super().setup_model(model, verbose)
        self.schema = schema_of(self.model, self.args.task)
        self.calibration = calibration_of(self.model)
        check_rules(self.schema, self.args, end2end=getattr(self.model, "end2end", False))
        warm_up(self.args.suppress_backend)  # the first frame must not wait for a compiler

    def postprocess(self, preds: Any, img: torch.Tensor, orig_imgs: Any, **kwargs: Any) -> list[UncertResults]:
        """Return one result per image.

        A tracker may call this again with ``iou=`` and the bare tensor, so everything comes from the tensor.
        """
        y = preds[0] if isinstance(preds, (list, tuple)) else preds
        save_feats = getattr(self, "_feats", None) is not None
        options = SimpleNamespace(**{**vars(self.args), "iou": kwargs.pop("iou", self.args.iou)})
        end2end = getattr(self.model, "end2end", False)
        found = postprocess(y, self.schema, options, end2end=end2end)
        calibration = applicable(self.calibration, self.schema, self.args, end2end=end2end)
        if not isinstance(orig_imgs, list):
            orig_imgs = ops.convert_torch2numpy_batch(orig_imgs)[..., ::-1]
        results = [
            self._result(d, img, orig, path, calibration)
            for d, orig, path in zip(found, orig_imgs, self.batch[0], strict=False)
        ]
        if save_feats:
            index = [d.index for d in found]
            for result, features in zip(results, self.get_obj_feats(self._feats, index), strict=True):
                result.feats = features
        return results

    def write_results(self, *args: Any, **kwargs: Any) -> str:
        """Draw and save results, with labels where there is room for them rather than always."""
        automatic = {"show_labels": None if self.args.show_labels else False}
        with override_configs(self.args, automatic):
            text: str = super().write_results(*args, **kwargs)
        return text

    def _result(
        self, found: Detections, img: torch.Tensor, orig_img: np.ndarray, path: str, calibration: Calibration | None
    ) -> UncertResults:
        """Scale detections to the original image, calibrate and wrap them."""
        rotated = found.boxes.shape[1] == 5
        boxes = found.boxes.clone()
        boxes[:, :4] = ops.scale_boxes(img.shape[2:], boxes[:, :4], orig_img.shape, xywh=rotated)
        data = torch.cat((boxes, found.conf[:, None], found.cls[:, None]), 1)
        fields = scale_fields(found.fields, letterbox_gain((img.shape[2], img.shape[3]), orig_img.shape[:2]))
        fields = apply_calibration(fields, calibration)
        conformal = calibration.conformal if calibration else None
        if rotated:
            return UncertResults(orig_img, path, self.model.names, obb=data, fields=fields, conformal=conformal)
        return UncertResults(orig_img, path, self.model.names, data, fields=fields, conformal=conformal)


class UncertDetectionPredictor(_UncertPredictor):
    """Predict horizontal boxes with uncertainty."""


class UncertOBBPredictor(_UncertPredictor, OBBPredictor):
    """Predict oriented boxes with uncertainty."""
