"""An orderly end of a run that the system asks for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, by which service managers and containers stop a program, end a run as Ctrl-C does: files complete.

    Outside of the main thread, where Python handles no signals, nothing is changed.

    Yields:
        Nothing; meanwhile SIGTERM raises ``KeyboardInterrupt``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
