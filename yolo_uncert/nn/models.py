"""Models with uncertainty heads: stock Ultralytics models whose head is replaced after they are built."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn.tasks import DetectionModel, OBBModel
from ultralytics.utils.loss import E2ELoss

from yolo_uncert.losses.criterion import UncertDetectionLoss, UncertOBBLoss
from yolo_uncert.nn.branches import check_uncertainty
from yolo_uncert.nn.heads import STOCK_TO_UNCERT, own_copy
from yolo_uncert.nn.yamls import HEADS, OURS, load_model_yaml, resolve
from yolo_uncert.options import OptionError


class _UncertModel(DetectionModel):
    """Build the stock model with a stock stand-in head, then give that head its branches.

    ``parse_model`` of Ultralytics knows heads by identity and cannot build a foreign one; the rest of a model (strides,
    initialisation) depends on the head only through the stock parts, which stay.
    """

    loss_class: type = UncertDetectionLoss
    yaml: dict[str, Any]
    save: list[int]

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

    def _attach(self, uncertainty: Mapping[str, Any], where: str = "uncertainty") -> None:
        check_uncertainty(uncertainty, where)
        stock, wanted = self.model[-1], (uncertainty.get("border") or {}).get("finer")
        layer, channels = finer_map(self) if wanted else (None, 0)
        head = STOCK_TO_UNCERT[type(stock)].from_stock(stock, uncertainty, where, channels)
        if layer is not None:
            head.f, self.save = [*head.f, layer], sorted({*self.save, layer})
        self.model[-1] = head


class UncertDetectionModel(_UncertModel):
    """Detection model whose head carries uncertainty branches."""


class UncertOBBModel(_UncertModel, OBBModel):
    """Oriented detection model whose head carries uncertainty branches."""

    loss_class = UncertOBBLoss


def finer_map(model: DetectionModel) -> tuple[int | None, int]:
    """Return index and channels of the last layer whose map has twice the resolution of the head's finest.

    Returns:
        The two, or (None, 0) if no layer has such a map.
    """
    finest, size = int(model.stride.min()), 2 * int(model.stride.max())
    shapes: dict[int, torch.Size] = {}

    def note(layer: Any, _: Any, out: Any) -> None:
        if isinstance(out, torch.Tensor):
            shapes[layer.i] = out.shape

    handles = [layer.register_forward_hook(note) for layer in model.model[:-1]]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():  # running statistics stay as they are
            model.eval()(next(model.parameters()).new_zeros(1, model.yaml["channels"], size, size))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    found = [i for i, shape in shapes.items() if shape[2:] == (2 * size // finest, 2 * size // finest)]
    return (max(found), shapes[max(found)][1]) if found else (None, 0)


def _file_of(cfg: Mapping[str, Any]) -> str:
    return str(cfg.get("yaml_file", "model yaml"))


MODELS = {"detect": UncertDetectionModel, "obb": UncertOBBModel}
"""Task to model class."""
