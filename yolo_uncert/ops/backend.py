"""Which code computes: the numba kernels, plain torch where numba is missing, or, if asked for, Triton on a GPU.

The first two run on the CPU, in float64, on the arrays that `CheckedCandidates` holds. The candidates of an image are
few: copying them from a device, once, costs less than launching a kernel for every pick there.

``triton`` suppresses all images of a batch on their GPU in a single launch. It has been run in Triton's interpreter
only, and no GPU has timed it yet: therefore ``auto`` keeps the CPU kernels, and only ``backend="triton"`` runs it.
``benchmarks/triton_suppression.py`` compares the two on a machine with a GPU.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from yolo_uncert.ops.options import Rules, Suppression
from yolo_uncert.options import check_choice

if TYPE_CHECKING:
    from yolo_uncert.ops.candidates import Kept

LOGGER = logging.getLogger("yolo_uncert.ops")
BACKENDS = ("auto", "numba", "torch", "triton")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Votes = tuple[Floats, Floats]


class Backend(Protocol):
    """What a backend module offers; `kernels.suppress` documents the arguments."""

    def suppress(
        self, boxes: Floats, rank: Floats, scores: Floats, labels: Ints, votes: Votes, rules: Rules
    ) -> tuple[Ints, Floats, Floats, Floats]:
        """Return index and score of the picks, and with vote their boxes and variances."""

    def vote(self, boxes: Floats, labels: Ints, votes: Votes, kept: Ints, rules: Rules) -> tuple[Floats, Floats]:
        """Return boxes and variances of the kept candidates after the vote of all candidates."""

    def above(self, scores: NDArray[np.float32], threshold: float, every: bool) -> tuple[Ints, Ints]:
        """Return class and anchor of the scores above a threshold."""

    def match(self, iou: Floats, threshold: float) -> Ints:
        """Return the object of each detection, or -1."""


class DeviceBackend(Protocol):
    """What a backend module offers that takes tensors on a device, all images at once."""

    def suppress_images(self, images: Sequence[Any], options: Suppression) -> list[Kept[Any]]:
        """Return what suppression leaves of each image, see `triton_backend.suppress_images`."""

    def check_device(self) -> None:
        """Raise RuntimeError if there is no device to run on."""


def get_backend(name: str = "auto") -> Backend:
    """Return the backend of that name; ``auto`` is numba, or torch where numba is not installed.

    For ``triton`` this is the CPU's as well: votes for given boxes and thresholds of scores have no device kernel.

    Raises:
        ValueError: If the name is unknown.
        ImportError: If numba or triton is asked for and not installed.
        RuntimeError: If triton is asked for and there is no GPU.
    """
    return _load("auto" if get_device_backend(name) else name)


def get_device_backend(name: str = "auto") -> DeviceBackend | None:
    """Return the backend that suppresses on the device, or None where the CPU does.

    This is the place to choose it in ``auto``, for tensors on a GPU and from a number of images and candidates on that
    a measurement justifies; there is none yet.

    Raises:
        ValueError: If the name is unknown.
        ImportError: If triton is asked for and not installed.
        RuntimeError: If triton is asked for and there is no GPU.
    """
    check_choice("backend", name, BACKENDS)
    return _load_triton() if name == "triton" else None


def warm_up(backend: str = "auto") -> None:
    """Compile the CPU kernels now rather than in the first suppression, and keep them in numba's cache on disk.

    Numba keeps them beside the package, in the user's cache folder where the package is read-only, or in the folder
    that the environment variable ``NUMBA_CACHE_DIR`` names. Whenever kernels are compiled, here or later, a logged
    warning says so.

    Args:
        backend: ``auto``, ``numba``, ``torch`` (which has nothing to compile) or ``triton``, whose kernel Triton
            compiles for the GPU when a combination of options is first used, and keeps in a cache of its own.

    Raises:
        ValueError: If the name is unknown.
        ImportError: If numba or triton is asked for and not installed.
        RuntimeError: If triton is asked for and there is no GPU.
    """
    get_backend(backend)


@cache
def _load(name: str) -> Backend:
    if name == "torch":
        return cast(Backend, importlib.import_module("yolo_uncert.ops.torch_backend"))
    if name == "numba":
        return cast(Backend, importlib.import_module("yolo_uncert.ops.kernels"))
    try:
        return _load("numba")
    except ImportError as error:
        LOGGER.warning(
            "numba cannot be imported (%s): suppression runs in plain torch, which is many times slower", error
        )
        return _load("torch")


@cache
def _load_triton() -> DeviceBackend:
    try:
        importlib.import_module("triton")
    except ImportError as error:
        raise ImportError(
            f"backend='triton' needs the package triton ({error}): it comes with the CUDA builds of torch on Linux. "
            "backend='auto' runs on the CPU"
        ) from error
    module = cast(DeviceBackend, importlib.import_module("yolo_uncert.ops.triton_backend"))
    module.check_device()
    return module
