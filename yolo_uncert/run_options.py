"""Options of a run that yolo_uncert adds to those of Ultralytics, the same in the CLI and in Python."""

from __future__ import annotations

from dataclasses import dataclass, fields

from yolo_uncert.functional.calibrators import TARGETS
from yolo_uncert.ops.backend import BACKENDS
from yolo_uncert.ops.options import METHODS
from yolo_uncert.options import OptionError, option, suggest

ROW_FORMATS = ("jsonl", "csv", "parquet")


@dataclass(frozen=True)
class RunOptions:
    """Options that yolo_uncert adds to those of Ultralytics."""

    sigma_source: str | None = option(
        None,
        "Where std comes from; unset: gaussian if the model has it, else dfl.",
        choices=("gaussian", "dfl", "none"),
    )
    iou_alpha: float = option(
        0.5,
        "Score = class^alpha * IoU^(1 - alpha) for a model with an IoU-aware branch; 1: class only (Wu et al. 2019).",
        low=0.0,
        high=1.0,
    )
    score_fusion: str = option(
        "quality",
        "Multiply the class score by the GFLv2 quality if the model has it, by 1 - mean(sigma / side) (gaussian, "
        "Choi et al. 2019), or by both.",
        choices=("quality", "gaussian", "both", "none"),
    )
    suppress: str = option(
        "hard",
        "Duplicates: removed above iou (of oriented boxes the exact overlap, by default 0.5), "
        "decayed (Bodla et al. 2017), or ranked by predicted IoU (Jiang et al. 2018).",
        choices=tuple(METHODS),
    )
    soft_sigma: float = option(0.5, "Soft: scores decay by exp(-IoU^2 / soft_sigma).", low=1e-6)
    var_vote: bool = option(False, "Let overlapping candidates vote for the kept boxes (He et al. 2019).")
    vote_sigma: float = option(0.02, "Vote: closeness exp(-(1 - IoU)^2 / vote_sigma).", low=1e-9)
    vote_iou: float = option(0.0, "Vote: only candidates with a larger overlap.", low=0.0, high=1.0)
    vote_pool: str = option(
        "alive", "Vote: candidates not yet picked or dropped, or all of the class.", choices=("alive", "all")
    )
    vote_share: float = option(
        0.5, "Vote: boxes that suppress=soft has left a smaller share of their score are not voted.", low=0.0, high=1.0
    )
    vote_weight: str = option(
        "variance",
        "Vote: weight 1 / variance, score, or both (score where there is no sigma); bayes: product of the Gaussians of "
        "all above iou (Harakeh et al. 2020).",
        choices=("variance", "score", "both", "bayes"),
    )
    vote_merge: str = option(
        "total", "Vote: variance of the voted box, of the mixture or 1 / sum of precisions.", choices=("total", "fused")
    )
    max_nms: int = option(30000, "Most candidates per image that take part in the suppression.", low=1)
    multi_label: bool | None = option(
        None, "Every class above conf makes a candidate, not only the best; unset: in val, not in predict."
    )
    suppress_backend: str = option("auto", "Code that suppresses: on the CPU, or triton on a GPU.", choices=BACKENDS)
    calibrated: bool = option(True, "Apply the calibration that the model carries, if any, to std.")
    rows: str | None = option(
        None,
        "predict, track: write one row per box to predictions.jsonl, .csv or .parquet, or several: rows=jsonl,csv.",
    )
    interval_level: float = option(0.9, "rows: probability of the intervals, between 0 and 1.")
    pdq: bool = option(
        False, "val: measure the detection quality PDQ (Hall et al. 2020); it wants a conf of 0.25 or more."
    )
    reconnect: float | None = option(
        60.0, "Seconds for which a lost stream is tried again, with growing pauses; None: for ever.", low=0.0
    )
    overlay: bool | None = option(
        None, "Write frames per second and latency on saved and shown frames; unset: on those of streams."
    )
    retrofit: bool = option(False, "train: freeze everything but the uncertainty branches.")
    data_root: str | None = option(None, "Folder that holds the data sets named by the packaged data yamls.")

    def __post_init__(self) -> None:
        """Refuse formats that nobody writes, and levels that are no probability."""
        for name in [] if self.rows is None else map(str.strip, self.rows.split(",")):
            if name not in ROW_FORMATS:
                raise OptionError(f"rows is {name!r}{suggest(name, ROW_FORMATS)}. Allowed: {', '.join(ROW_FORMATS)}")
        if not 0 < self.interval_level < 1:
            raise OptionError(f"interval_level must be between 0 and 1, not {self.interval_level}")


