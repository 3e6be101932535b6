"""What of a model belongs to its branches: they learn at their own rate, and alone in a retrofit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from ultralytics.utils import LOGGER

from yolo_uncert.options import OptionError

PREFIXES = ("cv_", "one2one_cv_")
"""Of a branch's modules in the head and in its one-to-one copy, followed by the branch's name."""


def branch_parameters(model: Any) -> dict[float, list[nn.Parameter]]:
    """Return the branches' parameters by learning-rate multiplier, those of the one-to-one head included."""
    head = model.model[-1]
    groups: dict[float, list[nn.Parameter]] = {}
    for branch in getattr(head, "branches", ()):
        for prefix in PREFIXES:
            if (modules := getattr(head, prefix + branch.name, None)) is not None:
                for rate, parameters in branch.rates(modules).items():
                    groups.setdefault(rate, []).extend(parameters)
    return groups


def stock_layers(model: Any) -> list[str]:
    """Return the names, in the form of Ultralytics' ``freeze``, of everything but the branches.

    Raises:
        OptionError: The model has no branch that could be trained.
    """
    last = len(model.model) - 1
    head = model.model[last]
    trainable = {p + b.name for b in getattr(head, "branches", ()) for p in PREFIXES}
    names = [name for name, _ in head.named_children()]
    if not trainable & set(names):
        raise OptionError(
            "retrofit=True trains only the uncertainty branches, but this model has none with weights; "
            "name a model yaml that has them, and give the trained detector as pretrained="
        )
    return [*map(str, range(last)), *(f"{last}.{name}" for name in names if name not in trainable)]


def check_outputs(head: Any) -> None:
    """Make sure that retrofit leaves the boxes where the detector puts them, and say what becomes of its scores.

    Args:
        head: Head with branches.

    Raises:
        OptionError: A branch decodes the distributions of the sides in another way, which moves the boxes.
    """
    names = {branch.name: branch for branch in head.branches}
    if "dfl" in names and names["dfl"].options.decode != "mean":
        raise OptionError("retrofit=True keeps the boxes of the detector, and dfl: {decode: peak} would move them")
    if "border" in names and names["border"].options.refine:
        LOGGER.warning(
            "retrofit: the branch border moves the boxes, so they will not be those of the detector; with border: "
            "{refine: false} only sigma, or a predicted IoU, reads the borders"
        )
    if joined := [name for name in ("iou_aware", "quality") if name in names]:
        LOGGER.warning(
            f"retrofit: the branch {' and '.join(joined)} takes part in the scores, so they will not be those of the "
            "detector; iou_alpha=1 score_fusion=none in val and predict leaves it out"
        )


def compare_names(known: Mapping[int, str], given: Mapping[int, str]) -> None:
    """Warn where the data call all classes otherwise than the detector, which is taken for new names of the same ones.

    Args:
        known: Names of the detector's classes.
        given: Those of the data.
    """
    if known and not {str(name).lower() for name in known.values()} & {str(name).lower() for name in given.values()}:
        pairs = [f"{given[i]!r} is what the detector calls {known[i]!r}" for i in sorted(given.keys() & known.keys())]
        LOGGER.warning(f"retrofit: the detector knows no class of the data by name; taken by number, {pairs[0]}")


def check_transferred(model: Any, given: Mapping[str, torch.Tensor]) -> None:
    """Make sure that retrofit freezes nothing that is still random.

    Args:
        model: Model that has been filled from the given weights, as far as they fit.
        given: Pretrained tensors by name.

    Raises:
        OptionError: A tensor outside the branches does not come from the given weights.
    """
    own = tuple(f"model.{len(model.model) - 1}.{p}{b.name}." for b in model.model[-1].branches for p in PREFIXES)
    tensors = {k: v for k, v in model.state_dict().items() if not k.startswith(own) and v.is_floating_point()}
    lost = [name for name, value in tensors.items() if name not in given or not _rows_of(value, given[name])]
    if lost:
        raise OptionError(
            f"retrofit=True keeps every weight but those of the branches, yet {len(lost)} of {len(tensors)} tensors "
            f"({lost[-1]}, ...) have no pretrained value: give pretrained=, a detector of the same architecture that "
            "knows the classes of the data"
        )


def _rows_of(value: torch.Tensor, source: torch.Tensor) -> bool:
    """Return whether a tensor is another, or made of its rows: Ultralytics picks the class scores' rows by name."""
    if value.shape[1:] != source.shape[1:]:
        return False
    rows, known = ({row.tobytes() for row in x.detach().cpu().float().numpy()} for x in (value, source))
    return rows <= known
