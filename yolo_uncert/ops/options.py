"""Options of suppression and voting, and the plain numbers that the kernels take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from yolo_uncert.options import check_fields, option

HARD, SOFT, LINEAR = 0, 1, 2
"""What the inner loop of a suppression does: remove, decay by a Gaussian, decay linearly."""
METHODS = {"hard": HARD, "soft": SOFT, "soft-linear": LINEAR, "iou-guided": HARD}
"""Suppression by name, and its inner loop."""


@dataclass(frozen=True)
class Suppression:
    """How duplicates are suppressed and how the kept boxes are refined.

    Candidates are picked by falling score; each pick acts on the candidates of its class with an overlap ``IoU``:

    - ``hard``: those with ``IoU > iou_threshold`` are removed.
    - ``soft``: scores decay by ``exp(-IoU^2 / sigma)`` (Bodla et al., ICCV 2017, arXiv 1704.04503, eq. 3).
    - ``soft-linear``: scores with ``IoU > iou_threshold`` decay by ``1 - IoU`` (eq. 2 of the same).
    - ``iou-guided``: candidates are picked by falling predicted IoU, those with ``IoU > iou_threshold`` are removed,
      and the pick takes the best score among them and its own (Jiang et al., ECCV 2018, arXiv 1807.11590, algorithm 1).

    ``vote="var"`` moves every coordinate of a pick to ``sum p_i f_i x_i / sum p_i f_i`` over the pool, with
    ``p_i = exp(-(1 - IoU_i)^2 / vote_sigma)`` and ``f_i`` by ``vote_weight``: ``1 / var_i``, ``score_i`` (as given,
    before any decay), or their product (He et al., CVPR 2019, arXiv 1809.08545, algorithm 1). ``vote="bayes"`` fuses
    the cluster, all with ``IoU > iou_threshold``, by the product of their Gaussians: ``p_i = 1``, ``f_i = 1 / var_i``
    and merge ``fused`` (BayesOD, Harakeh et al., ICRA 2020, arXiv 1903.03838, without its priors).

    A pick whose score has decayed to less than ``vote_share`` of what it was keeps its box and variance. It overlaps an
    earlier pick, and most of its neighbours speak of the object of that one: their votes would move it there, though it
    may be the box of a second object that touches the first. (The papers vote every pick: ``vote_share=0``.)

    The merged variance is that of the mixture of votes, ``sum w_i (var_i + (x_i - x)^2)`` with ``w_i`` the normalised
    weights (``total``), or ``1 / sum(p_i / var_i)`` (``fused``), which takes the votes for independent.

    Raises:
        ValueError: If an option has the wrong type, is no allowed value or lies outside its range.
    """

    method: str = option("soft", "How an overlap with a pick lowers the score.", choices=METHODS)
    sigma: float = option(0.5, "Width of the Gaussian decay.", low=1e-6)
    iou_threshold: float = option(0.7, "Overlap above which the other methods act.", low=0.0, high=1.0)
    score_threshold: float = option(0.001, "Candidates below this score, decayed or not, are dropped.", low=0.0)
    max_det: int = option(300, "Most boxes kept per image.", low=1)
    max_nms: int = option(30000, "Candidates with the highest scores that take part, per image.", low=1)
    agnostic: bool = option(False, "Boxes of different classes suppress and vote for each other.")
    vote: str = option("off", "Refinement of the kept boxes.", choices=("off", "var", "bayes"))
    vote_sigma: float = option(0.02, "Width sigma_t of the votes' closeness.", low=1e-9)
    vote_iou: float = option(0.0, "Only candidates with a larger overlap vote.", low=0.0, high=1.0)
    vote_pool: str = option(
        "alive",
        "Who votes: candidates neither picked nor dropped yet, or all of the class.",
        choices=("alive", "all"),
    )
    vote_weight: str = option(
        "variance", "Weight of a vote; without variances it is the score.", choices=("variance", "score", "both")
    )
    vote_share: float = option(0.5, "Picks that kept a smaller share of their score are not voted.", low=0.0, high=1.0)
    merge: str = option("total", "Variance of a voted box.", choices=("total", "fused"))

    def __post_init__(self) -> None:
        """Check every option against its type, its choices and its range."""
        check_fields(self)

    @property
    def guided(self) -> bool:
        """Whether candidates are picked by their predicted IoU."""
        return self.method == "iou-guided"

    @property
    def weight(self) -> str:
        """What a vote is weighted by: a product of Gaussians leaves no choice."""
        return "variance" if self.vote == "bayes" else self.vote_weight


class Rules(NamedTuple):
    """What the kernels take: the options as numbers, with the cases of the options already resolved."""

    method: int
    iou: float
    sigma: float
    floor: float
    limit: int
    single: bool
    vote: bool
    vote_sigma: float
    vote_iou: float
    vote_share: float
    fused: bool

    @classmethod
    def of(cls, options: Suppression, count: int, *, single: bool, variances: bool) -> Rules:
        """Translate options for one image.

        Args:
            options: What the user chose.
            count: Number of candidates.
            single: The overlap of horizontal boxes is computed in float32, as torchvision does for float32 boxes.
            variances: The candidates carry variances.

        Raises:
            ValueError: If the options need variances and there are none.
        """
        bayes = options.vote == "bayes"
        if bayes and not variances:
            raise ValueError("vote='bayes' multiplies Gaussians and needs variances; without them use vote='var'")
        return cls(
            method=METHODS[options.method],
            iou=float(options.iou_threshold),
            sigma=float(options.sigma),
            floor=float(options.score_threshold),
            # The best scores of the clusters are known only when all clusters are.
            limit=count if options.guided else min(count, options.max_det),
            single=single,
            vote=options.vote != "off",
            vote_sigma=math.inf if bayes else float(options.vote_sigma),
            vote_iou=float(max(options.vote_iou, options.iou_threshold) if bayes else options.vote_iou),
            vote_share=float(options.vote_share),
            fused=bayes or options.merge == "fused",
        )
