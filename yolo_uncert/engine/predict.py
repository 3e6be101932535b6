"""Predictors: Ultralytics' own with our post-processing and results that carry the uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ultralytics.data.loaders import LoadImagesAndVideos
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.models.yolo.obb import OBBPredictor
from ultralytics.utils import DEFAULT_CFG, LOGGER, ops
from ultralytics.utils.patches import override_configs

from yolo_uncert.engine.calibration import Calibration, applicable, apply_calibration, calibration_of
from yolo_uncert.engine.candidates import least_class_score
from yolo_uncert.engine.options import put_iou, put_options, split_options
from yolo_uncert.engine.postprocess import Detections, letterbox_gain, postprocess, scale_fields
from yolo_uncert.engine.results import UncertResults
from yolo_uncert.engine.rules import check_rules
from yolo_uncert.engine.schemas import head_of, schema_of
from yolo_uncert.engine.session import Session, Summary, own_trackers, rate_key, slot_view
from yolo_uncert.ops import warm_up
from yolo_uncert.run_options import run_option_names
from yolo_uncert.streams.overlay import draw_text
from yolo_uncert.streams.sources import Loading, open_source
from yolo_uncert.streams.video import VideoFile


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
        put_iou(self.args, stock)
        self.session = Session()
        self.summary: Summary | None = None
        self._place, self._overlaid = 0, None
        self._rules: dict[str, Any] = {}

    def setup_model(self, model: Any, verbose: bool = True) -> None:
        """Load the model and learn its extra channels."""
        super().setup_model(model, verbose)
        self.schema = schema_of(self.model, self.args.task)
        self.calibration = calibration_of(self.model)
        self._check_rules()
        warm_up(self.args.suppress_backend)  # the first frame must not wait for a compiler

    def _check_rules(self) -> None:
        """Look at the options, unless they are those that were looked at last."""
        rules = {name: getattr(self.args, name) for name in run_option_names()}
        if rules != self._rules:
            check_rules(self.schema, self.args, end2end=getattr(self.model, "end2end", False))
            self._rules = rules

    def inference(self, im: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the model, whose head may leave out what cannot become a detection."""
        head = head_of(self.model)
        if not hasattr(head, "least_score"):
            return super().inference(im, *args, **kwargs)
        end2end = getattr(self.model, "end2end", False)
        head.least_score = least_class_score(self.schema, self.args, end2end=end2end)
        try:
            return super().inference(im, *args, **kwargs)
        finally:
            head.least_score = 0.0

    def postprocess(self, preds: Any, img: torch.Tensor, orig_imgs: Any, **kwargs: Any) -> list[UncertResults]:
        """Return one result per image.

        A tracker may call this again with ``iou=`` and the bare tensor, so everything comes from the tensor.
        """
        y = preds[0] if isinstance(preds, (list, tuple)) else preds
        save_feats = getattr(self, "_feats", None) is not None
        options = SimpleNamespace(**{**vars(self.args), "iou": kwargs.pop("iou", self.args.iou)})
        end2end = getattr(self.model, "end2end", False)
        found = postprocess(y, self.schema, options, end2end=end2end)
        options.imgsz = self.imgsz  # what was asked for may be a text, or no multiple of the stride
        calibration = applicable(self.calibration, self.schema, options, end2end=end2end)
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

    def setup_source(self, source: Any, stride: int | None = None) -> None:
        """Open the source, with our loaders where Ultralytics' own would fail or lag behind."""
        self._check_rules()  # those of this call
        fixed = self.model.format != "pt" and not getattr(self.model, "dynamic", False)
        how = Loading(
            batch=self.args.batch,
            channels=getattr(self.model, "channels", 3),
            stride=self.args.vid_stride,
            buffer=self.args.stream_buffer,
            patience=math.inf if self.args.reconnect is None else self.args.reconnect,
            most=getattr(self.model, "batch", 1) if fixed else None,
        )
        super().setup_source(open_source(source, how), stride)

    def stream_inference(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Yield results as Ultralytics does; whatever ends the run, its videos are finished and it is summed up."""
        self.session = Session()
        results = super().stream_inference(*args, **kwargs)
        try:
            for result in results:
                self.session.done(result)
                yield result
        finally:
            results.close()
            for video in self.vid_writer.values():
                video.release()
            self._sum_up()

    def preprocess(self, im: Any) -> torch.Tensor:
        """Prepare a batch, the first thing that is done to it."""
        self.session.begin(self.dataset, self.batch[0])
        return super().preprocess(im)

    def run_callbacks(self, event: str) -> None:
        """Run callbacks; trackers find the streams of the batch in their places."""
        if event == "on_predict_postprocess_end":
            with own_trackers(self):
                super().run_callbacks(event)
        else:
            super().run_callbacks(event)

    def write_results(self, i: int, p: Path, im: torch.Tensor, s: list[str]) -> str:
        """Draw and save results, with labels where there is room for them rather than always."""
        automatic = {"show_labels": None if self.args.show_labels else False}
        self._place = i
        with override_configs(self.args, automatic), override_configs(self.dataset, slot_view(self.dataset, i)):
            text: str = super().write_results(i, p, im, s)
        return text

    def save_predicted_images(self, save_path: Path, frame: int | None = 0) -> None:
        """Save an image, or append it to a video of the rate and size of its source."""
        if self.dataset.mode != "image":
            self._draw_overlay()
            video = self.vid_writer.get(save_path) or self._new_video(save_path)
            if getattr(self.dataset, "live", self.source_type.screenshot):
                video.catch_up(self.session.captured[self._place])
        super().save_predicted_images(save_path, frame)

    def show(self, p: str = "") -> None:
        """Display the drawn image."""
        if self.dataset.mode != "image":
            self._draw_overlay()
        super().show(p)

    def _draw_overlay(self) -> None:
        """Write rate and latency on the drawn image, once."""
        on = self.args.overlay
        wanted = self.source_type.stream or self.source_type.screenshot if on is None else on
        if wanted and self.plotted_img is not self._overlaid:
            name = rate_key(self.dataset, self.batch[0][self._place])
            draw_text(self.plotted_img, self.session.text(name))
        self._overlaid = self.plotted_img

    def _new_video(self, save_path: Path) -> VideoFile:
        """Return the file that results are written to until the source ends."""
        if isinstance(self.dataset, LoadImagesAndVideos):
            for earlier in self.vid_writer.values():  # files come one after the other
                earlier.release()
        height, width = self.plotted_img.shape[:2]
        video = VideoFile(save_path, self.dataset.fps / self.args.vid_stride, (width, height))
        if self.args.save_frames:
            (self.save_dir / f"{save_path.stem}_frames").mkdir(parents=True, exist_ok=True)
        self.vid_writer[save_path] = video
        return video

    def _sum_up(self) -> None:
        """Keep the summary of the run, and print it where it tells more than Ultralytics does."""
        saved = self.args.save or self.args.save_txt or self.args.save_crop
        self.summary = self.session.summary(self.dataset, self.save_dir if saved else None)
        long = getattr(self.dataset, "mode", "image") != "image" or self.summary.skipped
        if self.args.verbose and long:
            LOGGER.info(str(self.summary))

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
