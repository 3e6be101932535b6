"""Box algebra shared by heads, losses, suppression and results: representations, sides and first-order covariances.

Shape shorthand: every function works on the last dimension, so ``N`` stands for any leading shape.

Sides convention: a head predicts the distances ``d = (l, t, r, b)`` from an anchor point to the four edges, in the
box's own rotated frame. With ``R(theta) = [[cos, -sin], [sin, cos]]`` the decoded box is

    o = ((r - l) / 2, (b - t) / 2),    (x, y) = anchor + R(theta) o,    w = l + r,    h = t + b,

the contract of ``dist2rbox`` (ultralytics 8.4.190 tal.py:608). Horizontal boxes are the case ``theta = 0``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNKNOWN_ANGLE_STD = math.pi / math.sqrt(12)
"""Standard deviation (radians) of an angle about which nothing is known: uniform over one period of pi."""


def xyxy_to_xywhr(xyxy: Tensor) -> Tensor:
    """Write horizontal boxes as oriented boxes of angle zero.

    Args:
        xyxy: ``Tensor[N, 4]`` in ``(x1, y1, x2, y2)`` format, any unit, ``x1 <= x2`` and ``y1 <= y2``.

    Returns:
        ``Tensor[N, 5]`` in ``(x, y, w, h, theta)`` format, same unit, ``theta = 0``.
    """
    top_left, bottom_right = xyxy.split(2, dim=-1)
    size = bottom_right - top_left
    # Half of each corner, not half of the sum: the sum of two coordinates can overflow half precision.
    return torch.cat((top_left / 2 + bottom_right / 2, size, torch.zeros_like(size[..., :1])), dim=-1)


def rotate(vector: Tensor, angle: Tensor) -> Tensor:
    """Rotate vectors by ``R(theta) = [[cos, -sin], [sin, cos]]``.

    Args:
        vector: ``Tensor[N, 2]`` in ``(x, y)`` format.
        angle: ``Tensor[N]`` in radians; the negative angle rotates from the image into the box's frame.

    Returns:
        ``Tensor[N, 2]`` in the unit of ``vector``.
    """
    x, y = vector.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((x * cos - y * sin, x * sin + y * cos), dim=-1)


def rbox_to_sides(anchor: Tensor, xywhr: Tensor) -> Tensor:
    """Distances from an anchor point to the four edges of an oriented box, in the box's frame.

    Args:
        anchor: ``Tensor[N, 2]`` in ``(x, y)`` format.
        xywhr: ``Tensor[N, 5]`` in the unit of ``anchor``, angle in radians.

    Returns:
        ``Tensor[N, 4]`` of ``(l, t, r, b)`` in the same unit; negative where the anchor lies outside the box.
    """
    offset = rotate(xywhr[..., :2] - anchor, -xywhr[..., 4])
    half_size = xywhr[..., 2:4] / 2
    return torch.cat((half_size - offset, half_size + offset), dim=-1)


def sides_to_rbox(anchor: Tensor, sides: Tensor, angle: Tensor) -> Tensor:
    """Oriented box with the given distances from an anchor point to its edges; the inverse of `rbox_to_sides`.

    Args:
        anchor: ``Tensor[N, 2]`` in ``(x, y)`` format.
        sides: ``Tensor[N, 4]`` of ``(l, t, r, b)`` in the unit of ``anchor`` and in the box's frame.
        angle: ``Tensor[N]`` in radians.

    Returns:
        ``Tensor[N, 5]`` in ``(x, y, w, h, theta)`` format, same unit.
    """
    left_top, right_bottom = sides.split(2, dim=-1)
    centre = anchor + rotate((right_bottom - left_top) / 2, angle)
    return torch.cat((centre, left_top + right_bottom, angle.unsqueeze(-1)), dim=-1)


def wrap_angle(delta: Tensor, period: float = math.pi) -> Tensor:
    """Wrap an angle difference into ``[-period / 2, period / 2)``, up to one rounding at the ends.

    Args:
        delta: ``Tensor[N]`` in radians, finite.
        period: symmetry of the shape in radians, positive: pi for a rectangle, pi / 2 when its sides may be swapped.

    Returns:
        ``Tensor[N]`` in radians; its gradient with respect to ``delta`` is one.
    """
    # Subtracting whole periods leaves small differences exact; remainder(delta + period / 2) would round them.
    return delta - period * torch.floor(delta / period + 0.5)


def align_representation(xywhr: Tensor, reference_angle: Tensor) -> Tensor:
    """Rewrite each box so that its angle is the one nearest to a reference.

    ``(w, h, theta + k pi)`` and ``(h, w, theta + pi / 2 + k pi)`` describe the same rectangle.

    Args:
        xywhr: ``Tensor[N, 5]``, any unit, angle in radians.
        reference_angle: ``Tensor[N]`` in radians.

    Returns:
        ``Tensor[N, 5]``: the same rectangles with ``|theta - reference_angle| <= pi / 4``.
    """
    centre, width, height, angle = xywhr.split((2, 1, 1, 1), dim=-1)
    reference = reference_angle.unsqueeze(-1)
    nearest = reference + wrap_angle(angle - reference, math.pi / 2)
    quarter_turns = torch.round((angle - nearest) / (math.pi / 2))
    swapped = quarter_turns.remainder(2) == 1
    return torch.cat(
        (centre, torch.where(swapped, height, width), torch.where(swapped, width, height), nearest), dim=-1
    )


def rbox_covariance(sides_std: Tensor, angle_std: Tensor, offset: Tensor, angle: Tensor) -> Tensor:
    """First-order covariance of a decoded oriented box from independent noise on its sides and angle.

    ``Sigma = J diag(v_l, v_t, v_r, v_b, var(theta)) J^T`` with the Jacobian ``J`` of `sides_to_rbox`. Written out, with
    ``o`` the centre's offset from the anchor and ``g = R'(theta) o``:

        cov(centre)        = R diag((v_l + v_r) / 4, (v_t + v_b) / 4) R^T + var(theta) g g^T
        cov(centre, w)     = R ((v_r - v_l) / 2, 0)^T,    cov(centre, h) = R (0, (v_b - v_t) / 2)^T
        cov(centre, theta) = var(theta) g

    It holds while the angle's standard deviation is small against one radian.

    Args:
        sides_std: ``Tensor[N, 4]`` of ``(l, t, r, b)`` in pixels, non-negative.
        angle_std: ``Tensor[N]`` in radians, non-negative and finite.
        offset: ``Tensor[N, 2]``, ``((r - l) / 2, (b - t) / 2)`` in the box's frame, pixels.
        angle: ``Tensor[N]`` in radians.

    Returns:
        ``Tensor[N, 5, 5]`` over ``(x, y, w, h, theta)`` in pixels and radians, symmetric and positive semidefinite.
    """
    cos, sin = angle.cos() / 2, angle.sin() / 2
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    shift_x, shift_y = _centre_shift(offset, angle).unbind(-1)
    rows = (
        torch.stack((-cos, sin, cos, -sin, shift_x), dim=-1),
        torch.stack((-sin, -cos, sin, cos, shift_y), dim=-1),
        torch.stack((one, zero, one, zero, zero), dim=-1),
        torch.stack((zero, one, zero, one, zero), dim=-1),
        torch.stack((zero, zero, zero, zero, one), dim=-1),
    )
    std = torch.cat((sides_std, angle_std.unsqueeze(-1)), dim=-1)
    factor = torch.stack(rows, dim=-2) * std.unsqueeze(-2)
    return factor @ factor.mT


def rbox_std(sides_std: Tensor, angle_std: Tensor, offset: Tensor, angle: Tensor, angle_known: bool = True) -> Tensor:
    """Standard deviations of a decoded oriented box: the root of the diagonal of `rbox_covariance`, computed directly.

    Args:
        sides_std: ``Tensor[N, 4]`` of ``(l, t, r, b)`` in pixels, non-negative.
        angle_std: ``Tensor[N]`` in radians, non-negative; may be infinite when ``angle_known`` is false.
        offset: ``Tensor[N, 2]``, ``((r - l) / 2, (b - t) / 2)`` in the box's frame, pixels.
        angle: ``Tensor[N]`` in radians.
        angle_known: whether ``angle_std`` carries information. If not, it is left out of x and y, because the noise of
            an unknown angle is no first-order perturbation; it is still returned in the last column.

    Returns:
        ``Tensor[N, 5]`` of ``(x, y, w, h, theta)`` in pixels and radians.
    """
    size_std = torch.hypot(*sides_std.split(2, dim=-1))
    along_w, along_h = (size_std / 2).unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    centre_std = torch.stack((torch.hypot(cos * along_w, sin * along_h), torch.hypot(sin * along_w, cos * along_h)), -1)
    spread = angle_std.unsqueeze(-1)
    if angle_known:
        centre_std = torch.hypot(centre_std, spread * _centre_shift(offset, angle))
    return torch.cat((centre_std, size_std, spread), dim=-1)


def _centre_shift(offset: Tensor, angle: Tensor) -> Tensor:
    """Derivative ``g = R'(theta) o`` of the centre with respect to the angle: the offset turned a quarter further."""
    x, y = rotate(offset, angle).unbind(-1)
    return torch.stack((-y, x), dim=-1)
