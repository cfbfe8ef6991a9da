"""The files of one command: outputs that must be new, and the JSON that goes to a worker and comes back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.data.reasons import refuse
from orchestrator.data.writing.writers import format_json
from orchestrator.machine.json_files import load_object


def require_fresh(outs: Sequence[Path], inputs: Sequence[Path], *, force: bool) -> None:
    """Raise DataError for an output that is an input, exists already or has another ending than .jsonl."""
    read = {os.path.realpath(path) for path in inputs}
    for out in outs:
        if os.path.realpath(out) in read:
            raise refuse("input-is-output", "this file is read, and would be overwritten", out)
        if (out.exists() or out.is_symlink()) and not force:
            raise refuse("output-exists", "this file exists already", out, hint="name another one, or give --force")
    if outs[0].suffix.lower() != ".jsonl":
        hint = f"name it {outs[0].stem or 'rows'}.jsonl"
        raise refuse("unknown-ending", "what is written is JSON Lines, and the name says otherwise", outs[0], hint=hint)


def write_json(path: Path, value: Any) -> Path:
    """Write a value as JSON and return the path."""
    path.write_bytes(format_json(value))
    return path


def load_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file that a worker has written."""
    return load_object(path)


def build_flags(values: dict[str, Any]) -> list[str]:
    """Return flags and values as arguments; None is left out."""
    return [part for flag, value in values.items() if value is not None for part in (flag, str(value))]
