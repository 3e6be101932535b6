"""The layers of a head at a few places of a map: what they are everywhere, without the work everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the customary name
from torch import nn
from ultralytics.nn.modules.conv import Conv

DEAR = 3
"""A place alone takes the time of about so many in a convolution everywhere: what its taps see has to be gathered."""

WORTH = 20_000_000
"""Multiplications by each thread in whose time a level's places are found: at least so many have to be spared."""


@dataclass(frozen=True)
class Looked:
    """What a box or angle branch computes at N places of one level.

    Attributes:
        hidden: Tensor[1, C, 1, N] features before its last layer.
        out: Tensor[1, C_out, 1, N] its output.
        around: Tensor[1, 9 C, 1, N] the features at the places and their eight neighbours, channel by channel in the
            order of the taps of a 3x3 convolution; None if nobody reads them.
    """

    hidden: torch.Tensor
    out: torch.Tensor
    around: torch.Tensor | None = None


def local(level: Any) -> bool:
    """Return whether a stock branch of a head is made of what :func:`look` can compute: 3x3 convolutions, and a 1x1."""
    *layers, last = level
    return bool(layers) and _plain(last, 1) and all(type(layer) is Conv and _plain(layer.conv, 3) for layer in layers)


def look(level: Any, x: torch.Tensor, places: torch.Tensor, *, around: bool = False) -> Looked:
    """Run a branch of a head, as :func:`local` knows it, at places of one image.

    Args:
        level: Its layers.
        x: Tensor[1, C, H, W].
        places: Tensor[N] indices into the H * W. Without any nothing is run, and all is 0 at a single place: no layer
            takes an empty map.
        around: Whether the features of the neighbours are asked for.
    """
    *layers, last = level
    height, width = x.shape[2:]
    if not len(places):
        hidden, out = (x.new_zeros(1, channels, 1, 1) for channels in (last.in_channels, last.out_channels))
        return Looked(hidden, out, hidden.repeat(1, 9, 1, 1) if around else None)
    padded = (places // width + 1) * (width + 2) + places % width + 1
    if needed := _needed(layers, padded, (height, width), around):
        features = F.pad(x, (1, 1, 1, 1))[0].flatten(1)
        for layer, where in zip(layers, needed, strict=True):
            values = _run(layer, _neighbours(features, where, width).flatten(0, 1))
            features = features.new_zeros(len(values), features.shape[1]).index_copy_(1, where, values)
    else:
        for layer in layers:
            x = layer(x)
        features = F.pad(x, (1, 1, 1, 1))[0].flatten(1)
    near = _neighbours(features, padded, width) if around else None
    hidden = (features[:, padded] if near is None else near[:, 4])[None, :, None]
    return Looked(hidden, last(hidden), None if near is None else near.flatten(0, 1)[None, :, None])


def _needed(layers: Any, padded: torch.Tensor, size: tuple[int, int], around: bool) -> list[torch.Tensor]:
    """Return the places at which each convolution has to run, or nothing where everywhere takes less time."""
    each = sum(layer.conv.weight.numel() for layer in layers)
    spare = size[0] * size[1] - WORTH * torch.get_num_threads() // each
    needed: list[torch.Tensor] = []
    for _ in layers:
        if spare < DEAR * len(padded):
            return []
        padded = _grown(padded, *size) if around or needed else padded
        needed.insert(0, padded)
    return needed if spare >= DEAR * len(padded) else []


def _plain(conv: Any, size: int) -> bool:
    """Return whether a layer is a convolution of this size that keeps the map's size, with every channel to each."""
    shape = {"kernel_size": size, "padding": size // 2, "stride": 1, "dilation": 1}
    return (
        type(conv) is nn.Conv2d
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and all(getattr(conv, name) == (value, value) for name, value in shape.items())
    )


def _grown(padded: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return places with their neighbours, those outside of the map left out; indices into the padded map."""
    mask = torch.zeros((height + 2) * (width + 2), dtype=torch.bool, device=padded.device)
    mask[_taps(padded, width)] = True
    mask = mask.view(height + 2, width + 2)
    mask[0], mask[-1], mask[:, 0], mask[:, -1] = False, False, False, False
    return mask.flatten().nonzero()[:, 0]


def _taps(padded: torch.Tensor, width: int) -> torch.Tensor:
    """Return Tensor[9 N], the indices of the nine taps of a 3x3 convolution at N places of the padded map."""
    row = torch.arange(-1, 2, device=padded.device)
    return ((row[:, None] * (width + 2) + row).view(9, 1) + padded).flatten()


def _neighbours(features: torch.Tensor, padded: torch.Tensor, width: int) -> torch.Tensor:
    """Return Tensor[C, 9, N] of a padded map Tensor[C, (H + 2) * (W + 2)]."""
    return features.index_select(1, _taps(padded, width)).view(len(features), 9, -1)


def _run(layer: Any, patches: torch.Tensor) -> torch.Tensor:
    """Run a convolution of Ultralytics, fused or not, on patches Tensor[9 C, N]; return Tensor[C_out, N]."""
    conv = layer.conv
    weight = conv.weight.flatten(1)
    values = weight @ patches if conv.bias is None else torch.addmm(conv.bias[:, None], weight, patches)
    if hasattr(layer, "bn"):  # gone once it is fused
        values = layer.bn(values[None, :, None])[0, :, 0]
    activated: torch.Tensor = layer.act(values)
    return activated
