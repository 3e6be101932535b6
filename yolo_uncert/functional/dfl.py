"""Statistics of the side distributions of a DFL head (Li et al., NeurIPS 2020, arXiv 2006.04388).

Layout: ``logits`` is Tensor[..., R], one row of ``R = reg_max`` logits per box side in the last dimension (a raw head
output Tensor[B, 4R, A] becomes Tensor[B, 4, A, R] first). Bin ``i`` stands for a side distance of ``i`` grid units, for
``i = 0 ... R-1``; ``p = softmax(logits)``. Logits are finite. Everything runs in float32 (float64 for float64 input),
also under autocast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from yolo_uncert.functional.dtypes import at_least_float32


def moments(logits: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Mean and variance of each side distance: ``mean = sum p_i i``, ``var = sum p_i (i - mean)^2``.

    Args:
        logits: Tensor[..., R] over the bins 0 ... R-1.
        dim: where the bins are if not last. A head has them before the anchors, and a softmax there is twice as fast as
            one over a transposed view.

    Returns:
        The means, Tensor[...] in grid units within [0, R-1], and the variances, Tensor[...] in grid units^2 within
        [0, (R-1)^2 / 4].
    """
    prob = _probabilities(logits, dim)
    mean = _expectation(prob, dim)
    return mean, second_moment(prob, mean, dim)


def peak(logits: Tensor, window: int = 1, dim: int = -1) -> Tensor:
    """Mean over the bins next to the most probable one, the local peak of a boundary with several candidates.

    ``sum p_i i / sum p_i`` over the bins within ``window`` of the argmax (the lower bin of a tie). A distribution on
    two neighbouring bins keeps its mean, and a window of R-1 or more gives the mean of any distribution.

    Args:
        logits: Tensor[..., R] over the bins 0 ... R-1.
        window: bins on either side of the argmax that take part, at least 0.
        dim: where the bins are if not last.

    Returns:
        Tensor[...], side distances in grid units within [0, R-1].

    Raises:
        ValueError: for a negative window.
    """
    if window < 0:
        raise ValueError(f"window must be at least 0, got {window}")
    top = logits.argmax(dim, keepdim=True)
    far = (_bins(logits, dim) - top).abs() > window
    return _expectation(_probabilities(logits.masked_fill(far, -math.inf), dim), dim)


def variance_about(logits: Tensor, centre: Tensor, dim: int = -1) -> Tensor:
    """Second moment of each side distance about a given point: ``sum p_i (i - centre)^2``.

    The mean as centre gives the variance; any other centre adds its squared distance from the mean, so that a side
    decoded by ``peak`` is charged for the mass of its other candidates.

    Args:
        logits: Tensor[..., R] over the bins 0 ... R-1.
        centre: Tensor[...], decoded side distances in grid units.
        dim: where the bins are if not last.

    Returns:
        Tensor[...], grid units^2, at least 0.
    """
    return second_moment(_probabilities(logits, dim), centre, dim)


def second_moment(prob: Tensor, centre: Tensor, dim: int = -1) -> Tensor:
    """Second moment of each side distance about a given point, from probabilities: ``sum p_i (i - centre)^2``.

    Args:
        prob: Tensor[..., R], sums of 1 over the bins.
        centre: Tensor[...], side distances in grid units.
        dim: where the bins are if not last.

    Returns:
        Tensor[...], grid units^2, at least 0.
    """
    offset = _bins(prob, dim) - centre.unsqueeze(dim)
    # In place: for a batch of images, fresh memory costs more than the arithmetic.
    return offset.square_().mul_(prob).sum(dim)


def top_statistics(logits: Tensor, k: int = 4) -> Tensor:
    """Flatness of each side distribution: its k largest probabilities, descending, and their mean.

    The input of the quality predictor of GFLv2 (Li et al., CVPR 2021, arXiv 2011.12885).

    Args:
        logits: Tensor[..., R].
        k: number of probabilities, within [1, R].

    Returns:
        Tensor[..., k + 1] of probabilities.

    Raises:
        ValueError: for k outside [1, R].
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k must be in [1, {logits.shape[-1]}], the number of bins, got {k}")
    top = _probabilities(logits).topk(k, dim=-1).values
    return torch.cat((top, top.mean(-1, keepdim=True)), -1)


def _probabilities(logits: Tensor, dim: int = -1) -> Tensor:
    return logits.softmax(dim, dtype=at_least_float32(logits))


def _bins(x: Tensor, dim: int) -> Tensor:
    """Return 0 ... R-1 along the dimension of the bins."""
    shape = [1] * x.ndim
    shape[dim] = -1
    return torch.arange(x.shape[dim], dtype=x.dtype, device=x.device).view(shape)


# Products and sums, here and in second_moment: autocast would run a matrix product in half precision.
def _expectation(prob: Tensor, dim: int) -> Tensor:
    return (prob * _bins(prob, dim)).sum(dim)
