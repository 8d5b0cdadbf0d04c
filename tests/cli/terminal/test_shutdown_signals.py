"""Graceful shutdown by a signal."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from app.cli.terminal.lines import read_lines
from app.cli.terminal.shutdown_signals import ShutdownRequested, ShutdownSignals
from tests.cli.processes import DEADLINE_S


def test_a_signal_that_does_not_interrupt_select_wakes_it() -> None:
    """A signal in another thread does not interrupt the main thread, just as one right before `select` does not."""
    read_descriptor, write_descriptor = os.pipe()
    timed_out = threading.Event()

    def end_input() -> None:
        timed_out.set()
        os.write(write_descriptor, b"late\n")

    with ShutdownSignals() as shutdown, os.fdopen(read_descriptor), os.fdopen(write_descriptor, "w"):
        watchdog = threading.Timer(DEADLINE_S, end_input)
        watchdog.start()
        threading.Timer(0.05, signal_this_thread).start()
        assert list(read_lines(read_descriptor, 60_000, shutdown)) == []
        watchdog.cancel()
        watchdog.join()
        assert shutdown.signal_number == signal.SIGINT
    assert not timed_out.is_set()


def test_a_signal_that_does_not_interrupt_a_blocking_read_raises_inside_raising() -> None:
    here, there = socket.socketpair()
    watchdog = threading.Timer(DEADLINE_S, there.send, [b"late"])
    with here, there, ShutdownSignals() as shutdown:
        watchdog.start()
        threading.Timer(0.05, signal_this_thread).start()
        with pytest.raises(ShutdownRequested), shutdown.raising():
            here.recv(1)
        assert watchdog.is_alive()
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        watchdog.cancel()
        watchdog.join()


def signal_this_thread() -> None:
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
