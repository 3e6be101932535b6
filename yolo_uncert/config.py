"""How options are declared (name, type, default, allowed values, meaning) and checked; those of model yamls.

*Branch options* stand in the ``uncertainty:`` section of a model yaml and travel in the checkpoint. *Run options*,
given to ``train``, ``val``, ``predict`` and so on in the CLI and in Python alike, are in ``run_options.py``, those of
trackers in ``tracking/options.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

from yolo_uncert.functional.gaussian import KINDS
from yolo_uncert.functional.gaussian_distance import DISTANCES, FUNCTIONS

T = TypeVar("T")


class OptionError(ValueError):
    """An option is unknown, has the wrong type, or a value outside the allowed ones."""


def option(
    default: Any,
    doc: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """Declare one option of an options dataclass.

    Args:
        default: Value when the user gives none.
        doc: One sentence for ``--help`` and the docs.
        choices: Allowed strings, if limited.
        low: Smallest allowed number.
        high: Largest allowed number.
    """
    return field(default=default, metadata={"doc": doc, "choices": choices, "low": low, "high": high})


@dataclass(frozen=True)
class GaussianOptions:
    """Options of the Gaussian variance branch (He et al., CVPR 2019, arXiv 1809.08545)."""

    loss: str = option("kl", "Regression loss that trains the variance.", choices=tuple(KINDS))
    gain: float = option(1.0, "Weight of the loss term.", low=0.0)
    beta: float = option(0.0, "Exponent of the beta-NLL weighting (Seitzer et al. 2022); 0 is off.", low=0.0, high=1.0)
    detach_mean: bool = option(True, "Stop the term's gradient to the box coordinates.")
    detach_features: bool = option(False, "Stop the term's gradient to the features shared with the detector.")
    weight: str = option(
        "alignment",
        "Weight of each positive: its alignment with the object, as in the stock box loss, or the same for all.",
        choices=("alignment", "uniform"),
    )
    spread: bool = option(False, "Tell the branch the spread of the side distributions, too (needs DFL).")
    warmup_epochs: float = option(0.0, "Epochs over which the term's weight rises from 0 to gain.", low=0.0)
    init_sigma: float = option(0.2, "Initial standard deviation of a side in grid units.", low=0.01, high=100.0)
    init_angle_sigma: float = option(0.1, "Initial standard deviation of the OBB angle, rad.", low=0.007, high=3.2)
    lr_mult: float = option(10.0, "Learning rate of the branch over that of the model.", low=0.0)
    label_std: float | list[float] | None = option(
        None, "Standard deviation of the labels' sides in pixels at imgsz, for all classes or a list (loss: kl_target)."
    )

    def __post_init__(self) -> None:
        """Check that the label noise is there exactly when the loss asks for it."""
        if (self.loss == "kl_target") != (self.label_std is not None):
            raise OptionError("label_std belongs to loss: kl_target, and that loss needs it")
        if self.label_std is not None and not all(x > 0 for x in _as_list(self.label_std)):
            raise OptionError(f"label_std must be positive, not {self.label_std}")


@dataclass(frozen=True)
class DFLOptions:
    """Options of the DFL branch (Li et al., NeurIPS 2020, arXiv 2006.04388)."""

    decode: str = option(
        "mean", "Side distance: mean of the distribution, or its local peak.", choices=("mean", "peak")
    )
    window: int = option(2, "Bins on each side of the arg-max that count as the peak.", low=0)


@dataclass(frozen=True)
class QualityOptions:
    """Options of the distribution-guided quality branch (GFLv2, Li et al., CVPR 2021, arXiv 2011.12885)."""

    topk: int = option(4, "Largest DFL probabilities per side fed to the quality predictor.", low=1)
    hidden: int = option(64, "Hidden channels of the quality predictor.", low=1)


@dataclass(frozen=True)
class QFLOptions:
    """Options of the quality focal loss (Li et al., NeurIPS 2020, arXiv 2006.04388)."""

    beta: float = option(2.0, "Focusing exponent, 0 (plain cross-entropy) or at least 1.", low=0.0)

    def __post_init__(self) -> None:
        """Refuse exponents whose loss has an infinite slope where the prediction meets its target."""
        if 0 < self.beta < 1:
            raise OptionError(f"beta must be 0 or at least 1, not {self.beta}")


@dataclass(frozen=True)
class IoUAwareOptions:
    """Options of the IoU-aware branch (Wu et al., arXiv 1912.05992)."""

    gain: float = option(1.0, "Weight of the loss term.", low=0.0)
    grad_target: bool = option(False, "Let the gradient flow through the IoU target into the box.")


@dataclass(frozen=True)
class KLDOptions:
    """Options of the Gaussian-distance box loss (Yang et al., NeurIPS 2021, arXiv 2106.01883)."""

    distance: str = option("kld", "Distance between the boxes' Gaussians.", choices=tuple(DISTANCES))
    fun: str = option("log1p", "Function applied to the distance.", choices=tuple(FUNCTIONS))
    tau: float = option(1.0, "Offset of the loss 1 - 1 / (tau + f(D)); below 1 the loss is f(D).", low=0.0)
    gain: float = option(1.0, "Weight relative to the stock box loss (multiplied by the run option box).", low=0.0)
    mode: str = option("replace", "Replace the stock box loss, or join it.", choices=("replace", "add"))


@dataclass(frozen=True)
class ModelOptions:
    """Keys of a model yaml with a base; nc, scale, reg_max and end2end are those of the base unless given."""

    base: str = option(None, "Model yaml with backbone and head, one of Ultralytics or a path.")
    task: str = option(None, "Task, unless it is that of the base.", choices=("detect", "obb"))
    uncertainty: object = option(None, "Branch names and their options.")
    nc: int = option(None, "Number of classes.", low=1)
    scale: str = option(None, "Scale, unless the file name has its letter.", choices=("n", "s", "m", "l", "x"))
    reg_max: int = option(None, "DFL bins per side; 1 is a head without distributions.", low=1)
    end2end: bool = option(None, "Build a one-to-one head beside the one-to-many head.")


def parse_options(cls: type[T], values: Mapping[str, Any] | None, where: str) -> T:
    """Build an options dataclass from user input, or say precisely what is wrong with it.

    Args:
        cls: Options dataclass.
        values: Option names and values; None stands for no options.
        where: File and key for the message, such as ``yolo11-uncert.yaml: uncertainty.gaussian``.

    Raises:
        OptionError: An option is unknown (with a suggestion), ill-typed or out of range.
    """
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise OptionError(f"{where}: expected options such as {{gain: 1.0}}, not {values!r}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    hints = _hints(cls)  # type: ignore[arg-type]  # classes are hashable
    for name, value in values.items():
        if name not in known:
            raise OptionError(f"{where}: unknown option {name!r}{suggest(name, known)}. Allowed: {', '.join(known)}")
        _check(known[name], hints[name], value, f"{where}: {name}")
    try:
        return cls(**values)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from error


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    # Options are read for every batch of a prediction, and to evaluate their annotations takes a millisecond.
    return get_type_hints(cls)


def suggest(name: object, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest known name, or nothing."""
    match = get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def describe(cls: type) -> list[tuple[str, str, str]]:
    """Return (name, default, meaning with allowed values) for each option of a dataclass."""
    rows = []
    for f in fields(cls):
        choices = f.metadata["choices"]
        doc = f.metadata["doc"] + (f" One of: {', '.join(choices)}." if choices else "")
        rows.append((f.name, "" if f.default is MISSING else str(f.default), doc))
    return rows


