"""Which code computes: the numba kernels, or plain torch where numba is missing.

Both run on the CPU, in float64, on the arrays that `Candidates` prepares. The candidates of an image are few: copying
them from a device, once, costs less than launching a kernel for every pick there.
"""

from __future__ import annotations

import importlib
import logging
from functools import cache
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from yolo_uncert.ops.options import Rules, choose

LOGGER = logging.getLogger("yolo_uncert.ops")
BACKENDS = ("auto", "numba", "torch")

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


def get_backend(name: str = "auto") -> Backend:
    """Return the backend of that name; ``auto`` is numba, or torch where numba is not installed.

    Raises:
        ValueError: If the name is unknown.
        ImportError: If numba is asked for and not installed.
    """
    choose("backend", name, BACKENDS)
    return _load(name)


def warm_up(backend: str = "auto") -> None:
    """Compile the CPU kernels now rather than in the first suppression, and keep them in numba's cache on disk.

    Numba keeps them beside the package, in the user's cache folder where the package is read-only, or in the folder
    that the environment variable ``NUMBA_CACHE_DIR`` names. Whenever kernels are compiled, here or later, a logged
    warning says so.

    Args:
        backend: ``auto``, ``numba`` or ``torch`` (which has nothing to compile).

    Raises:
        ValueError: If the name is unknown.
        ImportError: If numba is asked for and not installed.
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
