"""Files that arguments name: they start from the recipe's folder, though the trainer works in the run folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.backends.arguments import Argument
from orchestrator.backends.protocol import Found, Job
from orchestrator.backends.spellings import Translation
from orchestrator.errors import Problem

# Each argument and how its values read where they are paths: a suffix, or every value.
_FILES: dict[str, str] = {
    "external_plugins": "",
    "custom_register_path": "",
    "local_repo_path": "",
    "new_special_tokens": ".txt",
    "system": ".txt",
    "fsdp": ".json",
}
_ADAPTERS = ("adapters", "from_peft", "raw_peft")  # folders, or hub ids
_OUTPUTS = ("logging_dir", "cache_dir", "cache_path")  # need not be there yet
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_LOGS = "TENSORBOARD_LOGGING_DIR"
_WHY = "its paths start from the recipe's folder"


def resolve_paths(job: Job, translation: Translation, known: Mapping[str, Argument]) -> Translation:
    """Return the translation with every path absolute; those that are there already stay as they are written."""
    for name, value in translation.arguments.items():
        resolved = _map(value, lambda text, name=name: _resolve(job, name, text, known))
        if resolved != value:
            translation.arguments[name] = resolved
            translation.why.setdefault(name, f"train.{name}: {_WHY}")
    if logs := translation.env.get(_LOGS):
        translation.env[_LOGS] = _resolve(job, "logging_dir", logs, known)
    return translation


def check_paths(job: Job, train: Mapping[str, Any], known: Mapping[str, Argument]) -> Iterator[Found]:
    """Yield every file that an argument names and that is not there; `train` has gone through `resolve_paths`."""
    for name, value in train.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and _is_path(name, text, known) and not Path(text).exists():
                hint = f"paths start from {job.recipe_folder}"
                hint += "; hub ids read owner/name" if name in _ADAPTERS else ""
                yield ("train", name), Problem(f"train.{name}: no such file: {text}", hint)


def _map(value: Any, change: Any) -> Any:
    if isinstance(value, list):
        return [change(item) if isinstance(item, str) else item for item in value]
    return change(value) if isinstance(value, str) else value


def _resolve(job: Job, name: str, text: str, known: Mapping[str, Argument]) -> str:
    path = job.recipe_folder / os.path.expanduser(text)  # noqa: PTH111  pathlib's raises for the home of nobody
    named = name in _OUTPUTS or _is_path(name, text, known) or (name in _ADAPTERS and path.exists())
    return str(path) if named else text


def _is_path(name: str, text: str, known: Mapping[str, Argument]) -> bool:
    """Tell whether a value is read as a path to what must be there."""
    if name in _ADAPTERS:
        return not _HUB_ID.fullmatch(text)
    suffix = _FILES.get(name)
    if suffix is None and name in known and known[name].type in {"json", "dict"}:
        suffix = ".json"
    return suffix is not None and text.endswith(suffix)
