"""A command among others: streams that the caller closed or nobody reads any more, and signals that end it.

A terminal that was closed answers every write with EIO, and a pipe without a reader with EPIPE. Neither may hide how a
command ended, nor put a traceback in the place of a message.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

GONE_CODE = 141  # what a shell says of a program that SIGPIPE ended
_GONE = frozenset({errno.EPIPE, errno.EIO})
_STDOUT, _STDERR = 1, 2


def open_missing() -> None:
    """Open the null device where a standard stream is closed: a run's own file would get its number."""
    for number in (0, _STDOUT, _STDERR):
        try:
            os.fstat(number)
        except OSError:
            _redirect(number)
    for name, number in (("stdout", _STDOUT), ("stderr", _STDERR)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def is_gone(error: OSError) -> bool:
    """Tell whether the error says that nobody reads a stream any more."""
    return error.errno in _GONE


@contextmanager
def may_be_gone() -> Iterator[None]:
    """Write in this block to streams that may have lost their reader: then what is written is lost, and no more."""
    try:
        yield
    except OSError as error:
        if not is_gone(error):
            raise
    finally:
        let_go()


def let_go() -> None:
    """Point the streams that cannot be written at the null device, or Python complains once more at its exit."""
    for stream, number in ((sys.stdout, _STDOUT), (sys.stderr, _STDERR)):
        try:
            stream.flush()
        except OSError:
            _redirect(number)
            with suppress(OSError):
                stream.flush()


def raise_on_stop_signals() -> None:
    """Let TERM and HUP end a command as Ctrl-C does, with the probe that it waits for. Ignored ones stay ignored."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, handle)


def _redirect(number: int) -> None:
    descriptor = os.open(os.devnull, os.O_RDWR)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
