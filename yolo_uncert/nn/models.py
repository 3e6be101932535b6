"""Models with uncertainty heads: stock Ultralytics models whose head is replaced after they are built."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn.tasks import DetectionModel, OBBModel
from ultralytics.utils import LOGGER
from ultralytics.utils.loss import E2ELoss

from yolo_uncert.losses.criterion import UncertDetectionLoss, UncertOBBLoss
from yolo_uncert.nn.branched import own_copy
from yolo_uncert.nn.branches import check_uncertainty
from yolo_uncert.nn.heads import STOCK_TO_UNCERT
from yolo_uncert.nn.yamls import HEADS, OURS, load_model_yaml, resolve
from yolo_uncert.options import OptionError


class _UncertModel(DetectionModel):
    """Build the stock model with a stock stand-in head, then give that head its branches.

    ``parse_model`` of Ultralytics knows heads by identity and cannot build a foreign one; the rest of a model (strides,
    initialisation) depends on the head only through the stock parts, which stay.
    """

    loss_class: type = UncertDetectionLoss
    yaml: dict[str, Any]

    def __init__(
        self, cfg: str | Path | Mapping[str, Any], ch: int = 3, nc: int | None = None, verbose: bool = True
    ) -> None:
        """Build a model.

        Args:
            cfg: Name or path of a model yaml, or a resolved model dict.
            ch: Input channels.
            nc: Number of classes, in place of the yaml's.
            verbose: Log the layers.

        Raises:
            OptionError: The yaml is malformed or has no ``uncertainty`` section.
        """
        ours = resolve(cfg, where=_file_of(cfg)) if isinstance(cfg, Mapping) else load_model_yaml(cfg)
        if "uncertainty" not in ours:
            raise OptionError(f"{_file_of(ours)} has no uncertainty: section")
        stand_in = deepcopy(ours)
        stand_in["head"][-1][2] = HEADS[ours["head"][-1][2]]
        super().__init__(stand_in, ch=ch, nc=nc, verbose=verbose)
        self.yaml = {**ours, "nc": self.yaml["nc"], "channels": self.yaml["channels"]}
        self._attach(self.yaml["uncertainty"], f"{_file_of(ours)}: uncertainty")

    @classmethod
    def from_stock(cls, stock: DetectionModel, uncertainty: Mapping[str, Any]) -> Any:
        """Give a trained stock model the branches; its weights are shared, not copied.

        Args:
            stock: Model with a stock Detect or OBB head.
            uncertainty: Branch name to options.

        Raises:
            OptionError: The head is of another kind, or cannot carry a branch.
        """
        if type(stock.model[-1]) not in STOCK_TO_UNCERT:
            raise OptionError(f"a head {type(stock.model[-1]).__name__} cannot carry uncertainty branches")
        model = own_copy(cls, stock)
        model.model = type(stock.model)(*stock.model)
        model.yaml = {**deepcopy(stock.yaml), "uncertainty": deepcopy(dict(uncertainty))}
        model.yaml["head"][-1][2] = OURS[type(stock.model[-1]).__name__]
        model.criterion = None
        model._attach(uncertainty)
        return model

    def init_criterion(self) -> Any:
        """Return the criterion with the branches' terms, for both heads of an end-to-end model."""
        if getattr(self.model[-1], "one2one_cv2", None) is not None:
            return E2ELoss(self, self.loss_class)
        return self.loss_class(self)

    def load(self, weights: Any, verbose: bool = True) -> None:
        """Load what fits of a checkpoint's or a model's weights, and warn of branches that they fit in part."""
        super().load(weights, verbose)
        source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
        theirs, ours = ({k: v.shape for k, v in model.state_dict().items()} for model in (source, self))
        for branch in self.model[-1].branches:
            own = [name for name in ours if f".cv_{branch.name}." in name]
            fresh = sorted(name for name in own if theirs.get(name) != ours[name])
            if 0 < len(fresh) < len(own):
                LOGGER.warning(
                    f"these weights have only a part of the branch {branch.name}, of a model with other options: "
                    f"{', '.join(fresh)} start anew beside layers that are trained"
                )

    def _attach(self, uncertainty: Mapping[str, Any], where: str = "uncertainty") -> None:
        check_uncertainty(uncertainty, where)
        stock, wanted = self.model[-1], (uncertainty.get("border") or {}).get("finer")
        layer, channels = finer_map(self) if wanted else (None, 0)
        build, detach = STOCK_TO_UNCERT[type(stock)].from_stock, bool(self.yaml.get("detach"))
        self.model[-1] = build(stock, uncertainty, where, channels, detach=detach)
        self.model[-1].finer_layer = layer

    def _predict_once(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the layers, and let the head have the finer map that it reads.

        The map is no input of the head: Ultralytics takes these for the levels of the detector.
        """
        head = self.model[-1]
        if getattr(head, "finer_layer", None) is None:  # the stock stand-in runs, too
            return super()._predict_once(x, *args, **kwargs)

        def keep(_: Any, __: Any, out: torch.Tensor) -> None:
            head.finer = out

        handle = self.model[head.finer_layer].register_forward_hook(keep)
        try:
            return super()._predict_once(x, *args, **kwargs)
        finally:
            handle.remove()
            head.finer = None


class UncertDetectionModel(_UncertModel):
    """Detection model whose head carries uncertainty branches."""


class UncertOBBModel(_UncertModel, OBBModel):
    """Oriented detection model whose head carries uncertainty branches."""

    loss_class = UncertOBBLoss


def finer_map(model: DetectionModel) -> tuple[int | None, int]:
    """Return index and channels of the backbone's last layer whose map has twice the resolution of the head's finest.

    Returns:
        The two, or (None, 0) if no layer has such a map.
    """
    last, size = len(model.model) - 2, 256  # Ultralytics finds the strides with images of this size
    wanted, shapes = 2 * size // int(model.stride.min()), {}

    def note(layer: Any, _: Any, out: Any) -> None:
        if isinstance(out, torch.Tensor):
            shapes[layer.i] = out.shape

    handles = [layer.register_forward_hook(note) for layer in model.model[: len(model.yaml["backbone"])]]
    modes = [(module, module.training) for module in model.modules()]
    image = next(model.parameters()).new_zeros(1, model.yaml.get("channels", 3), size, size)
    try:
        with torch.no_grad():  # without the head, and without a trace in running statistics
            model.eval().predict(image, embed=[last])
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    found = [layer for layer, shape in shapes.items() if shape[2:] == (wanted, wanted)]
    return (max(found), shapes[max(found)][1]) if found else (None, 0)


def _file_of(cfg: Mapping[str, Any]) -> str:
    return str(cfg.get("yaml_file", "model yaml"))


MODELS = {"detect": UncertDetectionModel, "obb": UncertOBBModel}
"""Task to model class."""
