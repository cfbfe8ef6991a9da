"""Opens files that others may have put in place: a pipe is not waited for, a device not read without end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO


class IrregularFileError(OSError):
    """What lies there is a pipe, a device or a socket."""


def open_regular(path: Path, *, follow: bool = True, write: bool = False) -> IO[bytes]:
    """Open a file to read its bytes, with `write` to overwrite some of them as well.

    Raises IrregularFileError for what is no file, and OSError where it cannot be opened; without `follow` for a link.
    """
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise IrregularFileError(errno.EINVAL, "it is not a file", str(path)) from None  # a socket
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "r+b" if write else "rb")
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise IrregularFileError(errno.EINVAL, "it is not a file", str(path))


def read_regular(path: Path, *, most_bytes: int = -1) -> bytes:
    """Return the bytes of a file, or its first `most_bytes`. Raises as `open_regular` does."""
    with open_regular(path) as stream:
        return stream.read(most_bytes)
