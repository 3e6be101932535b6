"""The modes of the command line: what each does, and the options that it heeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from yolo_uncert.options import describe
from yolo_uncert.run_options import CalibrationOptions, PrepareOptions


@dataclass(frozen=True)
class Mode:
    """One mode of the command line.

    Attributes:
        doc: What it does.
        example: A command that works.
        sections: Sections of Ultralytics' ``default.yaml`` that it heeds.
        stock: Further options of Ultralytics that it heeds.
        ours: Names of our run options that it heeds.
        own: Options that only this mode has, with their meaning.
        defaults: Defaults of Ultralytics' options that in this mode differ from those of its ``default.yaml``.
        unheeded: Options of these sections that it does not heed.
    """

    doc: str
    example: str
    sections: tuple[str, ...]
    stock: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    unheeded: tuple[str, ...] = ()


_SIGMA = (
    "sigma_source",
    "iou_alpha",
    "score_fusion",
    "suppress",
    "soft_sigma",
    "var_vote",
    "vote_sigma",
    "vote_iou",
    "vote_pool",
    "vote_share",
    "vote_weight",
    "vote_merge",
    "max_nms",
    "multi_label",
    "suppress_backend",
)
_APPLIED = (*_SIGMA, "calibrated")
_WRITTEN = (*_APPLIED, "rows", "interval_level", "reconnect", "overlay")
_TRAIN = ("Train", "Val", "Hyperparameters")
_RUN = ("model", "imgsz", "batch", "device", "project", "name", "exist_ok", "verbose", "compile")
_PREDICT = (*_RUN, "save", "conf", "iou", "max_det", "quantize", "dnn", "nms", "channels_last")
_DATA = ("data", "workers", "cache", "rect", "single_cls", "fraction", "classes")
_VAL = (*_RUN, *_DATA, "augment", "agnostic_nms", "channels_last")

PLACES = ("project", "name", "exist_ok")
"""Options of Ultralytics that say where files go; the demo has ``out`` for that."""

DEMO_TRAINING: dict[str, Any] = {
    "epochs": 30,
    "imgsz": 160,
    "batch": 16,
    "nbs": 16,
    "optimizer": "AdamW",
    "lr0": 0.002,
    "warmup_epochs": 1,
    "mosaic": 0.0,
    "erasing": 0.0,
    "cache": "ram",
    "workers": 0,
    "val": False,
}
"""Short training from random weights: small images, and whole scenes instead of mosaics of cut ones."""

_OF_MODEL = "model's"
_TRAINED = {"task": _OF_MODEL, "imgsz": _OF_MODEL}
_PREDICTED = {**_TRAINED, "batch": "1", "conf": "0.25"}
_VALIDATED = {**_TRAINED, "data": _OF_MODEL, "single_cls": _OF_MODEL, "rect": "True"}

MODES: dict[str, Mode] = {
    "train": Mode(
        "Train a model on your data.",
        "yolo-uncert train model=yolo11n-uncert.yaml data=bccd.yaml epochs=50 imgsz=320",
        _TRAIN,
        ("classes",),
        ("retrofit", "data_root", "pdq", *_SIGMA),
        defaults={"task": _OF_MODEL},
    ),
    "val": Mode(
        "Measure detection and uncertainty on a data set.",
        "yolo-uncert val model=best.pt data=bccd.yaml",
        ("Val", "Visualize"),
        (*_VAL, "visualize"),
        ("data_root", "pdq", *_APPLIED),
        defaults=_VALIDATED,
    ),
    "predict": Mode(
        "Detect in images, videos, folders and streams.",
        "yolo-uncert predict model=best.pt source=video.mp4",
        ("Predict", "Visualize"),
        _PREDICT,
        _WRITTEN,
        defaults=_PREDICTED,
    ),
    "track": Mode(
        "Detect and follow objects in a video.",
        "yolo-uncert track model=best.pt source=video.mp4 tracker=bytetrack-uncert.yaml",
        ("Predict", "Visualize", "Tracker"),
        _PREDICT,
        _WRITTEN,
        defaults={**_PREDICTED, "conf": "0.1"},
    ),
    "scene": Mode(
        "Detect in scenes too large for one image (GeoTIFF, ...), by tiles; write GeoPackage, GeoJSON and DOTA txt.",
        "yolo-uncert scene model=best.pt source=scene.tif tile=1024 overlap=200",
        (),
        (
            "model",
            "device",
            "conf",
            "iou",
            "max_det",
            "classes",
            "agnostic_nms",
            "quantize",
            "dnn",
            "compile",
        ),
        (*_APPLIED, "interval_level"),
        {
            "source": "A raster or image; or many of them: a folder, a pattern, a .txt file with a name in each line.",
            "tile": "Side of a tile in pixels (default 1024).",
            "overlap": "Pixels that tiles share, no less than the longest object (default 200).",
            "imgsz": "Size at which the model sees a tile (default: that of the tile).",
            "batch": "Tiles per batch (default 4).",
            "bands": "One or three bands, numbered from 1, to show as red, green, blue (default 1,2,3).",
            "stretch": "Percentiles of a band that become black and white if it is not 8-bit (default 2,98).",
            "out": "Folder for the files (default: a new one, scene, beside the other runs).",
            "resume": "Go on with what a run that was stopped has left in out; False starts over (default True).",
            "dota": "Write DOTA's Task1_<class>.txt, one set for all scenes (default True).",
        },
        {"task": _OF_MODEL, "conf": "0.25"},
    ),
    "prepare": Mode(
        "Cut a data set in DOTA's format into tiles to train on.",
        "yolo-uncert prepare source=DOTA out=DOTA-tiles tile=1024 overlap=200 scales=0.5,1.0,1.5",
        (),
        own={
            "source": "Folder with the images and labelTxt of train, val and test.",
            "out": "Folder for the tiles and their data.yaml (default: that of the source with -tiles behind it).",
            **{name: f"{doc} (default {default})" for name, default, doc in describe(PrepareOptions)},
        },
    ),
    "export": Mode(
        "Convert a model to ONNX or TorchScript, uncertainty channels included.",
        "yolo-uncert export model=best.pt format=onnx",
        ("Export",),
        (
            *("model", "imgsz", "batch", "device", "data", "split", "fraction", "quantize", "name", "verbose"),
            *("nms", "conf", "iou", "max_det", "agnostic_nms"),
        ),
        ("data_root", "sigma_source"),
        defaults={**_TRAINED, "batch": "1", "verbose": "False"},
    ),
    "compare": Mode(
        "Validate models, or several values of an option, side by side with bootstrap intervals.",
        "yolo-uncert compare model=a.pt,b.pt data=bccd.yaml suppress=hard,soft",
        ("Val",),
        _VAL,
        ("data_root", "pdq", *_APPLIED),
        {
            "samples": "Draws of images for the intervals (default 500).",
            "out": "Folder for comparison.json and .csv (default: a new one, compare, beside the other runs).",
        },
        {**_VALIDATED, "plots": "False"},
    ),
    "calibrate": Mode(
        "Correct the standard deviations of a trained model by its errors on a data set.",
        "yolo-uncert calibrate model=best.pt data=bccd.yaml method=conformal level=0.9",
        ("Val",),
        _VAL,
        ("data_root", *_SIGMA),
        {name: f"{doc} (default {default})" for name, default, doc in describe(CalibrationOptions)},
        {**_VALIDATED, "plots": "False"},
    ),
    "info": Mode(
        "Tell what a model file is: classes, branches, training, calibration.",
        "yolo-uncert info model=best.pt",
        (),
        ("model",),
        defaults={"task": _OF_MODEL},
    ),
    "demo": Mode(
        "Show a trained model (epochs=0: no more), then train one on generated scenes or your data.",
        "yolo-uncert demo",
        _TRAIN,
        ours=("retrofit", "data_root", "pdq", *_SIGMA),
        own={
            "out": "Folder for data, runs and pictures (default runs/demo).",
            "scenes": "Scenes with known label noise to train on (default 480).",
        },
        defaults={name: str(value) for name, value in DEMO_TRAINING.items()},
        unheeded=PLACES,
    ),
}
