"""The YOLO class that users touch: Ultralytics' own, with uncertainty heads, options and results."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import ultralytics
from torch import nn
from ultralytics.utils import DEFAULT_CFG_DICT, LOGGER, RANK

from yolo_uncert.data import resolve_data
from yolo_uncert.engine.calibrate import fit_model
from yolo_uncert.engine.calibration import check_interval_level, write_calibration
from yolo_uncert.engine.checkpoints import checkpoint_of, put_calibration, store_calibration, target_file
from yolo_uncert.engine.exported import is_quantized, keeping, with_size
from yolo_uncert.engine.options import OBB_IOU, check_options, class_indices, has_names, split_options
from yolo_uncert.engine.predict import UncertDetectionPredictor, UncertOBBPredictor
from yolo_uncert.engine.schemas import write_schema
from yolo_uncert.engine.states import alone, is_stock, moments, overridden, own_place
from yolo_uncert.engine.train import UncertDetectionTrainer, UncertOBBTrainer
from yolo_uncert.engine.val import UncertDetectionValidator, UncertOBBValidator
from yolo_uncert.files import check_folder
from yolo_uncert.nn.build import build_model, task_of
from yolo_uncert.nn.models import MODELS
from yolo_uncert.nn.weights import check_pretrained, is_tensor_file, load_tensors
from yolo_uncert.nn.yamls import load_model_yaml
from yolo_uncert.options import OptionError, parse_options
from yolo_uncert.output import record
from yolo_uncert.paths import shipped_weights
from yolo_uncert.run_options import CalibrationOptions, RunOptions
from yolo_uncert.tracking.options import resolve_tracker

ENGINE = {
    "detect": {
        "model": MODELS["detect"],
        "trainer": UncertDetectionTrainer,
        "validator": UncertDetectionValidator,
        "predictor": UncertDetectionPredictor,
    },
    "obb": {
        "model": MODELS["obb"],
        "trainer": UncertOBBTrainer,
        "validator": UncertOBBValidator,
        "predictor": UncertOBBPredictor,
    },
}


class YOLO(ultralytics.YOLO):
    """Detector that knows how sure it is about every box.

    Use it as ``ultralytics.YOLO``: ``YOLO("yolo11n-uncert.yaml").train(data=...)``, ``YOLO("best.pt")("bus.jpg")``.
    Results carry ``boxes.std`` (x1, y1, x2, y2 in pixels) or ``obb.std`` (x, y, w, h in pixels, angle in rad).
    """

    model: Any
    overrides: dict[str, Any]
    ckpt_path: str | None
    _lent: bool = False
    """Whether the cached predictor holds a stock model with borrowed DFL moments."""

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """Map detect and obb to our engine, every other task to Ultralytics'."""
        return {**super().task_map, **ENGINE}

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """Train, with our run options beside those of Ultralytics; see ``yolo-uncert help train``."""
        check_options(kwargs, "train")
        if kwargs.get("resume") is True:
            self._check_resume()
            # Known by its name, data is found even if the file that the checkpoint names is no longer there.
            if data := kwargs.get("data") or self.overrides.get("data"):
                kwargs["data"] = data
        if isinstance(kwargs.get("pretrained"), (str, Path)):
            kwargs["pretrained"] = check_pretrained(shipped_weights(kwargs["pretrained"]))
        if isinstance(kwargs.get("data"), (list, tuple)):
            if is_tensor_file(kwargs.get("pretrained", self.overrides.get("pretrained"))):
                raise OptionError("train: with several data sets pretrained= must be a .pt file, loaded anew for each")
            # Upstream would start its own command for each of several data sets, which knows none of our models.
            trainer = trainer or self._smart_load("trainer")
        if self.ckpt and is_tensor_file(kwargs.get("pretrained")):
            self.load(kwargs.pop("pretrained"))
        results = super().train(trainer, **self._with_data(kwargs))
        if isinstance(trained := getattr(self.model, "pt_path", None), (str, Path)):
            # Upstream leaves the file that the training started from, and a calibration would be stored there.
            self.ckpt_path = str(trained)
        _report(getattr(self.trainer, "validator", None))
        return results

    def val(self, validator: Any = None, **kwargs: Any) -> Any:
        """Validate, with our run options beside those of Ultralytics; see ``yolo-uncert help val``."""
        used: list[Any] = []
        kwargs = with_size(self.model, kwargs, self.overrides, square=True)
        if kwargs.get("data") is None and self.overrides.get("data"):  # what the model was trained on
            kwargs["data"] = self.overrides["data"]
        self.callbacks["on_val_end"].append(used.append)
        try:
            with alone(self), moments(self, self._options(kwargs, "val")):
                results = super().val(validator, **self._with_data(self._with_classes(kwargs)))
        finally:
            self.callbacks["on_val_end"].remove(used.append)
        _report(used[-1] if used else None)
        return results

    def predict(self, source: Any = None, stream: bool = False, predictor: Any = None, **kwargs: Any) -> Any:
        """Predict, with our run options beside those of Ultralytics; see ``yolo-uncert help predict``."""
        kwargs = with_size(self.model, kwargs, self.overrides, square=False)
        options = self._options(kwargs, "predict")
        if isinstance(batch := kwargs.get("batch"), (int, float)) and batch < 1:
            raise OptionError(f"predict: batch must be at least 1 image, not {batch}")
        if options.rows:
            check_interval_level(self.model, options, kwargs.get("mode", "predict"))
        if kwargs.get("conf", 0) is None:  # Ultralytics' way to say its default
            del kwargs["conf"]
        ours = asdict(options) if self.task in ENGINE else {}
        if self.task == "obb":  # a predictor that is used again takes Ultralytics' default
            ours["iou"] = self.overrides.get("iou", OBB_IOU)
        with alone(self), moments(self, options), overridden(self, ours):
            stock = split_options(self._with_classes(kwargs))[0]
            results = super().predict(source, stream or bool(options.rows), predictor, **stock)
        if not options.rows:
            return results
        results = record(results, self.predictor, options.rows, options.interval_level)
        return results if stream else list(results)

    def track(self, source: Any = None, stream: bool = False, persist: bool = False, **kwargs: Any) -> Any:
        """Follow objects through frames; ``tracker`` names a yaml of Ultralytics or of this package.

        The trackers of this package weigh every detection by its standard deviations, see docs/tracking.md.

        Args:
            source: As for ``predict``.
            stream: Yield results one by one.
            persist: Go on with the tracks of the previous call.
            **kwargs: As for ``predict``, and ``tracker``.

        Raises:
            FileNotFoundError: There is no such tracker yaml.
            OptionError: The ``uncertainty:`` section of the tracker yaml is wrong.
        """
        from yolo_uncert.tracking.callbacks import register  # not before it is needed, as in Ultralytics

        if kwargs.get("tracker"):
            kwargs["tracker"] = resolve_tracker(str(kwargs["tracker"]))
        register(self, persist)
        return super().track(source, stream, persist, **kwargs)

    def export(self, **kwargs: Any) -> str:
        """Export with the names of the uncertainty channels in the file's metadata.

        A stock model takes its DFL moments along if ``sigma_source=dfl``, or if it was calibrated for them. Of a model
        that ships with the package the file is written to the working directory.

        Raises:
            OptionError: The format or option would lose or garble the uncertainty channels.
        """
        options = check_options(kwargs, "export")
        if is_quantized(kwargs):  # is calibrated on images: those of the training, rather than of COCO
            kwargs = {"data": self.overrides.get("data"), **kwargs}
        if isinstance(batch := kwargs.get("batch"), (int, float)) and batch < 1:
            raise OptionError(f"export: batch must be at least 1 image, not {batch}")
        kwargs, ours = split_options(self._with_data(kwargs))
        ours.pop("data_root", None)
        if is_stock(self.model) and ours.get("sigma_source") == "dfl":
            del ours["sigma_source"]
        if ours:
            raise OptionError(f"export: {next(iter(ours))} is chosen when the exported file predicts, not before")
        for note in (write_schema, write_calibration):
            self._call_back("on_export_start", note)
        with alone(self), moments(self, options), own_place(self), keeping(self.model, kwargs):
            if kwargs.get("nms") and self._has_branches():
                raise OptionError(
                    "export with nms=True cannot carry the uncertainty channels of this model; export without it, "
                    "yolo-uncert suppresses duplicates itself when it predicts with the exported file"
                )
            path: str = super().export(**kwargs)
            if self._has_branches():
                LOGGER.info(f"Uncertainty:     yolo-uncert predict model={path} (stock yolo cannot read its channels)")
        return path

    def calibrate(self, data: str | Path | None = None, **kwargs: Any) -> Any:
        """Fit the standard deviations to the errors on a data set, and store the correction in a checkpoint.

        From then on this object applies it, too; see ``yolo-uncert help calibrate``. Models of other tasks than detect
        and obb are calibrated by Ultralytics.

        Args:
            data: Data yaml; its ``split`` (default ``val``) should be images that the model was not trained on.
            **kwargs: Options of the calibration, run options, and those of Ultralytics for ``val``.

        Returns:
            Path of the checkpoint.

        Raises:
            OptionError: The model is no checkpoint, predicts no standard deviation, or there are too few boxes.
            OSError: The checkpoint cannot be written there.
        """
        if self.task not in ENGINE:
            return super().calibrate(data=data, **kwargs)
        names = {f.name for f in fields(CalibrationOptions)}
        given = {k: str(v) if isinstance(v, Path) else v for k, v in kwargs.items() if k in names}
        own = parse_options(CalibrationOptions, given, "calibrate")
        source = checkpoint_of(self)
        target = target_file(source, own)
        check_folder(target.parent, "calibrate: out")
        values: dict[str, Any] | None = None
        if not own.remove:
            calibration = fit_model(self, own, data, {k: v for k, v in kwargs.items() if k not in names})
            values = calibration.as_dict()
        store_calibration(source, target, values)
        put_calibration(self.model, values)
        self.model.pt_path = self.ckpt_path = self.overrides["model"] = str(target)
        self.predictor = None
        LOGGER.info(f"{'Model without calibration' if own.remove else 'Calibrated model'}: {target}")
        return target

    def tune(self, use_ray: bool = False, *args: Any, **kwargs: Any) -> Any:
        """Search for training options as Ultralytics does; of a model with branches only with ``use_ray=True``.

        Raises:
            OptionError: Upstream's own search would start stock trainings, which cannot build this model.
        """
        if not use_ray and self._has_branches():
            raise OptionError(
                "tune: Ultralytics' search starts its own command, which knows none of these models; with use_ray=True "
                "it trains within this program"
            )
        return super().tune(use_ray, *args, **kwargs)

    def benchmark(self, *args: Any, **kwargs: Any) -> Any:
        """Benchmark the export formats of a stock model, as Ultralytics does.

        Raises:
            OptionError: Upstream would read the uncertainty channels of an exported file as further classes.
        """
        if self._has_branches():
            raise OptionError(
                "benchmark: Ultralytics would take the uncertainty channels of the exported files for classes; export "
                "to each format, and validate the file with yolo-uncert val model=FILE"
            )
        return super().benchmark(*args, **kwargs)

    def load(self, weights: str | Path = "yolo26n.pt") -> Any:
        """Load pretrained weights, ``.pt`` or plain tensors (``.npz``, ``.safetensors``); a calibration is dropped."""
        weights = shipped_weights(weights) if isinstance(weights, (str, Path)) else weights
        if is_tensor_file(weights):
            self._check_is_pytorch_model()
            load_tensors(self.model, weights)
            self.ckpt: dict[str, Any] = {}
            self.ckpt_path, self.predictor = None, None
        else:
            super().load(weights)
        put_calibration(self.model, None)
        if isinstance(weights, (str, Path)):
            # train() has to read the file anew: its model has the classes of the data, this one those of its yaml.
            self.overrides["pretrained"] = str(weights)
        return self

    def _load(self, weights: str, task: str | None = None) -> None:
        """Load a model file, of the user or by the name of one that ships with the package."""
        file = shipped_weights(weights)
        try:
            super()._load(file, task)
        except (ValueError, RuntimeError, EOFError, UnpicklingError) as error:
            if isinstance(error, OptionError) or not Path(file).is_file():
                raise
            raise ValueError(f"{file} is no model, or damaged: {type(error).__name__}: {error}") from error

    def _new(self, cfg: str, task: str | None = None, verbose: bool = False) -> None:
        """Build from a yaml, ours or stock; names are looked up in the package and in Ultralytics."""
        full = load_model_yaml(cfg)
        if not full["head"][-1][2].endswith(("Detect", "OBB", "OBB26")):
            super()._new(cfg, task, verbose)
            return
        self.cfg = cfg
        self.task = task or task_of(full)
        self.model = build_model(full, self.task, verbose=verbose and RANK == -1)
        self.overrides.update(model=cfg, task=self.task)
        self.model.args = {**DEFAULT_CFG_DICT, **self.overrides}
        self.model.task = self.task
        self.model_name = cfg

    def _options(self, kwargs: dict[str, Any], mode: str) -> RunOptions:
        """Return our options among those given.

        Raises:
            OptionError: One is wrong, or the model's task knows none of them.
        """
        if self.task not in ENGINE and (ours := split_options(kwargs)[1]):
            raise OptionError(f"{mode}: {next(iter(ours))} is for models of task detect or obb, not {self.task}")
        return check_options(kwargs, mode)

    def _call_back(self, event: str, function: Any) -> None:
        """Add a callback once."""
        if function not in self.callbacks[event]:
            self.add_callback(event, function)

    def _has_branches(self) -> bool:
        return getattr(self.model, "yaml", {}).get("uncertainty") is not None

    def _check_resume(self) -> None:
        """Refuse to go on with a training that is finished: upstream would start one on data of its own instead.

        Raises:
            OptionError: This model has no state of an unfinished training.
        """
        ckpt = self.ckpt or {}
        if ckpt.get("epoch", -1) < 0 or ckpt.get("optimizer") is None:
            raise OptionError(
                f"train: nothing to resume, {self.ckpt_path or self.model_name} holds no unfinished training. Start a "
                "new one from it without resume, and with data="
            )

    def _with_classes(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Replace the names of classes by their indices, and see that there are classes of these numbers."""
        classes = kwargs.get("classes")
        exported = not isinstance(self.model, nn.Module)
        if classes is None or (exported and not has_names(classes)):  # to learn its names takes to load it once more
            return kwargs
        before = self.predictor
        names = self.names  # of an exported file upstream asks a new predictor, which must not stay
        self.predictor = before
        return {**kwargs, "classes": class_indices(classes, names)}

    def _with_data(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Resolve the name of a packaged data yaml to a file with an absolute path."""
        data, root = kwargs.get("data"), kwargs.get("data_root")
        if isinstance(data, (list, tuple)):
            return {**kwargs, "data": [resolve_data(name, root) for name in data]}
        return {**kwargs, "data": resolve_data(data, root)} if isinstance(data, (str, Path)) else kwargs


def _report(validator: Any) -> None:
    """Write the report of a validation, if there was one and it has plots."""
    from yolo_uncert.report.run import report_run  # not before it is needed: matplotlib takes long to import

    report_run(validator)
