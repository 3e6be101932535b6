"""Localization uncertainty for Ultralytics YOLO detectors, axis-aligned and oriented."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yolo_uncert.model import YOLO

__all__ = ["YOLO", "__version__"]

try:
    __version__ = version("yolo-uncert")
except PackageNotFoundError:  # a checkout that was never installed, e.g. `python train.py`
    __version__ = "0+unknown"


def __getattr__(name: str) -> type:
    """Import the facade on first use: ``import yolo_uncert`` alone costs neither torch nor Ultralytics."""
    if name == "YOLO":
        from yolo_uncert.model import YOLO

        return YOLO
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
