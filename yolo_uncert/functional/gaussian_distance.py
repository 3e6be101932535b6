"""Distances between oriented boxes seen as Gaussians, and the regression losses made of them.

A box ``(x, y, w, h, theta)`` is the Gaussian ``N((x, y), R diag(w^2 / 4, h^2 / 4) R^T)``. Every distance is a closed
form of the ten numbers, elementwise over two ``Tensor[N, 5]`` in one unit (pixels or grid units, angle in radians),
zero for equal boxes and the same for the representations ``(w, h, theta) ~ (h, w, theta + pi / 2)``. Half precision is
computed in float32. `xyxy_to_xywhr` makes horizontal boxes the special case ``theta = 0``.

Shorthand: ``d`` is the difference of the centres, ``(u, v) = R^T d`` the same in one box's own frame, ``D`` a distance;
p and t are prediction and target.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from yolo_uncert.functional.boxes import rotate
from yolo_uncert.functional.dtypes import at_least_float32

_MIN_LENGTH, _MAX_LENGTH = 1e-7, 1e7
# Lengths within the limits give distances up to 1e29, whose gradients would leave the range of float32.
_MAX_DISTANCE = 1e24
_SQRT_EPS = 1e-7


class _Box(NamedTuple):
    """One box of a pair: centre difference in its own frame and sides, each ``Tensor[N]``."""

    u: Tensor
    v: Tensor
    w: Tensor
    h: Tensor


class _Pair(NamedTuple):
    """Scaled pair of boxes with the cosine and sine of the angle between them."""

    p: _Box
    t: _Box
    cos: Tensor
    sin: Tensor


def kld(pred: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence ``KL(N_t || N_p)`` of two boxes.

    With ``(u, v)`` in the frame of the prediction and ``D_theta = theta_p - theta_t``:

        D = 2 (u^2 / w_p^2 + v^2 / h_p^2) + ln(w_p h_p / (w_t h_t)) - 1
            + 1/2 [(w_t^2 / w_p^2 + h_t^2 / h_p^2) cos^2 D_theta + (h_t^2 / w_p^2 + w_t^2 / h_p^2) sin^2 D_theta]

    Args:
        pred: ``Tensor[N, 5]`` in ``(x, y, w, h, theta)`` format, angle in radians.
        target: ``Tensor[N, 5]``, same format and unit.

    Returns:
        ``Tensor[N]``, dimensionless, in ``[0, 1e24]``.

    Raises:
        ValueError: If the shapes differ or are not ``[N, 5]``.

    Reference:
        Yang et al., Learning High-Precision Bounding Box for Rotated Object Detection via Kullback-Leibler Divergence,
        NeurIPS 2021, arXiv 2106.01883.
    """
    p, t, cos, sin = _pair(pred, target)
    straight = (t.w / p.w).square() + (t.h / p.h).square()
    crossed = (t.h / p.w).square() + (t.w / p.h).square()
    trace = straight * cos.square() + crossed * sin.square()
    shape = trace / 2 + torch.log(p.w / t.w * (p.h / t.h)) - 1
    return _bounded(_mahalanobis(p) / 2 + shape)


def reverse(pred: Tensor, target: Tensor) -> Tensor:
    """Reverse divergence ``KL(N_p || N_t)``; arguments and result as for `kld`."""
    return kld(target, pred)


def jeffreys(pred: Tensor, target: Tensor) -> Tensor:
    """Jeffreys divergence, the sum of both directions (the authors' code halves it); arguments and result as `kld`."""
    return _bounded(kld(pred, target) + kld(target, pred))


def symmetric_max(pred: Tensor, target: Tensor) -> Tensor:
    """Larger of the two Kullback-Leibler divergences; arguments and result as for `kld`."""
    return torch.maximum(kld(pred, target), kld(target, pred))


def symmetric_min(pred: Tensor, target: Tensor) -> Tensor:
    """Smaller of the two Kullback-Leibler divergences; arguments and result as for `kld`."""
    return torch.minimum(kld(pred, target), kld(target, pred))


