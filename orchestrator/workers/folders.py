"""Folders that appear whole or not at all: written under a `.part` name, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


@contextlib.contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """Give an empty sibling of `out` that takes its place when the block ends well, and is removed when it does not.

    An `out` that exists stays as it is until the new folder is complete. What a killed attempt left is removed first.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100  resolve() would follow a link and replace its target
    out.parent.mkdir(parents=True, exist_ok=True)
    for stale in out.parent.glob(f".{out.name}.*.part"):
        shutil.rmtree(stale, ignore_errors=True)
    part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    part.chmod(0o755)
    try:
        yield part
        replace_folder(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_folder(new: Path, out: Path) -> None:
    """Rename `new` to `out`; a folder that was there is put aside by rename and removed afterwards."""
    if not out.exists():
        new.rename(out)
        return
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    out.rename(aside / "old")
    new.rename(out)
    shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8, LF) by rename."""
    with open_fresh(path) as stream:
        stream.write(text)


@contextlib.contextmanager
def open_fresh(path: Path) -> Iterator[TextIO]:
    """Open a text file (UTF-8, LF) that becomes `path` when the block ends well, and is removed when it does not.

    It lies beside `path` under a random name and is on the disk before it is renamed; a link is replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def replace_link(link: Path, target: str) -> None:
    """Point `link` to its neighbour `target`, by rename."""
    part = link.with_name(f".{link.name[:40]}.{secrets.token_hex(8)}.part")
    part.symlink_to(target, target_is_directory=True)
    part.replace(link)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON by rename. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
