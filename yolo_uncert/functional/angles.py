"""Oriented boxes in the conventions of other tools.

A rectangle has many descriptions: ``(w, h, theta)``, ``(h, w, theta + pi / 2)`` and both with any number of half turns.
A convention picks one of them. In all of them the angle is in radians and grows clockwise on the screen (y points
down), from the x axis to the side ``w``: ``(cos theta, sin theta)`` runs along ``w``.

===============  ====================  ==========  =====================================================================
name             angle                 sides       where
===============  ====================  ==========  =====================================================================
``oc``           ``(0, pi/2]``         any         MMRotate's ``oc``; ``cv2.minAreaRect`` of OpenCV 4.5.1 to 4.12
``oc-negative``  ``[-pi/2, 0)``        any         ``cv2.minAreaRect`` before 4.5.1, and again from 4.13 on
``le90``         ``[-pi/2, pi/2)``     ``w >= h``  MMRotate's ``le90`` (long edge)
``le135``        ``[-pi/4, 3pi/4)``    ``w >= h``  MMRotate's ``le135`` (long edge)
``ultralytics``  ``[-pi/4, 3pi/4)``    ``w >= h``  the labels that Ultralytics trains on (``ops.xyxyxyxy2xywhr``)
``regular``      ``[0, pi/2)``         any         Ultralytics' ``ops.regularize_rboxes``
===============  ====================  ==========  =====================================================================

Predictions of Ultralytics follow none of them: the head's angle lies in ``(-pi/4, 3pi/4)``, but ``w`` may be the
shorter side. Tools that count angles counterclockwise (Detectron2, in degrees) need the negative angle first.

Reference: MMRotate, "Learn the Basics" (docs/en/intro.md); OpenCV issues 19749 and 28051; ultralytics 8.4.190
ops.py:383 and ops.py:671. A tool's own answer may differ on squares and in the last digit at an end of the range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

_QUARTER = math.pi / 2


class Convention(NamedTuple):
    """Which description of a rectangle is taken.

    Attributes:
        low: Least angle in radians.
        high: Greatest angle in radians.
        long_edge: Whether ``w`` is the longer side.
        high_included: Whether the range is ``(low, high]`` and not ``[low, high)``.
    """

    low: float
    high: float
    long_edge: bool = False
    high_included: bool = False


CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        "oc": Convention(0.0, _QUARTER, high_included=True),
        "oc-negative": Convention(-_QUARTER, 0.0),
        "le90": Convention(-_QUARTER, _QUARTER, long_edge=True),
        "le135": Convention(-_QUARTER / 2, 1.5 * _QUARTER, long_edge=True),
        "ultralytics": Convention(-_QUARTER / 2, 1.5 * _QUARTER, long_edge=True),
        "regular": Convention(0.0, _QUARTER),
    }
)
"""Conventions by name; the module's docstring has them as a table."""


def to_convention(xywhr: Tensor, convention: str) -> tuple[Tensor, Tensor]:
    """Describe the same rectangles as a convention does.

    The result depends on the rectangle alone, not on the description that came in: of the two that a long-edge
    convention allows for a square, the smaller angle is taken. The angle keeps the precision of its dtype, so that
    after ``n`` turns it is good to about ``2 pi n`` times the dtype's epsilon.

    Args:
        xywhr: ``Tensor[..., 5]`` in ``(x, y, w, h, theta)`` format, any unit, floating point; the angle in radians,
            finite, in any range.
        convention: One of ``CONVENTIONS``.

    Returns:
        ``Tensor[..., 5]`` in the same unit, and the mask ``Tensor[...]`` of the boxes whose sides changed places, for
        `swap_sides` and `swap_sides_covariance`.

    Raises:
        ValueError: If there is no such convention, or the boxes do not have five numbers each.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention is {convention!r}. One of: {', '.join(CONVENTIONS)}")
    if not xywhr.is_floating_point() or xywhr.shape[-1:] != (5,):
        raise ValueError(f"boxes must be floating point Tensor[..., 5]; got {xywhr.dtype} {list(xywhr.shape)}")
    low, high, long_edge, high_included = CONVENTIONS[convention]
    centre, width, height, angle = xywhr.split((2, 1, 1, 1), dim=-1)
    if high_included:  # (low, high] is [-high, -low) in a mirror
        mirrored, swapped = _into_quarter(-angle, -high)
        angle = -mirrored
    else:
        angle, swapped = _into_quarter(angle, low)
    width, height = torch.where(swapped, height, width), torch.where(swapped, width, height)
    if long_edge:
        short = width < height
        angle = torch.where(short, angle + _QUARTER, angle)
        # The sum may round up to the excluded end.
        angle = torch.where(angle >= high, _not_below(angle - 2 * _QUARTER, low), angle)
        width, height, swapped = torch.where(short, height, width), torch.where(short, width, height), swapped ^ short
    return torch.cat((centre, width, height, angle), dim=-1), swapped.squeeze(-1)


def swap_sides(values: Tensor, swapped: Tensor) -> Tensor:
    """Let the numbers of ``w`` and ``h`` change places, such as the standard deviations of boxes whose sides did.

    Centre and angle keep theirs: they move by constants only.

    Args:
        values: ``Tensor[..., 5]`` over ``(x, y, w, h, theta)``, any unit.
        swapped: ``Tensor[...]`` of `to_convention`.

    Returns:
        ``Tensor[..., 5]``.
    """
    return torch.where(swapped.unsqueeze(-1), values[..., [0, 1, 3, 2, 4]], values)


def swap_sides_covariance(covariance: Tensor, swapped: Tensor) -> Tensor:
    """Let rows and columns of ``w`` and ``h`` change places in the covariances of boxes whose sides did.

    Args:
        covariance: ``Tensor[..., 5, 5]`` over ``(x, y, w, h, theta)``.
        swapped: ``Tensor[...]`` of `to_convention`.

    Returns:
        ``Tensor[..., 5, 5]``.
    """
    order = [0, 1, 3, 2, 4]
    return torch.where(swapped[..., None, None], covariance[..., order, :][..., order], covariance)


def _into_quarter(angle: Tensor, low: float) -> tuple[Tensor, Tensor]:
    """Subtract quarter turns until the angle lies in ``[low, low + pi / 2)``; return it and whether they were odd."""
    turns = torch.floor((angle - low) / _QUARTER)
    angle = angle - turns * _QUARTER
    # The rounding of both lines may leave the angle a last digit below the range, or at its excluded end.
    angle = _not_below(angle, low)
    beyond = angle >= low + _QUARTER
    return torch.where(beyond, angle - _QUARTER, angle), (turns + beyond).remainder(2) == 1


def _not_below(angle: Tensor, low: float) -> Tensor:
    """Lift an angle to the end of its range without touching its gradient."""
    return angle + (low - angle).clamp(min=0).detach()