def gwd(pred: Tensor, target: Tensor) -> Tensor:
    """Squared Gaussian Wasserstein distance over the geometric mean of the two areas.

    ``W^2 = |d|^2 + tr(Sigma_p + Sigma_t - 2 (Sigma_p^(1/2) Sigma_t Sigma_p^(1/2))^(1/2))``. In two dimensions the last
    root has the trace ``S / 4``, ``S^2 = (w_p w_t + h_p h_t)^2 cos^2 D_theta + (w_p h_t + h_p w_t)^2 sin^2 D_theta``.
    The result is ``W^2 / sqrt(w_p h_p w_t h_t)``; its root is the normalised distance of the authors' code.

    Arguments and result as for `kld`.

    Reference:
        Yang et al., Rethinking Rotated Object Detection with Gaussian Wasserstein Distance Loss, ICML 2021,
        arXiv 2101.11952.
    """
    p, t, cos, sin = _pair(pred, target)
    straight, crossed = p.w * t.w + p.h * t.h, p.w * t.h + p.h * t.w
    root = torch.hypot(straight * cos, crossed * sin)
    # straight - root, written without its cancellation.
    turn = sin.square() * (straight - crossed) * (straight + crossed) / (straight + root)
    shape = ((p.w - t.w).square() + (p.h - t.h).square()) / 4 + turn / 2
    return _bounded((p.u.square() + p.v.square() + shape) / torch.sqrt(p.w * p.h * (t.w * t.h)))


def kfiou(pred: Tensor, target: Tensor) -> Tensor:
    """Kalman filter IoU as a distance, with a centre term.

    The product of the two Gaussians covers ``V = w_p h_p w_t h_t / (4 sqrt(det(Sigma_p + Sigma_t)))``, so

        KFIoU = V / (w_p h_p + w_t h_t - V)  in (0, 1/3],    D = ln(1 + d^T Sigma_t^-1 d) - ln(3 KFIoU).

    KFIoU ignores the distance of the centres, therefore the first term. The authors add a centre loss to ``1 - KFIoU``,
    ``exp(1 - KFIoU) - 1`` or ``-ln KFIoU``; here the logarithmic form is shifted by ``ln 3`` to vanish for equal boxes.
    ``distance_loss(..., "kfiou", fun="none", tau=0)`` is such a plain sum; the defaults wrap it like every distance.

    Arguments and result as for `kld`.

    Reference:
        Yang et al., The KFIoU Loss for Rotated Object Detection, ICLR 2023, arXiv 2201.12558.
    """
    pair = _pair(pred, target)
    p, t = pair.p, pair.t
    areas_over_product = torch.sqrt(_sum_determinant(pair)) * (1 / (p.w * p.h) + 1 / (t.w * t.h))
    return _bounded(torch.log1p(_mahalanobis(t)) + torch.log((areas_over_product - 1) / 3))


def bhattacharyya(pred: Tensor, target: Tensor) -> Tensor:
    """Bhattacharyya distance ``1/8 d^T Sigma^-1 d + 1/2 ln(det Sigma / sqrt(det Sigma_p det Sigma_t))``.

    ``Sigma = (Sigma_p + Sigma_t) / 2``. The probIoU of Ultralytics is the Hellinger form of it with covariances
    ``w^2 / 12``; ours are ``w^2 / 4``, as in all distances of this module.

    Arguments and result as for `kld`.

    Reference:
        Bhattacharyya, On a measure of divergence between two statistical populations, 1943; as a box loss: Llerena et
        al., Gaussian Bounding Boxes and Probabilistic Intersection-over-Union for Object Detection, arXiv 2106.06072.
    """
    pair = _pair(pred, target)
    p, t = pair.p, pair.t
    determinant = _sum_determinant(pair)
    root = torch.sqrt(determinant)
    # The adjugate of a sum of 2x2 matrices is the sum of the adjugates, so each box adds its term in its own frame.
    # Each length is divided by the root before squaring, because the squares alone overflow float32 for thin boxes.
    terms = (p.u * (p.h / root), p.v * (p.w / root), t.u * (t.h / root), t.v * (t.w / root))
    centre = torch.stack(terms, dim=-1).square().sum(dim=-1)
    return _bounded(centre + torch.log(determinant / (4 * (p.w * p.h) * (t.w * t.h))) / 2)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kld": kld,
    "reverse": reverse,
    "jeffreys": jeffreys,
    "symmetric_max": symmetric_max,
    "symmetric_min": symmetric_min,
    "gwd": gwd,
    "kfiou": kfiou,
    "bhattacharyya": bhattacharyya,
}


def _sqrt(distance: Tensor) -> Tensor:
    # The root itself has an infinite gradient at equal boxes; this one is 0 there with slope 1 / (2 sqrt(eps)).
    return torch.sqrt(distance + _SQRT_EPS) - math.sqrt(_SQRT_EPS)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"log1p": torch.log1p, "sqrt": _sqrt, "none": lambda value: value}


