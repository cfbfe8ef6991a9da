"""Signals that ask Orch to stop: while a stage runs they are counted, before and after they end the command."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEBOUNCE_S = 0.3  # a closing terminal or a service manager sends two signals at once


@dataclass
class Interrupts:
    """How often the user has asked to stop: 0 go on, 1 stop, 2 or more kill at once."""

    count: int = 0
    last: float = 0.0

    def add(self, number: int, at: float) -> None:
        """Count one signal at that time (seconds, any origin); a hangup never counts as the second."""
        if self.count == 0 or (number != signal.SIGHUP and at - self.last > DEBOUNCE_S):
            self.count += 1
            self.last = at


def raise_on_stop_signals() -> None:
    """Let TERM and HUP end a command as Ctrl-C does, with the probe that it waits for. Ignored ones stay ignored."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, handle)


@contextmanager
def counted_interrupts() -> Iterator[Interrupts]:
    """Count the stop signals inside the block. Signals that were ignored outside (nohup) stay so.

    Only the main thread can catch signals; elsewhere nothing is counted.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        interrupts.add(number, time.monotonic())

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
