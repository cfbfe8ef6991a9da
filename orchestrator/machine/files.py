"""Files: opened without waiting on a pipe, written whole or not at all, hashed, read once while they stay the same.

Never through a link or under a name that can be guessed.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import IO, Any, TypeVar

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


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file (flock) until it is closed; tell whether that was done, or another process has it.

    Raises OSError on a file system without locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


@contextmanager
def open_to_append(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, new or not, to add to its end. Raises OSError (ELOOP) when it is a link."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, _MODE), "ab+") as stream:
        yield stream


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


_MOST_TEXT = 64 << 20  # bytes: names of half a million branches


def find_text(
    path: Path, *, most_bytes: int = _MOST_TEXT, encoding: str = "utf-8", errors: str = "replace"
) -> str | None:
    """Return the text of a file, or of its first `most_bytes`; None where there is no file that can be read.

    Bytes that are no text become replacement characters; with `errors="strict"` there is no text then.
    """
    try:
        return read_regular(path, most_bytes=most_bytes).decode(encoding, errors)
    except (OSError, ValueError):  # ValueError: a name with a NUL, bytes that are no text
        return None


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


ABSENT = "absent"
WHOLE_BYTES = 64 << 20
_EDGE_BYTES = 1 << 20
_BLOCK_BYTES = 64 << 10
_BLOCKS = 256


def hash_path(path: Path) -> str:
    """Return the hash of a file's or a folder's content; ABSENT when there is nothing, or a pipe or device.

    Times never count. A file counts with its whole content up to 64 MiB. Of a larger one (weights) count its size, its
    first and last MiB, and 256 blocks of 64 KiB spread evenly: a merge changes layers in the middle, while embeddings
    and norms at the two ends stay equal. A folder counts with the sorted relative paths and hashes of its files; links
    are followed. README.md in a folder does not count: it is for people, and the report adds its figures to the
    packaged model's.
    """
    if path.is_dir():
        rows = [(str(file.relative_to(path)), hash_path(file)) for file in _list_files(path)]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    try:
        return _hash_file(path)
    except (FileNotFoundError, IrregularFileError):
        return ABSENT


def _list_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here = Path(root).stat()
        if (here.st_dev, here.st_ino) in seen:  # a link that goes round in a circle, or to what is hashed already
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders.sort()
        found += [Path(root) / name for name in names]
    return sorted(path for path in found if path.name != "README.md" and not path.is_dir())


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        digest.update(str(size).encode())
        if size <= WHOLE_BYTES:
            for block in iter(lambda: stream.read(_EDGE_BYTES), b""):
                digest.update(block)
            return digest.hexdigest()
        digest.update(stream.read(_EDGE_BYTES))
        for number in range(_BLOCKS):
            stream.seek(size * number // _BLOCKS)
            digest.update(stream.read(_BLOCK_BYTES))
        stream.seek(-_EDGE_BYTES, os.SEEK_END)
        digest.update(stream.read(_EDGE_BYTES))
    return digest.hexdigest()
