"""Trainers: Ultralytics' own, building models with branches and giving the branches a learning rate of their own."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.utils import DEFAULT_CFG, LOGGER, RANK, YAML
from ultralytics.utils.torch_utils import unwrap_model

from yolo_uncert.engine.calibration import calibration_of
from yolo_uncert.engine.metrics import blank_results
from yolo_uncert.engine.options import class_indices, has_names, put_iou, put_options, split_options
from yolo_uncert.engine.retrofit import branch_parameters, check_outputs, check_transferred, compare_names, stock_layers
from yolo_uncert.engine.rules import check_rules, sigma_prefixes
from yolo_uncert.engine.schemas import schema_of
from yolo_uncert.engine.val import UncertDetectionValidator, UncertOBBValidator
from yolo_uncert.nn.build import build_model
from yolo_uncert.nn.weights import is_tensor_file, load_tensors

BRANCH_GRADIENT_NORM = 1.0
"""Bound on the gradient norm of the branches.

Upstream clips the norm of all gradients together at 10: a far-off initial variance would otherwise scale down the
detector's step.
"""


GRADIENT_NORM = 10.0
"""Bound on the norm of all gradients, upstream's (``BaseTrainer.optimizer_step``)."""


class _UncertTrainer(DetectionTrainer):
    """Train a model with uncertainty branches; a stock model yaml trains as in Ultralytics."""

    validator_class: type
    _given: Mapping[str, torch.Tensor] | None = None
    """Weights that the model starts from, until they are checked; None where a worker process gets a ready model."""

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | SimpleNamespace | None = None,
        _callbacks: dict[str, Any] | None = None,
    ) -> None:
        """Take Ultralytics' arguments, ``overrides`` with our run options among them."""
        stock, ours = split_options(overrides)
        super().__init__(cfg, stock, _callbacks)
        put_options(self.args, ours, "train")
        if not self.resume:
            put_iou(self.args, stock)
        if RANK in {-1, 0}:
            YAML.save(self.save_dir / "args.yaml", vars(self.args))

    def setup_model(self) -> Any:
        """Build or load the model; ``pretrained`` may also be a file of plain tensors."""
        pretrained = self.args.pretrained
        plain = is_tensor_file(pretrained) and not self.resume
        if plain:
            self.args.pretrained = False
        ckpt = super().setup_model()
        if plain:
            self._given = load_tensors(self.model, pretrained)
            self.args.pretrained = pretrained
        if self.args.retrofit:
            self.args.freeze = stock_layers(detector(self.model))
            check_outputs(detector(self.model).model[-1])
            if self._given is not None and not self.resume:
                check_transferred(detector(self.model), self._given)
        self._given = None
        return ckpt

    def _setup_train(self) -> None:
        """Check the options of validation, and give results.csv its columns on sigma from the first epoch on."""
        if has_names(self.args.classes):
            self.args.classes = class_indices(self.args.classes, self.data["names"])
        super()._setup_train()
        if self.device.type == "cpu" and self.args.channels_last is not False:
            # Upstream keeps this to CUDA and sees no benefit on CPUs; oneDNN trains a fifth faster with it.
            self.model.to(memory_format=torch.channels_last)
        if RANK in {-1, 0}:
            schema = schema_of(detector(self.model), self.args.task)
            check_rules(schema, self.args)
            prefixes = sigma_prefixes(schema, self.args.sigma_source)
            self.metrics.update(blank_results(prefixes, pdq=self.args.pdq))

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
        """Return the model for a yaml name, path or dict, with the weights that fit."""
        model = self.set_model_names_for_load(
            build_model(cfg, self.args.task, self.data["channels"], self.data["nc"], verbose and RANK == -1)
        )
        if weights:
            model.load(weights)
            _compare(model, weights)
            if self.args.retrofit:
                compare_names(getattr(weights, "names", {}), self.data["names"])
            if verbose and calibration_of(weights):
                LOGGER.info("The calibration of the given model is dropped: training changes what it corrects")
        self._given = weights.state_dict() if weights else {}
        return model

    def get_validator(self) -> Any:
        """Return the validator that knows sigma."""
        return self.validator_class(
            self.test_loader, save_dir=self.save_dir, args=copy(self.args), _callbacks=self.callbacks
        )

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Move the branches' parameters into groups with their own learning rate and no weight decay."""
        optimizer: torch.optim.Optimizer = super().build_optimizer(model, *args, **kwargs)
        for multiplier, parameters in branch_parameters(detector(model)).items():
            own = {id(p) for p in parameters}
            home = next(g for g in optimizer.param_groups if any(id(p) in own for p in g["params"]))
            settings = {k: v for k, v in home.items() if k not in ("params", "initial_lr", "use_muon")}
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in own]
            settings |= {"lr": home["lr"] * multiplier, "weight_decay": 0.0, "param_group": "branch"}
            optimizer.add_param_group({"params": parameters, **settings})
        return optimizer

    def optimizer_step(self) -> None:
        """Bound the branches' gradients before the common clipping, which those of a detached model take no part in."""
        groups = branch_parameters(detector(self.model)).values()
        parameters = [p for group in groups for p in group if p.grad is not None]
        own = {id(p) for p in parameters}
        stock = [p for p in self.model.parameters() if p.grad is not None and id(p) not in own]
        norm = torch.nn.utils.clip_grad_norm_(parameters, BRANCH_GRADIENT_NORM * self.scaler.get_scale())
        if stock and getattr(detector(self.model).model[-1], "detach", False):
            if not norm.isfinite():  # a branch that overflows costs the branches this step, and not the detector
                for p in parameters:
                    p.grad = None
            self._step_apart(stock)
        else:
            super().optimizer_step()

    def _step_apart(self, stock: list[nn.Parameter]) -> None:
        """Take upstream's step with its bound on the detector alone, so that this one trains bit for bit as without.

        Args:
            stock: Parameters of the detector that have a gradient.
        """
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(stock, GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(self.model)

    def _model_train(self) -> None:
        """Tell the branches which epoch begins, for terms that warm up."""
        super()._model_train()
        detector(self.model).model[-1].epoch = self.epoch


class UncertDetectionTrainer(_UncertTrainer):
    """Train horizontal boxes with uncertainty."""

    validator_class = UncertDetectionValidator


class UncertOBBTrainer(_UncertTrainer, OBBTrainer):
    """Train oriented boxes with uncertainty."""

    validator_class = UncertOBBValidator


def detector(model: Any) -> Any:
    """Return the model that is trained, out of what distributes it or lets it learn from a teacher."""
    model = unwrap_model(model)
    return getattr(model, "student_model", model)


def _compare(model: nn.Module, weights: nn.Module) -> None:
    """Warn where most of the given weights are lost, as tensors of another architecture or scale are."""
    own, given = model.state_dict(), weights.state_dict()
    fitting = sum(name in own and own[name].shape == value.shape for name, value in given.items())
    if fitting < len(given) / 2:
        LOGGER.warning(
            f"only {fitting} of the {len(given)} pretrained tensors fit this model, as of another architecture or "
            "scale: the training starts from little"
        )
