"""Old and new names of Hugging Face Trainer arguments: each is rendered as the installed version wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import Problem
from orchestrator.machine.packages import find_major

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


def translate(train: Mapping[str, Any], transformers_version: str | None) -> Translation:
    """Return `train` (values already of the right types) in the installed version's spelling.

    Sources: transformers' TrainingArguments of 4.52, 4.57, 5.14, 5.19 and 5.23. Those of 5.14 take some old
    names with a warning; the new ones are taken by every 5.
    """
    result = Translation()
    modern = major(transformers_version) >= 5  # noqa: PLR2004
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