@dataclass(frozen=True)
class CalibrationOptions:
    """Options of the mode ``calibrate`` alone."""

    method: str = option(
        "conformal",
        "Correct std by one factor per coordinate, by a monotone map, or by factors with conformal intervals.",
        choices=("temperature", "isotonic", "conformal"),
    )
    level: float = option(0.9, "Coverage of the intervals that is checked, and that conformal has to support.")
    target: str = option(
        "coverage",
        "What std aims at: intervals that hold what they promise, or the best Gaussian likelihood.",
        choices=TARGETS,
    )
    out: str | None = option(None, "Checkpoint to write; unset: best.pt becomes best-calibrated.pt beside it.")
    inplace: bool = option(False, "Write into the checkpoint itself.")
    remove: bool = option(
        False, "Take the calibration out again; written into the checkpoint itself unless out is set."
    )

    def __post_init__(self) -> None:
        """Refuse levels that are no probability, and two places to write to."""
        if not 0 < self.level < 1:
            raise OptionError(f"level must be between 0 and 1, not {self.level}")
        if self.out is not None and not self.out.endswith(".pt"):
            raise OptionError(f"out must be a .pt file, not {self.out}")
        if self.out is not None and self.inplace:
            raise OptionError("either out or inplace=True: both say where to write")


@dataclass(frozen=True)
class PrepareOptions:
    """Options of the mode ``prepare`` alone."""

    tile: int = option(1024, "Side of a tile in pixels.", low=1)
    overlap: int = option(200, "Pixels that tiles share at least.", low=0)
    scales: float | list[float] = option(1.0, "Factors by which scenes are resized before they are cut: 0.5,1.0,1.5.")
    area: float = option(
        0.7, "Least part of an object's area that a tile must show for it to be labelled there.", low=0.0, high=1.0
    )
    difficult: str = option(
        "keep", "Train on objects that are flagged as difficult, or leave their labels out.", choices=("keep", "drop")
    )
    background: float = option(1.0, "Share of the training tiles without labels that is kept.", low=0.0, high=1.0)
    names: str | list[str] | None = option(
        None, "Class names, or a data yaml that has them; unset: those of DOTA v1.0, v1.5 or v2.0, else those in use."
    )
    format: str = option("jpg", "Files of the tiles.", choices=("jpg", "png"))

    def __post_init__(self) -> None:
        """Refuse tiles that do not advance, and scales that are none."""
        if self.overlap >= self.tile:
            raise OptionError(f"overlap must be less than tile ({self.tile}), not {self.overlap}")
        scales = self.scale_list
        if not scales or not all(0 < scale <= 16 for scale in scales) or len(set(scales)) < len(scales):
            raise OptionError(f"scales must be different numbers above 0 and up to 16, not {self.scales}")

    @property
    def scale_list(self) -> list[float]:
        """The scales, also where a single one was given."""
        return list(map(float, self.scales if isinstance(self.scales, list) else [self.scales]))


def chooses_none(name: str, text: str) -> bool:
    """Return whether a typed value is the choice ``none``, for which Ultralytics reads Python's None.

    Args:
        name: Name of the option.
        text: What was typed; ``None`` stands for the default.
    """
    return text == "none" and any(f.name == name and text in (f.metadata["choices"] or ()) for f in fields(RunOptions))


def run_option_names() -> tuple[str, ...]:
    """Return the names of the run options that Ultralytics does not know."""
    return tuple(f.name for f in fields(RunOptions))
