"""Scores of an untouched model, kept across runs: the same model, data, format and versions give the same scores.

An entry that is damaged, that another user wrote, or that holds other rows than are asked for, counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.folders import write_json, write_text
from orchestrator.workers.model_content import hash_file, identify_content, runs_code_from_elsewhere
from orchestrator.workers.pickles import weight_options
from orchestrator.workers.versions import read_versions

if TYPE_CHECKING:
    Fits = Callable[[list[dict[str, Any]]], bool]

NAMES = ("scores.jsonl", "scoring.json")
_SUMS = "sums.json"  # the bytes and the sha256 of each of the two
_LARGEST_BYTES = 1 << 31


def find_entry(  # noqa: PLR0917  the parts of a key
    cache: Path, model: str, spec: dict[str, Any], data: Path | None, device: str, corpus: Path | None = None
) -> Path | None:
    """Return the folder where these scores belong; None for a model whose content nobody can tell from here.

    Content decides, not names: a folder that was trained on, or a hub model that was updated, is another model. What
    only names a spec (its label) does not count. `data` None is for scores that are kept pair by pair, of any data.
    """
    files = identify_model(model)
    if files is None:
        return None
    deciding = {key: value for key, value in spec.items() if key not in {"name", "label"}}
    parts: dict[str, Any] = {
        "spec": deciding,
        "model": files,
        "loading": weight_options(),
        "versions": read_versions(),
        "device": device,
    }
    parts |= {name: hash_file(path) for name, path in (("data", data), ("corpus", corpus)) if path is not None}
    return cache / hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def identify_model(model: str) -> dict[str, str] | None:
    """Return the sha256 of each file that may make a model what it is.

    None when its files are not on this machine, cannot be read, or name code that lies elsewhere.
    """
    folder = _find_folder(model)
    if folder is None or runs_code_from_elsewhere(folder):
        return None
    try:
        return identify_content(folder)
    except OSError:
        return None


def copy_entry(entry: Path, out: Path, spec: dict[str, Any], fits: Fits = bool) -> bool:
    """Copy kept scores to `out`, with this run's spec; return False where there are none.

    `fits` says whether the rows are those that are asked for.
    """
    try:
        kept = _read_entry(entry)
        rows = [_parse(line) for line in kept[NAMES[0]].splitlines()]
        facts = _parse(kept[NAMES[1]])
        if not fits(rows):
            return False
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    write_text(out / NAMES[0], kept[NAMES[0]])
    write_json(out / NAMES[1], {**facts, "spec": spec, "from_cache": str(entry)})
    return True


def keep_entry(entry: Path, out: Path) -> None:
    """Keep the scores in `out`, in the place of a damaged entry; a cache that cannot be written is no failure."""
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".{entry.name[:16]}."))
        try:
            sums = {name: _write_synced(part / name, (out / name).read_bytes()) for name in NAMES}
            _write_synced(part / _SUMS, json.dumps(sums).encode())
            if os.path.lexists(entry):
                entry.rename(part / "old")
            part.rename(entry)
            _sync_folder(entry.parent)
            shutil.rmtree(entry / "old", ignore_errors=True)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def belongs_to_us(found: os.stat_result) -> bool:
    """Tell whether nobody else may have written a file or a folder of the cache."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read_entry(entry: Path) -> dict[str, str]:
    """Return the text of an entry's files. Raises OSError, ValueError, KeyError or TypeError for a damaged one."""
    if not stat.S_ISDIR((found := entry.lstat()).st_mode) or not belongs_to_us(found):
        raise OSError(f"{entry} is another's")
    sums = _parse(_read(entry / _SUMS).decode())
    kept = {}
    for name in NAMES:
        data = _read(entry / name)
        if [len(data), hashlib.sha256(data).hexdigest()] != sums[name]:
            raise ValueError(f"{entry / name} is damaged")
        kept[name] = data.decode()
    return kept


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:  # noqa: PTH123  a descriptor
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not belongs_to_us(found) or found.st_size > _LARGEST_BYTES:
            raise OSError(f"{path} is no file of ours")
        return stream.read()


def _parse(text: str) -> dict[str, Any]:
    """Return a JSON object. Raises TypeError or ValueError for anything else, and for a number that is none."""
    found = json.loads(text, parse_constant=_refuse)
    if not isinstance(found, dict):
        raise TypeError("no JSON object")
    if any(isinstance(value, float) and not math.isfinite(value) for value in found.values()):
        raise ValueError("a number is not finite")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _write_synced(path: Path, data: bytes) -> list[int | str]:
    """Write a file to the disk; return its length and its sha256."""
    with path.open("xb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return [len(data), hashlib.sha256(data).hexdigest()]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _find_folder(model: str) -> Path | None:
    if Path(model).is_dir():
        return Path(model)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model, local_files_only=True))
    except (ImportError, OSError, ValueError):
        return None
