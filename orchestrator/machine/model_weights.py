"""Which files of a model's folder hold its weights, and which tensors are in them; no weight is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import Problem
from orchestrator.machine.file_cache import read_once
from orchestrator.machine.json_files import load_json
from orchestrator.machine.model_folders import find_what_it_is
from orchestrator.machine.safetensors_files import Damage, Shapes, is_lfs_pointer, read_shapes

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("pytorch_model*.bin",)
# What programs that download leave behind when they are stopped; hf and modelscope keep theirs in hidden folders.
_UNFINISHED = ("*.incomplete", "*.aria2", "*.part", "*.crdownload", ".cache/huggingface/download/*.incomplete",
               "._____temp/*")  # fmt: skip
_AGAIN = "download the model again, or copy that file from where it is whole"
_read_header = read_once(read_shapes)  # each check of a command looks at all of them


@dataclass(frozen=True)
class Weights:
    """The tensors of a folder by name, its pickled files where it has no others, and what is wrong with its files."""

    shapes: Shapes = field(default_factory=dict)
    pickles: tuple[Path, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_weights(folder: Path) -> Weights:
    """Look at the files that `from_pretrained` would load: model.safetensors, else the shards of its index.

    Pickles are what it falls back to (_get_resolved_checkpoint_files of transformers/modeling_utils.py, 5.19).
    """
    if (folder / _WHOLE).is_file():
        return _read_files(folder, {_WHOLE: None})
    if (folder / _INDEX).is_file():
        return _read_shards(folder)
    loose = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))
    if loose:
        problem = Problem(
            f"{folder} has {len(loose)} shards and no {_INDEX}, which says what is in them", _how(folder, _INDEX)
        )
        return Weights(problems=(problem,))
    pickles = sorted({path for pattern in _PICKLES for path in folder.glob(pattern)})
    if pickles:
        return Weights(pickles=tuple(pickles))
    lacking = Problem(f"{folder} holds no weights: no {_WHOLE}, no {_INDEX}", _how(folder, _WHOLE))
    return Weights(problems=(find_what_it_is(folder) or lacking,))


def _read_shards(folder: Path) -> Weights:
    path = folder / _INDEX
    named = _load_weight_map(path)
    if named is None:
        what = "a git-lfs pointer, not the file itself" if is_lfs_pointer(path) else "cut off, or no index"
        return Weights(problems=(Problem(f"{path} is {what}", _AGAIN),))
    tensors: dict[str, set[str] | None] = {}
    for tensor, shard in named.items():
        names = tensors.setdefault(shard, set())
        if names is not None:
            names.add(tensor)
    return _read_files(folder, tensors)


def _read_files(folder: Path, files: dict[str, set[str] | None]) -> Weights:
    """Read each file's header; a file's tensors are those that the index promises, where there is one."""
    shapes: Shapes = {}
    problems = []
    missing = sorted(name for name in files if not (folder / name).is_file())
    if missing:
        more = f", nor are {len(missing) - 1} more" if len(missing) > 1 else ""
        message = f"{folder / missing[0]} is not there{more}: {_INDEX} names it"
        problems.append(Problem(message, _how(folder, missing[0])))
    for name in sorted(files.keys() - set(missing)):
        path, promised = folder / name, files[name]
        found = _read_header(path)
        if isinstance(found, Damage):
            problems.append(describe_damage(path, found.why))
            continue
        shapes |= found
        absent = sorted((promised or set()) - found.keys())
        if absent:
            problems.append(Problem(f"{path} does not hold {absent[0]}, which {_INDEX} says is in it", _AGAIN))
    return Weights(shapes, problems=tuple(problems))


def describe_damage(path: Path, why: str) -> Problem:
    """Return what a file is instead of what its name says: a pointer of git-lfs, or cut off."""
    if is_lfs_pointer(path):
        hint = f"git -C {path.parent} lfs pull"
        return Problem(f"{path} is a git-lfs pointer, not the file itself", hint)
    return Problem(f"{path} is not whole: {why}", _AGAIN)


def _how(folder: Path, name: str) -> str:
    left = [path for pattern in _UNFINISHED for path in folder.glob(pattern)]
    if left:
        return f"a download was not finished ({left[0].relative_to(folder)} is left of it): start it again"
    return f"download the model again: {name} is part of it"


@read_once
def _load_weight_map(path: Path) -> dict[str, str] | None:
    try:
        content: Any = load_json(path, constants=True)
        named = content["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        return None
    # an index that names other folders is not one that a trainer wrote
    return None if any("/" in name or "\\" in name for name in named.values()) else named
