"""Old and new names of arguments, each rendered as the installed version wants it; and paths that arguments name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.backends.arguments import Argument
from orchestrator.errors import Problem
from orchestrator.machine.packages import find_major
from orchestrator.recipe.losses import LOSSES

# Old names that `translate` understands, with the type that a recipe gives them.
OLD_SPELLINGS: dict[str, str] = {
    "warmup_ratio": "float",
    "evaluation_strategy": "str",
    "no_cuda": "bool",
    "overwrite_output_dir": "bool",
    "save_safetensors": "bool",
    "logging_dir": "str",
    "group_by_length": "bool",
    "per_gpu_train_batch_size": "int",
}

_RENAMED = {
    "evaluation_strategy": ("eval_strategy", "transformers 4.46 renamed it"),
    "no_cuda": ("use_cpu", "transformers renamed it"),
    "per_gpu_train_batch_size": ("per_device_train_batch_size", "transformers renamed it"),
}


@dataclass
class Translation:
    """Arguments as the installed version spells them; `why` holds the reason of each one that changed."""

    arguments: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    problems: list[tuple[str, Problem]] = field(default_factory=list)


def major(version: str | None) -> int:
    """Return the first number of a version; 5 where nothing is known, the tested generation."""
    found = find_major(version)
    return 5 if found is None else found


def translate(train: Mapping[str, Any], versions: Mapping[str, str], task: str = "") -> Translation:  # noqa: ARG001
    """Return `train` (values already of the right types) in the installed version's spelling.

    Sources: transformers' TrainingArguments of 4.52, 4.57, 5.14, 5.19 and 5.23. Those of 5.14 take some old
    names with a warning; the new ones are taken by every 5.
    """
    result = Translation()
    modern = major(versions.get("transformers")) >= 5  # noqa: PLR2004
    for name, value in train.items():
        if rename(result, train, name, value):
            continue
        if name in {"warmup_ratio", "warmup_steps"}:
            _warmup(result, name, value, train, modern=modern)
        elif name in {"overwrite_output_dir", "save_safetensors"}:
            leave_out(result, name, value)
        elif name in {"logging_dir", "group_by_length"} and modern:
            _replace(result, name, value, train)
        elif name == "train_sampling_strategy" and not modern:
            restore_sampling(result, train, value)
        else:
            result.arguments[name] = value
    return result


def rename(result: Translation, train: Mapping[str, Any], name: str, value: Any) -> bool:
    """Add an argument that transformers has renamed under its new name; return whether it is one."""
    if name not in _RENAMED:
        return False
    new, why = _RENAMED[name]
    put(result, train, name, (new, value), why)
    return True


def put(result: Translation, train: Mapping[str, Any], old: str, new: tuple[str, Any], why: str) -> None:
    """Add an argument under its new name, unless the recipe gives that too."""
    name, value = new
    if name in train:
        result.problems.append((old, Problem(f"{old} and {name} are one setting; both are given", f"keep {name}")))
        return
    result.arguments[name] = value
    result.why[name] = f"{old} in the recipe: {why}"


def _warmup(result: Translation, name: str, value: float, train: Mapping[str, Any], *, modern: bool) -> None:
    if name == "warmup_ratio" and not 0 <= value < 1:
        problem = Problem(f"warmup_ratio is a share of the steps, got {value}", "0.1 is 10 %")
        result.problems.append((name, problem))
    elif name == "warmup_ratio" and modern:
        why = "transformers 5 dropped --warmup_ratio; a --warmup_steps below 1 is a ratio"
        put(result, train, name, ("warmup_steps", value), why)
    elif name == "warmup_steps" and not modern and 0 < value < 1:
        why = "before transformers 5 a ratio has a flag of its own"
        put(result, train, name, ("warmup_ratio", value), why)
    else:
        result.arguments[name] = int(value) if name == "warmup_steps" and value >= 1 else value


def leave_out(result: Translation, name: str, value: bool) -> None:  # noqa: FBT001
    """Drop an argument that no version needs any more, with the reason."""
    if name == "overwrite_output_dir":
        result.dropped[name] = "every run has a fresh folder; transformers 5 dropped the flag"
    elif value:
        result.dropped[name] = "safetensors is the only format that is written"
    else:
        problem = Problem("save_safetensors: false would write pickled weights", "remove it: pickles are never loaded")
        result.problems.append((name, problem))


def restore_sampling(result: Translation, train: Mapping[str, Any], value: str) -> None:
    """Add `train_sampling_strategy`, which transformers 5 brought, as versions before it say the same."""
    name = "train_sampling_strategy"
    if value == "group_by_length":
        put(result, train, name, (value, True), "before transformers 5 it is a flag of its own")
    elif value == "random":
        result.dropped[name] = "random is the default, and before transformers 5 there is no such flag"
    else:
        problem = Problem(f"{name}: {value} needs transformers 5", "remove it, or install transformers 5")
        result.problems.append((name, problem))


def _replace(result: Translation, name: str, value: Any, train: Mapping[str, Any]) -> None:
    if name == "logging_dir":
        result.env["TENSORBOARD_LOGGING_DIR"] = value
        result.dropped[name] = "transformers 5 reads the environment variable TENSORBOARD_LOGGING_DIR instead"
    elif value:
        new = ("train_sampling_strategy", "group_by_length")
        put(result, train, name, new, "transformers 5 replaced --group_by_length")
    else:
        result.dropped[name] = "off is the default"


# Old names that `translate_swift` understands, with the type that a recipe gives them. `loss_type` is one of them: its
# names differ from version to version, and all of them are read.
OLD_SWIFT_SPELLINGS: dict[str, str] = {
    "train_type": "str",
    "sft_type": "str",
    "loss_type": "str",
    "evaluation_strategy": "str",
    "no_cuda": "bool",
    "per_gpu_train_batch_size": "int",
    "overwrite_output_dir": "bool",
    "save_safetensors": "bool",
}
_TUNER = "ms-swift 4 renamed it, and has no alias"
_BEFORE = "before ms-swift 4 it has this name"
_GENERATIVE = "generative_reranker"
_POINTWISE = "pointwise_reranker"  # from ms-swift 4 on


def is_swift_4(versions: Mapping[str, str]) -> bool:
    """Tell whether ms-swift 4 or later is installed; so it is where nothing is known, for that is the tested set's."""
    return major(versions.get("ms-swift")) >= 4  # noqa: PLR2004


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
    native = LOSSES[loss].native or loss
    if native != _POINTWISE or is_swift_4(versions):
        return native
    return _GENERATIVE if task_type == _GENERATIVE else "reranker"


