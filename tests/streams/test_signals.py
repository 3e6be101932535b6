from __future__ import annotations

import signal
import threading

import pytest

from yolo_uncert.streams.signals import sigterm_as_interrupt


def test_sigterm_interrupts_and_is_left_as_it_was():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_change_nothing():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with sigterm_as_interrupt():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
