"""How the CPU kernels are compiled: for one signature each, with a cache on disk, and never silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

from numba import njit, types
from numba.core import event

from yolo_uncert.ops.backend import LOGGER

FLAGS = {"nogil": True, "error_model": "numpy"}
"""Of every kernel. No fast-math: results are reproducible to the last bit."""


def array(kind: Any, dimensions: int) -> Any:
    """Return the type of a contiguous array that a kernel only reads."""
    return types.Array(kind, dimensions, "C", readonly=True)


def named_tuple(kind: Any) -> Any:
    """Return the type of a named tuple of int, float and bool."""
    kinds = {int: types.int64, float: types.float64, bool: types.boolean}
    return types.NamedTuple(tuple(kinds[hint] for hint in get_type_hints(kind).values()), kind)


class _Notice(event.Listener):
    """Says, once, that the user waits for a compiler."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said:
            LOGGER.warning("compiling the CPU kernels of yolo_uncert.ops; later starts read them from numba's cache")
            self.said = True

    def on_end(self, event: Any) -> None:
        pass


_NOTICE = _Notice()


def entry(*signature: Any) -> Callable[[Any], Any]:
    """Compile an entry for one signature when it is defined, or load it from the cache."""

    def compiled(function: Any) -> Any:
        with event.install_listener("numba:compile", _NOTICE):
            try:
                return njit(signature, cache=True, **FLAGS)(function)
            except RuntimeError:  # numba found no folder that it may write to
                return njit(signature, **FLAGS)(function)

    return compiled
