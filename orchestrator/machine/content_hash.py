"""The content of a file or a folder as one hash; times never count.

A file counts with its whole content up to 64 MiB. Of a larger one (weights) count its size, its first and last MiB, and
256 blocks of 64 KiB spread evenly: a merge changes layers in the middle, while embeddings and norms at the two ends
stay equal. A folder counts with the sorted relative paths and hashes of its files; links to files and to folders are
followed.
README.md in a folder does not count: it is for people, and the report adds its figures to the packaged model's.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from orchestrator.machine.regular_files import IrregularFileError, open_regular

ABSENT = "absent"
WHOLE_BYTES = 64 << 20
_EDGE_BYTES = 1 << 20
_BLOCK_BYTES = 64 << 10
_BLOCKS = 256


def hash_path(path: Path) -> str:
    """Return the hash of a file's or a folder's content; ABSENT when there is nothing, or a pipe or device."""
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
