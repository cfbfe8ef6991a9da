"""Old and new names of arguments, each rendered as the installed version wants it; and paths that arguments name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.backends.arguments import FOLDER, Argument
from orchestrator.errors import Problem
from orchestrator.machine.packages import find_major
from orchestrator.machine.tables import load_table
from orchestrator.recipe.losses import find_loss

_GENERATIVE = "generative_reranker"
_POINTWISE = "pointwise_reranker"  # from ms-swift 4 on
# Where nothing is known of what is installed, the tested generation counts.
_TESTED = {"transformers": 5, "ms-swift": 4}


class Alias(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of arguments/aliases.yaml, which says what its keys mean."""

    argument: str
    type: str = ""
    of: str = ""
    package: str = ""
    since: int = 0
    before: int = 10**6
    value: bool | str | None = None
    tasks: tuple[str, ...] = ()
    becomes: str = ""
    to: bool | str | None = None
    why: str = ""
    drop: str = ""
    env: str = ""
    refuse: str = ""
    hint: str = ""

    def fits(self, value: Any, versions: Mapping[str, str], task: str) -> bool:
        """Tell whether the row is for this value, these installed versions and this task."""
        if self.package and not self.since <= _major(self.package, versions) < self.before:
            return False
        if self.tasks and task not in self.tasks:
            return False
        if self.value in {"share", "no_share"}:
            is_share = bool(0 < value < 1 or (value == 0 and self.argument.endswith("_ratio")))
            return is_share == (self.value == "share")
        return self.value is None or bool(value == self.value)


class Translation(msgspec.Struct):
    """Arguments as the installed version spells them; `why` holds the reason of each one that changed."""

    arguments: dict[str, Any] = {}
    env: dict[str, str] = {}
    why: dict[str, str] = {}
    dropped: dict[str, str] = {}
    problems: list[tuple[str, Problem]] = []


@cache
def load_aliases(tool: str) -> tuple[Alias, ...]:
    """Return the rows for `trainer` (transformers' own arguments) or `swift`, those of every tool included."""
    return tuple(row for row in load_table(FOLDER / "aliases.yaml", Alias) if tool and row.of in {"", tool})


def list_old_names(tool: str) -> dict[str, Argument]:
    """Return the names that no snapshot of the tested versions has, as arguments of their types."""
    rows = [row for row in load_aliases(tool) if row.type]
    return {row.argument: Argument(row.argument, row.type, None, None) for row in rows}


def _major(package: str, versions: Mapping[str, str]) -> int:
    found = find_major(versions.get(package))
    return _TESTED[package] if found is None else found


def translate(tool: str, train: Mapping[str, Any], versions: Mapping[str, str], task: str = "") -> Translation:
    """Return `train` (values already of the right types) in the installed version's spelling."""
    result = Translation()
    for name, value in train.items():
        rows = (row for row in load_aliases(tool) if row.argument == name and row.fits(value, versions, task))
        row = next(rows, None)
        if row is None:
            result.arguments[name] = int(value) if name == "warmup_steps" and value >= 1 else value
        elif row.refuse:
            result.problems.append((name, Problem(row.refuse.format(value=value), row.hint)))
        elif row.drop:
            result.dropped[name] = row.drop
            result.env |= {row.env: value} if row.env else {}
        elif row.becomes in train:
            message = f"{name} and {row.becomes} are one setting; both are given"
            result.problems.append((name, Problem(message, f"keep {row.becomes}")))
        else:
            result.arguments[row.becomes] = value if row.to is None else row.to
            result.why[row.becomes] = f"{name} in the recipe: {row.why}"
    return result


def is_swift_4(versions: Mapping[str, str]) -> bool:
    """Tell whether ms-swift 4 or later is installed; so it is where nothing is known, for that is the tested set's."""
    return _major("ms-swift", versions) >= _TESTED["ms-swift"]


def is_full(arguments: Mapping[str, Any]) -> bool:
    """Tell whether all weights are trained, and not LoRA's beside them, which is ms-swift's default."""
    return str(arguments.get("tuner_type", arguments.get("train_type", "lora"))) == "full"


def name_tuner(versions: Mapping[str, str]) -> str:
    """Return the argument that says LoRA or full training."""
    return "tuner_type" if is_swift_4(versions) else "train_type"


def name_loss(loss: str, task_type: str, versions: Mapping[str, str]) -> str:
    """Return the value of `--loss_type` for a recipe's loss.

    Sources: swift/loss/mapping.py of ms-swift 4.6.0, swift/plugin/loss.py of 3.12.6.
    """
    facts = find_loss("swift", task_type, loss)
    native = (facts and facts.native) or loss
    if native != _POINTWISE or is_swift_4(versions):
        return native
    return _GENERATIVE if task_type == _GENERATIVE else "reranker"


# Each argument and how its values read where they are paths: a suffix, or every value.
_FILES = dict.fromkeys(("external_plugins", "custom_register_path", "local_repo_path"), "")
_FILES |= {"new_special_tokens": ".txt", "system": ".txt", "fsdp": ".json"}
_ADAPTERS = ("adapters", "from_peft", "raw_peft")  # folders, or hub ids
_OUTPUTS = ("logging_dir", "cache_dir", "cache_path")  # need not be there yet
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_LOGS = "TENSORBOARD_LOGGING_DIR"
_WHY = "its paths start from the recipe's folder"


def resolve_paths(folder: Path, translation: Translation, known: Mapping[str, Argument]) -> Translation:
    """Return the translation with every path absolute, from `folder` on; absolute ones stay as they are written."""
    for name, value in translation.arguments.items():
        texts = value if isinstance(value, list) else [value]
        paths = [_resolve(folder, name, one, known) if isinstance(one, str) else one for one in texts]
        resolved = paths if isinstance(value, list) else paths[0]
        if resolved != value:
            translation.arguments[name] = resolved
            translation.why.setdefault(name, f"train.{name}: {_WHY}")
    if logs := translation.env.get(_LOGS):
        translation.env[_LOGS] = _resolve(folder, "logging_dir", logs, known)
    return translation


def list_paths(train: Mapping[str, Any], known: Mapping[str, Argument]) -> Iterator[tuple[str, str]]:
    """Yield each argument that names a file or folder to be read, with its path; `resolve_paths` has seen `train`."""
    for name, value in train.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and _is_path(name, text, known):
                yield name, text


def find_missing_files(
    folder: Path, train: Mapping[str, Any], known: Mapping[str, Argument]
) -> Iterator[tuple[str, Problem]]:
    """Yield every argument with a file that is not there; `train` has gone through `resolve_paths`."""
    for name, text in list_paths(train, known):
        if not Path(text).exists():
            hint = f"paths start from {folder}"
            hint += "; hub ids read owner/name" if name in _ADAPTERS else ""
            yield name, Problem(f"train.{name}: no such file: {text}", hint)


def _resolve(folder: Path, name: str, text: str, known: Mapping[str, Argument]) -> str:
    path = folder / os.path.expanduser(text)  # noqa: PTH111  pathlib's raises for the home of nobody
    named = name in _OUTPUTS or _is_path(name, text, known) or (name in _ADAPTERS and path.exists())
    return str(path) if named else text


def _is_path(name: str, text: str, known: Mapping[str, Argument]) -> bool:
    if name in _ADAPTERS:
        return not _HUB_ID.fullmatch(text)
    suffix = _FILES.get(name)
    if suffix is None and name in known and known[name].type in {"json", "dict"}:
        suffix = ".json"
    return suffix is not None and text.endswith(suffix)
