"""What a model is made of: the content of every file of its folder but those for people, through links as well."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

from orchestrator.workers.weights import hash_file

# Whatever else a folder holds, a library may read: pickled weights, code, the files of a tokenizer nobody has heard of.
_FOR_PEOPLE = re.compile(
    r"(?:README|LICEN[CS]E|NOTICE|CHANGELOG)(?:\.(?:md|txt|rst))?|.*\.(?:md|png|jpe?g|gif|svg|webp|pdf)"
    r"|\.git(?:attributes|ignore)",
    re.IGNORECASE,
)
_HISTORY = frozenset({".git", ".cache/huggingface"})  # a clone's, and what `hf download --local-dir` remembers


def identify_model(model: str) -> dict[str, str] | None:
    """Return the sha256 of each file that may make a model what it is.

    None when its files are not on this machine, cannot be read, or name code that lies elsewhere.
    """
    folder = _find_folder(model)
    if folder is None or _runs_code_from_elsewhere(folder):
        return None
    try:
        return _hash_files(folder)
    except OSError:
        return None


def _find_folder(model: str) -> Path | None:
    if Path(model).is_dir():
        return Path(model)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model, local_files_only=True))
    except (ImportError, OSError, ValueError):
        return None


def _runs_code_from_elsewhere(folder: Path) -> bool:
    """Tell whether a config names Python code of another repository (`auto_map: owner/name--module.Class`)."""
    for name in ("config.json", "tokenizer_config.json"):
        try:
            auto_map = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map") or {}
            named = json.dumps(list(auto_map.values()))
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if "--" in named:
            return True
    return False


def _hash_files(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file by its path in the folder; for a folder that appears twice, where it was first.

    Raises OSError for what cannot be read.
    """
    found: dict[str, str] = {}
    first: dict[tuple[int, int], str] = {}
    for root, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        here, status = Path(root).relative_to(folder).as_posix(), Path(root).stat()
        if (before := first.setdefault((status.st_dev, status.st_ino), here)) != here:
            found[here] = f"as {before}"  # links that go round in a circle would never end
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if f"{here}/{name}".removeprefix("./") not in _HISTORY)
        for path in (Path(root, name) for name in names if not _FOR_PEOPLE.fullmatch(name)):
            if stat.S_ISREG(path.stat().st_mode):
                found[path.relative_to(folder).as_posix()] = hash_file(path)
    return found


def _raise(error: OSError) -> None:
    raise error
