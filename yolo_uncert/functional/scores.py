"""Scores that carry localization quality: the quality focal loss that trains them and the rules that fuse them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from yolo_uncert.functional.dtypes import at_least_float32

# PROB_MAX is the float32 next to 1, where ln(1 - p) is infinite. PROB_MIN lies far closer to its end, because a
# positive below it would get no gradient, and class scores of 1e-7 do occur.
PROB_MIN, PROB_MAX = 1e-12, 1.0 - torch.finfo(torch.float32).eps / 2


def quality_focal_loss(prob: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """Quality focal loss on probabilities: ``|y - p|^beta * BCE(p, y)``, elementwise.

    For the product of a class score and a quality, which is no logit (GFLv2, arXiv 2011.12885). Both factors have to be
    float32: the gradient 1/p of a small p overflows half precision. Gradients flow through the weight and, unless the
    caller detaches it, the target. ``beta=0`` is plain BCE.

    Args:
        prob: Tensor[...], predicted scores in [0, 1].
        target: Tensor[...], qualities in [0, 1]: the IoU of a positive, 0 for a negative.
        beta: 0 or at least 1, 2 in the paper.

    Returns:
        Tensor[...], at least 0, float32 (float64 for float64 input).

    Raises:
        ValueError: for a beta that is neither 0 nor at least 1.

    Reference: Li et al., Generalized Focal Loss, NeurIPS 2020, arXiv 2006.04388 (BCE there is written out, hence the
        leading minus sign of its formula).
    """
    _check_beta(beta)
    prob = prob.to(at_least_float32(prob)).clamp(PROB_MIN, PROB_MAX)
    target = target.to(prob.dtype)
    # written out, because autocast forbids F.binary_cross_entropy even for float32
    bce = -(target * prob.log() + (1 - target) * (-prob).log1p())
    return bce * (target - prob).abs().pow(beta)


def quality_focal_loss_with_logits(logits: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """Quality focal loss on logits: ``quality_focal_loss(sigmoid(logits), target)``, stable for any logit.

    Args:
        logits: Tensor[...], predicted scores before the sigmoid.
        target: Tensor[...], qualities in [0, 1]: the IoU of a positive, 0 for a negative.
        beta: 0 or at least 1, 2 in the paper.

    Returns:
        Tensor[...], at least 0, float32 (float64 for float64 input).

    Raises:
        ValueError: for a beta that is neither 0 nor at least 1.
    """
    _check_beta(beta)
    logits = logits.to(at_least_float32(logits))
    target = target.to(logits.dtype)
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return bce * (target - logits.sigmoid()).abs().pow(beta)


def fuse_iou(prob: Tensor, iou: Tensor, alpha: float) -> Tensor:
    """Score of the IoU-aware detector: ``S = p^alpha * IoU^(1 - alpha)`` (Wu et al., arXiv 1912.05992).

    An inference score, no training target: its gradient at 0 is infinite.

    Args:
        prob: Tensor[...], class scores in [0, 1].
        iou: predicted IoU in [0, 1], broadcastable to ``prob``.
        alpha: weight of the class score in [0, 1]; 1 returns the class scores exactly, 0 the IoU.

    Returns:
        Tensor[...], scores in [0, 1].

    Raises:
        ValueError: for alpha outside [0, 1].
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    return prob.pow(alpha) * iou.pow(1.0 - alpha)


def gaussian_yolo(prob: Tensor, std: Tensor, size: Tensor) -> Tensor:
    """Score that falls with the uncertainty of the box: ``p * (1 - mean(clip(sigma / side, 0, 1)))``.

    The score of Gaussian YOLOv3 (Choi et al., ICCV 2019, arXiv 1904.04620) with the sigma of each edge relative to the
    box instead of the paper's variances of (x, y, w, h), which its sigmoid limits to [0, 1]. A side without length
    counts as fully uncertain as soon as its sigma is positive.

    Args:
        prob: Tensor[...], class scores in [0, 1].
        std: Tensor[..., 4], standard deviations of (x1, y1, x2, y2) in pixels, non-negative.
        size: Tensor[..., 2], width and height of the boxes in pixels.

    Returns:
        Tensor[...], scores in [0, prob].
    """
    size = size.clamp_min(torch.finfo(size.dtype).tiny)
    uncertainty = (std / torch.cat((size, size), -1)).clamp(0.0, 1.0).mean(-1)
    return prob * (1.0 - uncertainty)


def _check_beta(beta: float) -> None:
    # between 0 and 1 the weight has an infinite slope where the prediction meets its target
    if beta != 0.0 and not beta >= 1.0:
        raise ValueError(f"beta must be 0 or at least 1, got {beta}")
