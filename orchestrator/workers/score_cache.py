"""Scores of an untouched model, kept across runs: the same model, data, format and versions give the same scores."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from orchestrator.workers.folders import write_json, write_text
from orchestrator.workers.versions import read_versions

NAMES = ("scores.jsonl", "scoring.json")
_BLOCK = 1 << 20


def find_entry(  # noqa: PLR0917  the parts of a key
    cache: Path, model: str, spec: dict[str, Any], data: Path | None, device: str, corpus: Path | None = None
) -> Path | None:
    """Return the folder where these scores belong; None for a model whose files are not on this machine.

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
        "versions": read_versions(),
        "device": device,
    }
    parts |= {name: _hash_file(path) for name, path in (("data", data), ("corpus", corpus)) if path is not None}
    return cache / hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def identify_model(model: str) -> dict[str, str] | None:
    """Return the sha256 of each file that makes a model what it is; None when they are not on this machine."""
    folder = _find_folder(model)
    if folder is None:
        return None
    return {str(path.relative_to(folder)): _hash_file(path) for path in _list_model_files(folder)}


def copy_entry(entry: Path, out: Path, spec: dict[str, Any]) -> bool:
    """Copy kept scores to `out`, with this run's spec; return False where there are none."""
    if not (entry / NAMES[-1]).is_file():
        return False
    facts = json.loads((entry / NAMES[1]).read_text(encoding="utf-8"))
    write_text(out / NAMES[0], (entry / NAMES[0]).read_text(encoding="utf-8"))
    write_json(out / NAMES[1], {**facts, "spec": spec, "from_cache": str(entry)})
    return True


def keep_entry(entry: Path, out: Path) -> None:
    """Keep the scores in `out`; a cache that cannot be written is no failure. scoring.json comes last: it completes."""
    with contextlib.suppress(OSError):
        entry.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            write_text(entry / name, (out / name).read_text(encoding="utf-8"))


def _find_folder(model: str) -> Path | None:
    if Path(model).is_dir():
        return Path(model)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model, local_files_only=True))
    except (ImportError, OSError, ValueError):
        return None


def _list_model_files(folder: Path) -> list[Path]:
    wanted = {".json", ".safetensors", ".txt", ".model", ".jinja"}
    return sorted(path for path in folder.rglob("*") if path.suffix in wanted and path.is_file())


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()
