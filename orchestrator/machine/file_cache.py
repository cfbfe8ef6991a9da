"""Read a file once for as long as it stays the same: several checks of one command look at the same large files."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")

_MOST_FILES = 256  # more than the shards of any model that fits on one machine


def read_once(read: Callable[[Path], Value]) -> Callable[[Path], Value]:
    """Return `read` so that it reads a file again only when its inode, size or a time of change is another one.

    All who ask get the same value: it must not be changed. A file that is not there is asked for each time.
    """

    @lru_cache(maxsize=_MOST_FILES)
    def read_as(path: Path, stamp: tuple[int, ...]) -> Value:  # noqa: ARG001  (what the value is kept by)
        return read(path)

    @wraps(read)
    def read_if_changed(path: Path) -> Value:
        try:
            found = path.stat()
        except OSError:
            return read(path)
        return read_as(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))

    return read_if_changed
