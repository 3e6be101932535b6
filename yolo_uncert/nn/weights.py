"""Start from pretrained weights in the formats that execute nothing when read: ``.npz`` and ``.safetensors``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from ultralytics.utils import LOGGER

from yolo_uncert.options import OptionError

SUFFIXES = (".npz", ".safetensors")


def is_tensor_file(path: object) -> bool:
    """Return whether a ``pretrained=`` value names a file of plain tensors."""
    return isinstance(path, (str, Path)) and Path(path).suffix.lower() in SUFFIXES


def check_pretrained(path: str | Path) -> str:
    """Return a ``pretrained=`` value as text if it can be a file of weights.

    A name without a folder may be one that Ultralytics downloads.

    Raises:
        FileNotFoundError: No such file in the folder that is named.
        OptionError: The suffix is that of no weights.
    """
    text = str(path)
    if Path(text).suffix.lower() not in (".pt", *SUFFIXES):
        raise OptionError(f"train: pretrained must be a .pt, .npz or .safetensors file, or True or False, not {text}")
    if "://" not in text and Path(text).parent != Path() and not Path(text).is_file():
        raise FileNotFoundError(f"train: pretrained weights {text} do not exist")
    return text


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read named tensors without unpickling anything.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The suffix is neither ``.npz`` nor ``.safetensors``, or the file is damaged.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a file ending in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"pretrained weights {path} do not exist")
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        from safetensors.torch import load_file

        return dict(load_file(path))
    except Exception as error:
        raise ValueError(f"pretrained weights {path} cannot be read: {error}") from error


def load_tensors(model: nn.Module, path: str | Path) -> dict[str, torch.Tensor]:
    """Copy the tensors whose name and shape fit into a model.

    Args:
        model: Detection model; tensor names are those of its ``state_dict`` (``model.0.conv.weight``).
        path: ``.npz`` or ``.safetensors`` file.

    Returns:
        The tensors that were copied, by name.

    Raises:
        OptionError: Fewer than half of the file's tensors fit, so it belongs to another architecture (some tensors of
            any detector fit any other: names and widths repeat), or it holds a fused model. This one is left as it was.
    """
    own = model.state_dict()
    tensors = read_tensors(path)
    fitting = {k: v.to(own[k].dtype) for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    if not fitting or len(fitting) < len(tensors) / 2:
        raise OptionError(
            f"only {len(fitting)} of the {len(tensors)} tensors in {path} fit this model by name and shape: "
            "they belong to another architecture or scale"
        )
    if any(name.endswith(".conv.bias") and name not in own for name in tensors):
        raise ValueError(
            f"{path} is of a model without batch normalisation: its convolutions were fused with it for inference, and "
            "the rest would not fit them. Save the state_dict of the model that is not fused"
        )
    model.load_state_dict(fitting, strict=False)
    LOGGER.info(f"Transferred {len(fitting)}/{len(own)} items from {path}")
    return fitting
