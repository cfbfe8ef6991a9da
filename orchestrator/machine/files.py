"""Writes files whole or not at all, and adds to logs: never through a link or under a name that can be guessed."""

from __future__ import annotations

import errno
import glob
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_PART = ".part"
PART_PATTERN = f".*{_PART}"  # what `open_fresh` leaves when it is killed
_SHOWN = 40  # characters of the name that it will have: a file system takes 255 bytes
_MODE = 0o666  # as private as the umask asks for


def create_part(path: Path) -> tuple[Path, int]:
    """Return a new file beside `path`, under a random name, and its descriptor: for writing and reading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:_SHOWN]}.{secrets.token_hex(8)}{_PART}")
    return part, os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)


def remove_parts(path: Path) -> None:
    """Remove what writers of `path` have left that were killed. Nobody may write it meanwhile."""
    for part in path.parent.glob(f".{glob.escape(path.name[:_SHOWN])}.{'[0-9a-f]' * 16}{_PART}"):
        part.unlink(missing_ok=True)


@contextmanager
def open_fresh(path: Path, *, replace: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that becomes `path` when the block ends well, and is removed when it does not.

    It lies beside `path` under a random name that did not exist, and is on the disk before it is renamed. A reader sees
    the old file or the new one; a link at `path` is replaced. Raises FileExistsError when there is something at `path`
    and `replace` is False, also what has come there meanwhile.
    """
    part, descriptor = create_part(path)
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            part.replace(path)
        else:
            _rename_to_free_name(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _rename_to_free_name(part: Path, path: Path) -> None:
    """Give a file a name that nothing has. Raises FileExistsError."""
    try:
        os.link(part, path)  # unlike a rename it refuses what is there
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        part.replace(path)
    else:
        part.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` by rename, so that a reader sees the old file or the new one, never a part."""
    with open_fresh(path) as stream:
        stream.write(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, its line ends as they are, by rename."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, by rename. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


@contextmanager
def open_to_append(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, new or not, to add to its end. Raises OSError (ELOOP) when it is a link."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, _MODE), "ab+") as stream:
        yield stream
