"""Regression losses that learn a variance: the KL loss (He et al., CVPR 2019, arXiv 1809.08545) and its relatives.

Symbols: ``e`` residual (target - prediction, grid units or radians), ``a = ln(sigma^2)`` predicted log-variance,
``b = sigma / sqrt(2)`` scale of the Laplace distribution with that variance. Elementwise, per kind:

==========  =====================================================  ======================================
kind        loss                                                   sigma at its minimum
==========  =====================================================  ======================================
kl          exp(-a) smoothL1(e) + a/2 (He et al., eq. 9-10)        sqrt(2 smoothL1(e))
nll         exp(-a) e^2/2 + a/2, Gaussian likelihood               abs(e)
laplace     abs(e)/b + a/2, Laplace likelihood                     sqrt(2) abs(e)
l1          exp(-a) abs(e) + a/2                                   sqrt(2 abs(e))
crps        CRPS of N(0, sigma^2) at e (Gneiting & Raftery 2007)   abs(e) / sqrt(ln 2)
kl_target   KL(label Laplace || predicted Laplace), Meyer &        sqrt(2) (t exp(-abs(e)/t) + abs(e))
            Thakurdesai 2019, arXiv 1910.11375; label scale t
==========  =====================================================  ======================================

The constants that no gradient sees, ln(2 pi)/2 of ``nll`` and ln(2)/2 of ``laplace``, are dropped: the first four kinds
are 0 at e = 0, sigma = 1. They turn negative where a small residual meets a small sigma, which is legal and no defect;
``crps`` and ``kl_target`` are never negative. ``kl`` and ``l1`` are no likelihoods, so their sigma needs a temperature
before it is compared with that of another kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from yolo_uncert.functional.dtypes import at_least_float32

LOG_VAR_MIN, LOG_VAR_MAX = -10.0, 10.0
"""Range of a log-variance, ln(grid units^2): sigma from 0.0067 to 148 grid units."""

NLL_RESIDUAL_MAX = 100.0
"""Residual in grid units above which ``nll`` grows linearly.

No anchor is assigned a side this far away, so only an exploding prediction gets there; at sigma 0.0067 the quadratic
would hand it a gradient of 2e4 * e, and one such anchor would decide the whole step through gradient clipping.
"""


class _RestoringClamp(torch.autograd.Function):
    """Clamp whose gradient still reaches an out-of-range value when descent would bring it back."""

    @staticmethod
    def forward(log_var: Tensor) -> Tensor:
        return log_var.clamp(LOG_VAR_MIN, LOG_VAR_MAX)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (log_var,) = ctx.saved_tensors
        outwards = ((log_var > LOG_VAR_MAX) & (grad < 0)) | ((log_var < LOG_VAR_MIN) & (grad > 0))
        return grad.masked_fill(outwards, 0.0)


def clamp_log_var(log_var: Tensor) -> Tensor:
    """Limit log-variances to [LOG_VAR_MIN, LOG_VAR_MAX] without ever trapping a value outside.

    The gradient passes inside the range. Outside it passes only when a gradient descent step would move the value back
    towards the range; a plain clamp would leave a value that drifted out stuck there for ever.

    Args:
        log_var: Tensor[...], ln(grid units^2), any real number.

    Returns:
        Tensor[...] of the same shape, float32 (float64 for float64 input).
    """
    log_var = log_var.to(at_least_float32(log_var))
    if not log_var.requires_grad:
        return log_var.clamp(LOG_VAR_MIN, LOG_VAR_MAX)  # exporters know clamp, but no custom autograd function
    clamped: Tensor = _RestoringClamp.apply(log_var)
    return clamped


def regression_loss(
    residual: Tensor, log_var: Tensor, kind: str = "kl", *, beta: float = 0.0, target_var: Tensor | None = None
) -> Tensor:
    """Compare residuals with predicted variances, elementwise (formulas in the module docstring).

    Finite, with finite gradients, for residuals up to 1e6 and any finite log-variance.

    Args:
        residual: Tensor[...], target - prediction in grid units (angle: radians, already wrapped).
        log_var: Tensor[...] of the same shape, ln(sigma^2) in the squared unit of the residual; clamped here.
        kind: key of ``KINDS``.
        beta: exponent of the weight stopgrad(sigma^(2 beta)), in [0, 1] (beta-NLL, Seitzer et al., ICLR 2022,
            arXiv 2203.09168); 0 leaves the loss unweighted.
        target_var: variance of the label, non-negative, in the squared unit of the residual, broadcastable to it.
            Only ``kl_target`` reads it.

    Returns:
        Tensor[...] of the same shape, float32 (float64 for float64 input). Values may be negative.

    Raises:
        ValueError: for an unknown kind, for beta outside [0, 1], and for ``kl_target`` without ``target_var``.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown regression loss {kind!r}, allowed: {', '.join(KINDS)}")
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must be in [0, 1], got {beta}")
    log_var = clamp_log_var(log_var)
    loss = KINDS[kind](residual.to(at_least_float32(residual)), log_var, target_var)
    return loss * (beta * log_var.detach()).exp()


def _huber(residual: Tensor, delta: float) -> Tensor:
    return F.huber_loss(residual, torch.zeros_like(residual), reduction="none", delta=delta)


def _kl(residual: Tensor, log_var: Tensor, _: Tensor | None) -> Tensor:
    return (-log_var).exp() * _huber(residual, 1.0) + log_var / 2


def _nll(residual: Tensor, log_var: Tensor, _: Tensor | None) -> Tensor:
    return (-log_var).exp() * _huber(residual, NLL_RESIDUAL_MAX) + log_var / 2


def _laplace(residual: Tensor, log_var: Tensor, _: Tensor | None) -> Tensor:
    return math.sqrt(2) * residual.abs() * (-log_var / 2).exp() + log_var / 2


def _l1(residual: Tensor, log_var: Tensor, _: Tensor | None) -> Tensor:
    return (-log_var).exp() * residual.abs() + log_var / 2


def _crps(residual: Tensor, log_var: Tensor, _: Tensor | None) -> Tensor:
    sigma = (log_var / 2).exp()
    z = residual / sigma
    density = (-(z**2) / 2).exp() / math.sqrt(2 * math.pi)
    return residual * torch.erf(z / math.sqrt(2)) + sigma * (2 * density - 1 / math.sqrt(math.pi))


def _kl_target(residual: Tensor, log_var: Tensor, target_var: Tensor | None) -> Tensor:
    if target_var is None:
        raise ValueError("regression loss 'kl_target' needs target_var, the variance of the label")
    # an exact label (variance 0) would be infinitely far from every prediction
    variance = target_var.to(at_least_float32(target_var))
    label_log_var = variance.clamp(math.exp(LOG_VAR_MIN), math.exp(LOG_VAR_MAX)).log()
    label_scale, scale = ((x / 2).exp() / math.sqrt(2) for x in (label_log_var, log_var))
    distance = residual.abs()
    spread = label_scale * (-distance / label_scale).exp() + distance
    return spread / scale + (log_var - label_log_var) / 2 - 1


KINDS: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "kl": _kl,
    "nll": _nll,
    "laplace": _laplace,
    "l1": _l1,
    "crps": _crps,
    "kl_target": _kl_target,
}
