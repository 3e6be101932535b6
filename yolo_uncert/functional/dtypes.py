"""Precision of a computation: that of its inputs, and at least single."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(*tensors: Tensor) -> torch.dtype:
    """Return the dtype to compute in: log-variances, exponentials and quotients leave the range of half precision.

    Args:
        tensors: What enters the computation.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
