"""What maps show at points along the sides of boxes, and the layers that read it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the customary name
from torch import nn

from yolo_uncert.functional.dtypes import at_least_float32
from yolo_uncert.nn.branches.base import Places, flat

POINTS = 3
"""Points along each side at which the features are read, in the middle of equal parts."""


def at_points(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return what maps show at points of the sides.

    Args:
        maps: Tensor[B, 4, C, H, W], a map for each side, or Tensor[B, 1, C, H, W], one for all.
        points: Tensor[B, 4, P, K, 2] of :func:`border_points`.

    Returns:
        Tensor[B, 4, C * P, K].
    """
    grid = points.unflatten(1, (maps.shape[1], -1)).flatten(2, 3).flatten(0, 1)  # [B * maps, P or 4 P, K, 2]
    exact = maps.flatten(0, 1).to(at_least_float32(maps, grid))
    read = F.grid_sample(exact, grid.to(exact.dtype), padding_mode="border", align_corners=False).to(maps.dtype)
    sides = read.unflatten(2, (4 // maps.shape[1], -1)).transpose(1, 2)  # [B * maps, sides of a map, C, P, K]
    return sides.flatten(0, 1).unflatten(0, (-1, 4)).flatten(2, 3)


def at_anchors(layers: nn.ModuleList, levels: list[torch.Tensor], index: torch.Tensor | None) -> torch.Tensor:
    """Return each level's layer at its anchors; where few are asked for, it does not run at the others.

    Args:
        layers: A 1x1 convolution per level.
        levels: Tensor[B, C, H, W] features per level, C the same in all.
        index: Tensor[B, K] places among the anchors of all levels; None for all.

    Returns:
        Tensor[B, C_out, K or A].
    """
    if index is None:
        return flat([layer(x) for layer, x in zip(layers, levels, strict=True)])
    found: Any = None
    start = 0
    for layer, level in zip(layers, levels, strict=True):
        every = level.flatten(2)
        own = (index - start).clamp(0, every.shape[2] - 1)[:, None]
        values = by_matrix(layer, every.gather(2, own.expand(-1, every.shape[1], -1)))
        found = values if found is None else torch.where((index >= start)[:, None], values, found)
        start += every.shape[2]
    return found


def by_matrix(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Run a 1x1 convolution at points Tensor[B, C, K], which a product of matrices does faster than a convolution."""
    return torch.baddbmm(layer.bias[:, None], layer.weight.flatten(1).expand(len(x), -1, -1), x)


def by_side(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Run a 1x1 convolution of four groups as a product of matrices, which takes a fraction of its time.

    Args:
        layer: An ``nn.Conv1d``, its groups the sides.
        x: Tensor[B, 4, C, K].

    Returns:
        Tensor[B, C_out, K].
    """
    out = (layer.weight[..., 0].unflatten(0, (4, -1)) @ x).flatten(1, 2)
    return out if layer.bias is None else out + layer.bias[:, None].to(out.dtype)


def mixed_at_points(layer: Any, maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Run a 1x1 convolution without bias at points: what :func:`at_points` would see of its output everywhere.

    Args:
        layer: An ``nn.Conv2d``.
        maps: Tensor[B, C, H, W].
        points: Tensor[B, 4, P, K, 2] of :func:`border_points`.

    Returns:
        Tensor[B, 4, C_out * P, K].
    """
    read = at_points(maps[:, None], points).unflatten(2, (-1, points.shape[2]))
    return torch.einsum("oc,bscpk->bsopk", layer.weight.flatten(1), read).flatten(2, 3)


def border_points(places: Places, beside: float = 0.0) -> torch.Tensor:
    """Return points along the sides of boxes in the coordinates of ``grid_sample``, -1 to 1 from edge to edge of a map.

    Args:
        places: Where the sides are.
        beside: Distance, as a share of the box, of further points inside and outside of each side; 0 for none.

    Returns:
        Tensor[B, 4, P, A, 2]; the sides in the order l, t, r, b, of each side POINTS on it, or as many inside, on and
        outside of it.
    """
    # In half precision coordinates would be off by up to half a pixel. Autocast computes products of matrices in it.
    dtype = at_least_float32(places.sides)
    sides, anchors = (x.to(dtype) * places.strides for x in (places.sides, places.anchors))
    first, second = sides.unflatten(1, (2, 2)).transpose(1, 2)[:, :, :, None].unbind(2)  # l and r, t and b
    of_first, of_second = torch.tensor(_shares(beside), dtype=dtype, device=sides.device).unbind(-1)
    x, y = (of_first[..., None] * first + of_second[..., None] * second).unbind(1)
    if places.angle is not None:
        angle = places.angle.to(dtype)
        cos, sin = angle.cos(), angle.sin()
        x, y = x * cos - y * sin, x * sin + y * cos
    ends = zip((x, y), anchors.unbind(1), places.extent, strict=True)
    return torch.stack([(c + a[:, None]) * (2 / n) - 1 for c, a, n in ends], -1).unflatten(1, (4, -1))


def _shares(beside: float) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Return how much of l and r the x of each point is, and of t and b its y: [2, 4 P, 2], the sides one by one."""
    rows = (-beside, 0.0, beside) if beside else (0.0,)
    along = [((i + 0.5) / POINTS - 1, (i + 0.5) / POINTS) for _ in rows for i in range(POINTS)]
    before = [(-1 - out, -out) for out in rows for _ in range(POINTS)]
    behind = [(out, 1 + out) for out in rows for _ in range(POINTS)]
    return (*before, *along, *behind, *along), (*along, *before, *along, *behind)