def translate_swift(train: Mapping[str, Any], versions: Mapping[str, str], task: str) -> Translation:
    """Return `train` (values already of the right types) in the installed version's spelling.

    `task` is the recipe's: but for an LLM, `loss_type` is read as `loss:`.

    Sources: swift/arguments of ms-swift 3.6, 3.12 and 4.6, which all take `--warmup_ratio` and `--group_by_length`.
    """
    result, tuner = Translation(), name_tuner(versions)
    old_transformers = major(versions.get("transformers")) < 5  # noqa: PLR2004
    for name, value in train.items():
        if name in {"train_type", "sft_type", "tuner_type"} and name != tuner:
            put(result, train, name, (tuner, value), _TUNER if is_swift_4(versions) else _BEFORE)
        elif rename(result, train, name, value):
            continue
        elif name in {"overwrite_output_dir", "save_safetensors"}:
            leave_out(result, name, value)
        elif name == "loss_type" and task != "sft":
            result.dropped[name] = "understood as `loss:`, which decides the loss and its settings"
        elif name == "warmup_ratio" and not 0 <= value < 1:
            problem = Problem(f"warmup_ratio is a share of the steps, got {value}", "0.1 is 10 %")
            result.problems.append((name, problem))
        elif name == "warmup_steps" and 0 < value < 1:
            put(result, train, name, ("warmup_ratio", value), "every ms-swift takes a ratio by this name")
        elif name == "warmup_steps":
            result.arguments[name] = int(value)
        elif name == "train_sampling_strategy" and old_transformers:
            restore_sampling(result, train, value)
        else:
            result.arguments[name] = value
    return result


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


def resolve_paths(folder: Path, translation: Translation, known: Mapping[str, Argument]) -> Translation:
    """Return the translation with every path absolute, from `folder` on; absolute ones stay as they are written."""
    for name, value in translation.arguments.items():
        resolved = _map(value, lambda text, name=name: _resolve(folder, name, text, known))
        if resolved != value:
            translation.arguments[name] = resolved
            translation.why.setdefault(name, f"train.{name}: {_WHY}")
    if logs := translation.env.get(_LOGS):
        translation.env[_LOGS] = _resolve(folder, "logging_dir", logs, known)
    return translation


def find_missing_files(
    folder: Path, train: Mapping[str, Any], known: Mapping[str, Argument]
) -> Iterator[tuple[str, Problem]]:
    """Yield every argument with a file that is not there; `train` has gone through `resolve_paths`."""
    for name, value in train.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and _is_path(name, text, known) and not Path(text).exists():
                hint = f"paths start from {folder}"
                hint += "; hub ids read owner/name" if name in _ADAPTERS else ""
                yield name, Problem(f"train.{name}: no such file: {text}", hint)


def _map(value: Any, change: Any) -> Any:
    if isinstance(value, list):
        return [change(item) if isinstance(item, str) else item for item in value]
    return change(value) if isinstance(value, str) else value


def _resolve(folder: Path, name: str, text: str, known: Mapping[str, Argument]) -> str:
    path = folder / os.path.expanduser(text)  # noqa: PTH111  pathlib's raises for the home of nobody
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
