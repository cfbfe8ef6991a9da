"""Whether a stage's disk is full, told from the disk itself: a log that lies on it breaks off before it says so."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

_FULL_BELOW_BYTES = 1 << 20  # a trainer that failed to write a checkpoint has left no room for a log's page


def describe_full_disk(folder: Path) -> str:
    """Return the words that a log would end with if it could, or nothing when there is room."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return f"{os.strerror(errno.ENOSPC)}: {folder} ({free} bytes are free)\n" if free < _FULL_BELOW_BYTES else ""