def _check(spec: Field[Any], hint: Any, value: Any, where: str) -> None:
    """Raise OptionError unless the value has one of the hinted types and lies in the allowed range."""
    kinds = get_args(hint) or (hint,)
    if not any(_is_a(kind, value) for kind in kinds):
        expected = " or ".join(_name_of(k) for k in kinds)
        raise OptionError(f"{where} must be {expected}, not {value!r} ({type(value).__name__})")
    choices, low, high = spec.metadata["choices"], spec.metadata["low"], spec.metadata["high"]
    if choices and value is not None and value not in choices:
        raise OptionError(f"{where} is {value!r}{suggest(value, choices)}. Allowed: {', '.join(choices)}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise OptionError(f"{where} must be finite, not {value}")
        if low is not None and not value >= low:
            raise OptionError(f"{where} must be at least {low}, not {value}")
        if high is not None and not value <= high:
            raise OptionError(f"{where} must be at most {high}, not {value}")


def _is_a(kind: Any, value: Any) -> bool:
    """Return whether a value is of a type, where an int is a float but a bool is no number."""
    if get_args(kind):  # list[float]
        return isinstance(value, list) and all(_is_a(get_args(kind)[0], x) for x in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _name_of(kind: Any) -> str:
    """Return a type as written in an annotation."""
    if kind is type(None):
        return "None"
    return str(kind) if get_args(kind) else str(kind.__name__)


def _as_list(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]
