"""Which files of a model's folder hold its weights, and which tensors are in them; no weight is read.

A safetensors file: eight bytes of length (little-endian), a JSON header of that length, the data
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from orchestrator.errors import Problem
from orchestrator.machine.files import find_text, open_regular, read_once
from orchestrator.machine.json_files import load_json, parse_json
from orchestrator.machine.model_folders import find_what_it_is

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_LONGEST_SIDE = 2**48
_LFS_START = "version https://git-lfs"

Shapes = dict[str, tuple[int, ...]]


class Damage(msgspec.Struct, frozen=True):
    """Why a file is not a whole safetensors file."""

    why: str


def read_shapes(path: Path) -> Shapes | Damage:
    """Return the shape of every tensor of a whole safetensors file, or why it is none."""
    try:
        size = path.stat().st_size
        with open_regular(path) as stream:
            start = stream.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            if len(start) < _LENGTH_BYTES or not 0 < length <= min(_MAX_HEADER_BYTES, size):
                return Damage("it has no safetensors header")
            header = parse_json(stream.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in tensors.items()}
        if any(not 0 <= length < _LONGEST_SIDE for shape in shapes.values() for length in shape):
            return Damage("its safetensors header gives a tensor a size that none has")
    except OSError as error:
        return Damage(f"it cannot be read: {error.strerror or error}")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return Damage("its safetensors header is cut off or damaged")
    expected = _LENGTH_BYTES + length + end
    return shapes if size == expected else Damage(f"it has {size:,} bytes, and its header says {expected:,}")


def is_whole_safetensors(path: Path) -> bool:
    """Tell whether a safetensors file has its header and is as long as the header says."""
    return not isinstance(read_shapes(path), Damage)


def is_lfs_pointer(path: Path) -> bool:
    """Tell whether git stored a file's name here and not the file: what a clone without git-lfs leaves."""
    return find_text(path, most_bytes=len(_LFS_START)) == _LFS_START


_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = "pytorch_model*.bin"
# What programs that download leave behind when they are stopped; hf and modelscope keep theirs in hidden folders.
_UNFINISHED = ("*.incomplete", "*.aria2", "*.part", "*.crdownload", ".cache/huggingface/download/*.incomplete",
               "._____temp/*")  # fmt: skip
_AGAIN = "download the model again, or copy that file from where it is whole"
_read_header = read_once(read_shapes)  # each check of a command looks at all of them


class Weights(msgspec.Struct, frozen=True):
    """The tensors of a folder by name, its files (none where one is missing) or pickled ones, and what is wrong."""

    shapes: Shapes = {}
    files: tuple[Path, ...] = ()
    pickles: tuple[Path, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_weights(folder: Path) -> Weights:
    """Look at the files that `from_pretrained` would load: model.safetensors, else the shards of its index.

    Pickles are what it falls back to (_get_resolved_checkpoint_files of transformers/modeling_utils.py, 5.19).
    """
    if (folder / _WHOLE).is_file():
        return _read_files(folder, {_WHOLE: set()})
    if (folder / _INDEX).is_file():
        return _read_shards(folder)
    if loose := list(folder.glob("model-*-of-*.safetensors")):
        message = f"{folder} has {len(loose)} shards and no {_INDEX}, which says what is in them"
        return Weights(problems=(Problem(message, _how(folder, _INDEX)),))
    if pickles := sorted(folder.glob(_PICKLES)):
        return Weights(pickles=tuple(pickles))
    lacking = Problem(f"{folder} holds no weights: no {_WHOLE}, no {_INDEX}", _how(folder, _WHOLE))
    return Weights(problems=(find_what_it_is(folder) or lacking,))


def _read_shards(folder: Path) -> Weights:
    path = folder / _INDEX
    if (named := _load_weight_map(path)) is None:
        what = "a git-lfs pointer, not the file itself" if is_lfs_pointer(path) else "cut off, or no index"
        return Weights(problems=(Problem(f"{path} is {what}", _AGAIN),))
    tensors: dict[str, set[str]] = {}
    for tensor, shard in named.items():
        tensors.setdefault(shard, set()).add(tensor)
    return _read_files(folder, tensors)


def _read_files(folder: Path, files: dict[str, set[str]]) -> Weights:
    """Read each file's header; a file's tensors are those that the index promises, where there is one."""
    shapes: Shapes = {}
    problems = []
    if missing := sorted(name for name in files if not (folder / name).is_file()):
        more = f", nor are {len(missing) - 1} more" if len(missing) > 1 else ""
        message = f"{folder / missing[0]} is not there{more}: {_INDEX} names it"
        problems.append(Problem(message, _how(folder, missing[0])))
    for name in sorted(files.keys() - set(missing)):
        path = folder / name
        found = _read_header(path)
        if isinstance(found, Damage):
            problems.append(describe_damage(path, found.why))
            continue
        shapes |= found
        if absent := sorted(files[name] - found.keys()):
            problems.append(Problem(f"{path} does not hold {absent[0]}, which {_INDEX} says is in it", _AGAIN))
    there = () if missing else tuple(folder / name for name in files)
    return Weights(shapes, there, problems=tuple(problems))


def describe_damage(path: Path, why: str) -> Problem:
    """Return what a file is instead of what its name says: a pointer of git-lfs, or cut off."""
    if is_lfs_pointer(path):
        hint = f"git -C {path.parent} lfs pull"
        return Problem(f"{path} is a git-lfs pointer, not the file itself", hint)
    return Problem(f"{path} is not whole: {why}", _AGAIN)


def _how(folder: Path, name: str) -> str:
    if left := [path for pattern in _UNFINISHED for path in folder.glob(pattern)]:
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