def distance_loss(pred: Tensor, target: Tensor, kind: str = "kld", fun: str = "log1p", tau: float = 1.0) -> Tensor:
    """Regression loss ``1 - 1 / (tau + f(D))`` of a Gaussian distance, or ``f(D)`` itself for ``tau < 1`` (see `kld`).

    Value and gradient are finite for every finite input: lengths enter within ``[1e-7, 1e7]``, ``D`` within
    ``[0, 1e24]``. Beyond a limit the gradient with respect to that quantity is zero.

    Args:
        pred: ``Tensor[N, 5]`` in ``(x, y, w, h, theta)`` format, angle in radians.
        target: ``Tensor[N, 5]``, same format and unit.
        kind: a key of `DISTANCES`.
        fun: ``f``, a key of `FUNCTIONS`: ``log1p``, ``sqrt`` (smoothed below ``D = 1e-7``) or ``none``.
        tau: non-negative; from 1 on the loss is bounded by 1.

    Returns:
        ``Tensor[N]``, at least float32: in ``[1 - 1/tau, 1]`` for ``tau >= 1``, else ``f(D) >= 0``.

    Raises:
        ValueError: If ``kind`` or ``fun`` is unknown, ``tau`` is negative, or the shapes differ or are not ``[N, 5]``.
    """
    if kind not in DISTANCES:
        raise ValueError(f"kind must be one of {', '.join(DISTANCES)}; got {kind!r}")
    if fun not in FUNCTIONS:
        raise ValueError(f"fun must be one of {', '.join(FUNCTIONS)}; got {fun!r}")
    if not tau >= 0:
        raise ValueError(f"tau must not be negative; got {tau}")
    value = FUNCTIONS[fun](DISTANCES[kind](pred, target))
    return 1 - 1 / (tau + value) if tau >= 1 else value


def _pair(pred: Tensor, target: Tensor) -> _Pair:
    """Geometry shared by the distances, with all lengths divided by their common scale."""
    if pred.shape != target.shape or pred.shape[-1:] != (5,):
        raise ValueError(f"pred and target must both be [N, 5]; got {list(pred.shape)} and {list(target.shape)}")
    dtype = at_least_float32(pred, target)
    pred, target = pred.to(dtype), target.to(dtype)
    size_p, size_t = (boxes[..., 2:4].clamp(_MIN_LENGTH, _MAX_LENGTH) for boxes in (pred, target))
    shift = (target[..., :2] - pred[..., :2]).clamp(-_MAX_LENGTH, _MAX_LENGTH)
    # Products of up to four sides leave the range of float32 unless the geometric mean of the sides is 1. The distances
    # are invariant to scale, so the gradient is exact with the scale held constant.
    scale = (size_p.detach() * size_t.detach()).prod(dim=-1, keepdim=True).pow(-0.25)
    shift, size_p, size_t = shift * scale, size_p * scale, size_t * scale
    angle_p, angle_t = pred[..., 4], target[..., 4]
    p = _Box(*rotate(shift, -angle_p).unbind(-1), *size_p.unbind(-1))
    t = _Box(*rotate(shift, -angle_t).unbind(-1), *size_t.unbind(-1))
    return _Pair(p, t, (angle_p - angle_t).cos(), (angle_p - angle_t).sin())


def _mahalanobis(box: _Box) -> Tensor:
    """Squared Mahalanobis distance ``d^T Sigma^-1 d`` of the centres in the metric of one box."""
    return 4 * ((box.u / box.w).square() + (box.v / box.h).square())


def _sum_determinant(pair: _Pair) -> Tensor:
    """``16 det(Sigma_p + Sigma_t)``."""
    p, t, cos, sin = pair
    # The angle is multiplied in before squaring: the square of two long sides alone times a large upstream gradient
    # overflows float32, and a sine of zero would then make it NaN.
    terms = (p.w * p.h, t.w * t.h, p.w * t.h * cos, p.h * t.w * cos, p.w * t.w * sin, p.h * t.h * sin)
    return torch.stack(terms, dim=-1).square().sum(dim=-1)


def _bounded(distance: Tensor) -> Tensor:
    """Distance without the negative rounding of equal boxes, and within the range of float32 gradients."""
    return distance.clamp(0, _MAX_DISTANCE)
