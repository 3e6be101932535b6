"""A model as a finder of candidates in tiles: everything that its predictor does, except for the suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from ultralytics.utils import ops

from yolo_uncert.engine.boxes import Array
from yolo_uncert.engine.calibration import Calibration, applicable, apply_calibration
from yolo_uncert.engine.candidates import Candidates, extract, extract_selected
from yolo_uncert.engine.postprocess import Detections, letterbox_gain, suppress_candidates
from yolo_uncert.engine.predict import UncertDetectionPredictor, UncertOBBPredictor
from yolo_uncert.engine.results import UncertResults
from yolo_uncert.engine.rules import pick_source, suppression_of
from yolo_uncert.functional.conformal import Conformal
from yolo_uncert.model import YOLO
from yolo_uncert.options import OptionError
from yolo_uncert.schema import Schema

Image = npt.NDArray[np.uint8]

PER_IMAGE = (
    *("save", "save_txt", "save_crop", "save_frames", "save_json", "project", "name", "show", "overlay", "rows"),
    *("stream", "reconnect", "visualize", "embed", "augment"),
)
"""Options of predict that tell what to do with each image."""

LEAST_STRIDE = 32
"""Stride of a model whose own is not known, as of an exported one."""

BLANK = 64
"""Side of the image that a model is set up with where there is no tile to look at."""


class Finder(Protocol):
    """Finds candidates in tiles and suppresses those of several tiles.

    Attributes:
        task: ``detect`` or ``obb``.
        names: Class names.
    """

    task: str
    names: dict[int, str]

    @property
    def agnostic(self) -> bool:
        """Whether boxes of different classes suppress each other."""

    @property
    def conformal(self) -> Conformal | None:
        """Scores of a calibration set, if the model carries one."""

    def find(self, tiles: Sequence[Image]) -> list[Candidates]:
        """Return the candidates of each tile in its pixels."""

    def settle(self, candidates: Candidates) -> Detections:
        """Suppress the candidates of a scene, derive and calibrate their standard deviations."""


class _Gathering(UncertDetectionPredictor):
    """Return all candidates as results, in pixels of the tile."""

    def setup_model(self, model: Any, verbose: bool = True) -> None:
        """Load the model.

        Raises:
            OptionError: The model does not take colour images.
        """
        super().setup_model(model, verbose)
        if (channels := getattr(self.model, "channels", 3)) != 3:
            raise OptionError(f"scene: tiles have three channels, and this model takes {channels}")

    def postprocess(self, preds: Any, img: torch.Tensor, orig_imgs: Any, **kwargs: Any) -> list[UncertResults]:
        """Return one result per tile, whose boxes are its candidates."""
        y = preds[0] if isinstance(preds, (list, tuple)) else preds
        if getattr(self.model, "end2end", False):
            found = extract_selected(y, self.schema, self.args)
        else:
            found = extract(y, self.schema, self.args, multi_label=bool(self.args.multi_label))
        shape = (img.shape[2], img.shape[3])
        return [self._packed(c, shape, o, p) for c, o, p in zip(found, orig_imgs, self.batch[0], strict=True)]

    def _packed(self, found: Candidates, shape: tuple[int, int], original: Any, path: str) -> UncertResults:
        oriented = found.boxes.shape[1] == 5
        boxes = found.boxes.clone()
        # As centre and size, because corners would be clipped to the tile.
        centred = boxes[:, :4] if oriented else ops.xyxy2xywh(boxes)
        centred = ops.scale_boxes(shape, centred, original.shape, xywh=True)
        boxes = torch.cat((centred, boxes[:, 4:]), 1) if oriented else ops.xywh2xyxy(centred)
        gain = letterbox_gain(shape, original.shape[:2])
        fields: dict[str, Array] = {f"raw_{k}": _scaled(k, v, gain) for k, v in found.fields.items()}
        data = torch.cat((boxes, found.conf[:, None], found.cls[:, None]), 1)
        if oriented:
            return UncertResults(original, path, self.model.names, obb=data, fields=fields)
        return UncertResults(original, path, self.model.names, data, fields=fields)


class _GatheringOBB(_Gathering, UncertOBBPredictor):
    """The same for oriented boxes."""


class ModelFinder:
    """Find with a model.

    Args:
        model: Detect or obb model.
        options: Options of predict.
        side: Longer side of the tiles in pixels, at which the model sees them unless ``imgsz`` is given.

    Raises:
        OptionError: The model has another task, or an option is about single images.
    """

    def __init__(self, model: YOLO, options: dict[str, Any], side: int) -> None:
        if model.task not in ("detect", "obb"):
            raise OptionError(f"scene: detect and obb models find boxes in scenes, this one's task is {model.task}")
        if wrong := [name for name in PER_IMAGE if options.get(name)]:
            raise OptionError(f"scene: {wrong[0]} is about single images; see yolo-uncert help scene")
        self.task: str = model.task
        self.names: dict[int, str] = model.names
        stride = int(getattr(model.model, "stride", torch.tensor([LEAST_STRIDE])).max())
        size = -(-side // stride) * stride  # upstream rounds, too, and says so for every batch
        self._model, self._options = model, {"imgsz": size, **options}
        self._kind = _GatheringOBB if self.task == "obb" else _Gathering

    def find(self, tiles: Sequence[Image]) -> list[Candidates]:
        """Return the candidates of each tile in its pixels."""
        given = {**self._options, "save": False, "verbose": False}
        results = self._model.predict(list(tiles), predictor=self._kind, **given)
        return [_unpacked(result) for result in results]

    def settle(self, candidates: Candidates) -> Detections:
        """Suppress the candidates of a scene, derive and calibrate their standard deviations."""
        predictor = self._predictor
        found = settle(candidates, predictor.schema, predictor.args, end2end=self._end2end)
        found.fields = apply_calibration(found.fields, self._calibration)
        return found

    @property
    def agnostic(self) -> bool:
        """Whether boxes of different classes suppress each other."""
        return bool(self._predictor.args.agnostic_nms)

    @property
    def conformal(self) -> Conformal | None:
        """Scores of the calibration set, if the model carries a calibration that is applied."""
        return self._calibration.conformal if self._calibration else None

    @property
    def _predictor(self) -> Any:
        """What the first tile sets up; a run that goes on may have no tile left."""
        if self._model.predictor is None:
            self.find([np.zeros((BLANK, BLANK, 3), np.uint8)])
        return self._model.predictor

    @property
    def _end2end(self) -> bool:
        return bool(getattr(self._predictor.model, "end2end", False))

    @property
    def _calibration(self) -> Calibration | None:
        predictor = self._predictor
        return applicable(predictor.calibration, predictor.schema, predictor.args, end2end=self._end2end)


def settle(candidates: Candidates, schema: Schema, args: SimpleNamespace, *, end2end: bool = False) -> Detections:
    """Suppress candidates by the options of a run, without its limits on their number, which are those of an image.

    Args:
        candidates: Candidates in any pixels; those of different ``cls`` do not act on each other.
        schema: Order of the extra channels.
        args: Run options.
        end2end: The candidates are the detections of a head that selects them itself: only those of several tiles are
            duplicates, and they are suppressed without decay or vote.
    """
    most = max(len(candidates.conf), 1)
    options = replace(suppression_of(args, schema), max_det=most, max_nms=most, agnostic=False)
    options = replace(options, method="hard", vote="off") if end2end else options
    source = pick_source(schema.names, args.sigma_source)
    return suppress_candidates([candidates], options, schema, source, args.suppress_backend)[0]


def _unpacked(result: UncertResults) -> Candidates:
    boxes: Any = result.boxes if result.obb is None else result.obb
    data = boxes.data
    fields = {name.removeprefix("raw_"): values for name, values in boxes.fields.items()}
    return Candidates(data[:, :-2], data[:, -2], data[:, -1], torch.arange(len(data)), fields)


def _scaled(name: str, values: torch.Tensor, gain: float) -> torch.Tensor:
    """Bring a field from network-input pixels to those of the tile; the angle has none."""
    if name not in ("gaussian", "dfl"):
        return values
    scale = values.new_full((values.shape[1],), gain)
    scale[4:5] = 1
    return values / scale
