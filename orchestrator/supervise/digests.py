"""What decides a stage's result, as one hash: its command, its rendered files, and the contents of its inputs.

Inputs are the paths that the stage declares, and every earlier stage's output that its command names (an argument that
is, holds, or lies in that output), so a stage runs again when what it reads has changed. Times never count.

A file counts with its whole content up to 64 MiB. Of a larger one (weights) count its size, its first and last MiB, and
256 blocks of 64 KiB spread evenly: a merge changes layers in the middle, while embeddings and norms at the two ends
stay equal. A folder counts with the sorted relative paths and hashes of its files; links to files are followed.
README.md in a folder does not count: it is for people, and the report adds its figures to the packaged model's.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.plan import Plan, Stage

DIGEST_VERSION = 1
WHOLE_BYTES = 64 << 20
_EDGE_BYTES = 1 << 20
_BLOCK_BYTES = 64 << 10
_BLOCKS = 256


def stage_digest(plan: Plan, stage: Stage) -> str:
    """Return the digest of `stage` with the inputs as they are on disk now."""
    root = Path(plan.run_dir)
    content = {
        "version": DIGEST_VERSION,
        "argv": stage.command.argv,
        "env": sorted(stage.command.env),
        "cwd": stage.command.cwd,
        "files": {path: _text_of(plan, path) for path in sorted(stage.files)},
        "inputs": {path: [hash_path(found) for found in find_output(root, path)] for path in list_inputs(plan, stage)},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def list_inputs(plan: Plan, stage: Stage) -> tuple[str, ...]:
    """Return the declared inputs, and the outputs of earlier stages that the command names."""
    root = Path(plan.run_dir)
    earlier = plan.stages[: plan.stages.index(stage)]
    outputs = [output for before in earlier for output in before.outputs]
    paths = [Path(_path_part(word)) for word in stage.command.argv]
    words = [path for path in paths if path.is_absolute()]
    named = [output for output in outputs if any(_are_nested(word, root / output) for word in words)]
    return tuple(sorted({*stage.inputs, *named}))


def hash_path(path: Path) -> str:
    """Return the hash of a file's or a folder's content; "absent" when there is nothing."""
    if path.is_dir():
        rows = [(str(file.relative_to(path)), hash_path(file)) for file in _list_files(path)]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    try:
        return _hash_file(path)
    except FileNotFoundError:
        return "absent"


def find_output(root: Path, output: str) -> tuple[Path, ...]:
    """Return what there is of an output: the path, or what its last part matches where that is a pattern (`x*`)."""
    path = root / output
    if path.exists() or "*" not in path.name:
        return (path,) if path.exists() else ()
    return tuple(sorted(path.parent.glob(path.name)))


def _path_part(word: str) -> str:
    """Return VALUE of `--flag=VALUE`, else the word itself."""
    flag, separator, value = word.partition("=")
    return value if separator and flag.startswith("-") else word


def _are_nested(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def _text_of(plan: Plan, path: str) -> str:
    file = plan.file(path)
    return hashlib.sha256(file.text.encode()).hexdigest() if file else hash_path(Path(plan.run_dir) / path)


def _list_files(folder: Path) -> list[Path]:
    found = [
        Path(root) / name
        for root, folders, names in os.walk(folder)
        for name in [*names, *(link for link in folders if (Path(root) / link).is_symlink())]
    ]
    return sorted(path for path in found if path.name != "README.md" and not path.is_dir())


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
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
