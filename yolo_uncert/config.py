"""Options of model yamls: what stands in their ``uncertainty:`` section, and travels in the checkpoint.

*Run options*, given to ``train``, ``val``, ``predict`` and so on in the CLI and in Python alike, are in
``run_options.py``, those of trackers in ``tracking/options.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from yolo_uncert.functional.gaussian import KINDS
from yolo_uncert.functional.gaussian_distance import DISTANCES, FUNCTIONS
from yolo_uncert.options import OptionError, option


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
class BorderOptions:
    """Options of the border branch (BorderDet, Qiu et al., ECCV 2020, arXiv 2007.11056)."""

    refine: bool = option(
        True, "Move the sides by what is seen there; False: only branches that read it, such as gaussian, know."
    )
    gain: float = option(1.0, "Weight of the loss term relative to the stock box loss.", low=0.0)
    channels: int = option(16, "Channels that are read at each point.", low=1)
    hidden: int = option(32, "Hidden channels for each side.", low=1)
    candidates: int = option(
        500, "Anchors, the best by class score, that are looked at again; of large images 5 % of all anchors.", low=1
    )
    lr_mult: float = option(3.0, "Learning rate of the branch over that of the model.", low=0.0)
    finer: bool = option(False, "Also read the backbone's map of twice the resolution of the head's finest one.")
    finer_channels: int = option(0, "Mixtures of that map's channels that are read; 0: the channels.", low=0)
    beside: float = option(
        0.0, "Also read inside and outside of each side, at this share of the box from it.", low=0.0, high=0.5
    )
    turn: bool = option(False, "Turn oriented boxes too.")
    grad_finest: float = option(
        1.0, "Share of the gradient that reaches these maps, which the detector shares.", low=0.0, high=1.0
    )


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
    reads: str = option(
        "neighbours",
        "Beside the features of an anchor: those of its neighbours, or what the border branch has seen (less time).",
        choices=("neighbours", "border"),
    )


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
    detach: bool = option(None, "Stop the branches' gradient before the detector, which trains as the stock model.")


def _as_list(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]
