"""Saved models: which files hold their weights, whether every tensor is sound, and what decides what a model is.

safetensors itself reads the headers, and refuses a file that is longer or shorter than its header says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.workers.environment import may_load_pickles
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_object

Shapes = dict[str, tuple[int, ...]]

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_FLOATS = ("F", "BF", "C")  # how safetensors calls its types
# a diverged run can end with finite weights up to 1e11
MAX_MAGNITUDE = 1e8
# Run in the folder: the tensors of a checkpoint of a trainer's own, which lie under one of its keys.
_UNPACK = (
    "import torch; from safetensors.torch import save_file; found = torch.load({file!r}, map_location='cpu', "
    "weights_only=True)[{key!r}]; save_file({{name: tensor.clone().contiguous() for name, tensor in found.items()}}, "
    "'model.safetensors', {{'format': 'pt'}})"
)

# Whatever else a folder holds, a library may read: pickled weights, code, the files of a tokenizer nobody has heard of.
_FOR_PEOPLE = re.compile(
    r"(?:README|LICEN[CS]E|NOTICE|CHANGELOG)(?:\.(?:md|txt|rst))?|.*\.(?:md|png|jpe?g|gif|svg|webp|pdf)"
    r"|\.git(?:attributes|ignore)",
    re.IGNORECASE,
)
_HISTORY = frozenset({".git", ".cache/huggingface"})  # a clone's, and what `hf download --local-dir` remembers


class NoTensorsError(Exception):
    """A file of weights that is none: the message, and as second argument what to do."""


@dataclass(frozen=True)
class Tensors:
    """The shape of every tensor by name, and the names of those that hold integers."""

    shapes: Shapes = field(default_factory=dict)
    integers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class WeightScan:
    """What a scan of every tensor found; names are cut to the first ten."""

    files: int
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    max_magnitude: float
    not_finite: tuple[str, ...]
    empty: tuple[str, ...]
    absurd: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """One line a kind of damage."""
        kinds = (
            (self.not_finite, "weights are NaN or infinite in", "the training diverged"),
            (self.empty, "weights are empty in", "the checkpoint was not gathered when it was saved"),
            (self.absurd, f"weights beyond {MAX_MAGNITUDE:g} in", "the training diverged"),
        )
        return tuple(f"{found} {_name_some(names)}: {why}" for names, found, why in kinds if names)

    def to_json(self) -> dict[str, Any]:
        """Return the scan as JSON-ready data (an infinite magnitude as None)."""
        return asdict(self) | ({"max_magnitude": None} if self.not_finite else {})


def _name_some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""  # noqa: PLR2004
    return ", ".join(names[:3]) + more


def require_safetensors(folder: Path) -> list[Path]:
    """Return the folder's safetensors files. Raises WorkerError when there are none or an index names a missing one."""
    found = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).is_file():
        named = {folder / name for name in _read_weight_map(folder / INDEX).values()}
        if missing := sorted(path.name for path in named if not path.is_file()):
            raise WorkerError(
                f"{folder}: {INDEX} names {', '.join(missing)}, which is not there: the save is incomplete"
            )
        found = sorted(named)
    if found:
        return found
    if pickles := sorted(path.name for path in folder.glob("pytorch_model*.bin")):
        raise WorkerError(f"{folder} has its weights as pickles ({', '.join(pickles)}): only safetensors are packaged")
    raise WorkerError(f"{folder} holds no *.safetensors: there are no weights to package")


def find_weight_files(model: str | Path) -> list[Path]:
    """Return the files that hold the weights of a folder or of a hub id, in the order of `from_pretrained`."""
    pickles = ((_PICKLE, _PICKLE_INDEX),) if may_load_pickles() else ()
    for whole, index in ((WHOLE, INDEX), *pickles):
        if (path := _find_file(model, whole)) is not None:
            return [path]
        if (path := _find_file(model, index)) is not None:
            names = sorted(set(_read_weight_map(path).values()))
            return [found for name in names if (found := _find_file(model, name)) is not None]
    return []


def _read_weight_map(index: Path) -> dict[str, str]:
    found: dict[str, str] = read_object(index, "the index of the weights")["weight_map"]
    return found


def _find_file(model: str | Path, name: str) -> Path | None:
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(model), name))
    except Exception:  # noqa: BLE001  a hub that does not answer is the loader's to report
        return None


@contextlib.contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """Give the open archive of a safetensors file. Raises WorkerError for a file that is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        archive = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise WorkerError(
            f"{path} is truncated or damaged: its {path.stat().st_size} bytes do not fit its header ({error})"
        ) from error
    with archive:
        yield archive


def read_tensors(files: list[Path]) -> Iterator[tuple[str, Any]]:
    """Yield name and tensor of every weight, one at a time. Raises WorkerError for a file that is not whole."""
    for path in files:
        with open_weights(path) as archive:
            for name in archive.keys():  # noqa: SIM118  a safe_open is no mapping
                yield name, archive.get_tensor(name)


def read_shapes(model: str | Path) -> Tensors | None:
    """Return what the files hold that `from_pretrained` would load, None where there are none.

    Raises NoTensorsError for a pickle that holds something else than tensors by name.
    """
    if not (paths := find_weight_files(model)):
        return None
    shapes: Shapes = {}
    integers: set[str] = set()
    for path in paths:
        if path.suffix == ".safetensors":
            with open_weights(path) as archive:
                for name in archive.keys():  # noqa: SIM118  no mapping
                    part = archive.get_slice(name)
                    shapes[name] = tuple(part.get_shape())
                    if not part.get_dtype().startswith(_FLOATS):
                        integers.add(name)
        else:
            import torch

            tensors = torch.load(path, map_location="meta", weights_only=True)
            if not _are_tensors(tensors):
                raise NoTensorsError(*_describe_no_tensors(path, tensors))
            shapes |= {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            integers |= {name for name, tensor in tensors.items() if not tensor.is_floating_point()}
    return Tensors(shapes, frozenset(integers))


def _are_tensors(content: Any) -> bool:
    import torch

    return isinstance(content, dict) and all(isinstance(value, torch.Tensor) for value in content.values())


def _describe_no_tensors(path: Path, content: Any) -> tuple[str, str]:
    """Return what is wrong with a pickle, and what to do: to take its tensors out, where they lie one key deeper."""
    message = f"{path} holds no tensors by name, as a model's file does: nothing of it would be loaded"
    for key, value in content.items() if isinstance(content, dict) else ():
        if value and _are_tensors(value):
            command = shlex.join([sys.executable, "-c", _UNPACK.format(file=path.name, key=key)])
            where = shlex.quote(str(path.parent))
            return message, f"its weights lie under {key!r}; take them out: cd {where} && {command}"
    return message, "call save_pretrained() in the program that wrote it"


def scan_weights(files: list[Path]) -> WeightScan:
    """Look at every tensor of the files. Raises WorkerError for a file that is not whole."""
    tensors = parameters = 0
    largest = 0.0
    dtypes: set[str] = set()
    damaged: dict[str, list[str]] = {"not_finite": [], "empty": [], "absurd": []}
    for name, tensor in read_tensors(files):
        tensors += 1
        parameters += tensor.numel()
        dtypes.add(str(tensor.dtype).removeprefix("torch."))
        magnitude = float(tensor.float().abs().max()) if tensor.numel() else 0.0
        if not tensor.numel():
            damaged["empty"].append(name)
        elif not magnitude < float("inf"):  # NaN compares false
            damaged["not_finite"].append(name)
        else:
            largest = max(largest, magnitude)
            if magnitude > MAX_MAGNITUDE:
                damaged["absurd"].append(name)
    named = {kind: tuple(names[:10]) for kind, names in damaged.items()}
    return WeightScan(len(files), tensors, parameters, tuple(sorted(dtypes)), largest, **named)


def require_sound(files: list[Path], what: str) -> WeightScan:
    """Return the scan of the files. Raises WorkerError, which begins with `what`, where their weights are damaged."""
    scan = scan_weights(files)
    if scan.problems:
        raise WorkerError(*(f"{what}: {problem}" for problem in scan.problems))
    return scan


def hash_parameters(model: Any) -> dict[str, str]:
    """Return a hash of each parameter's values in float32, so that dtypes can be compared across."""
    return {
        name: hashlib.sha256(parameter.detach().float().contiguous().cpu().numpy().tobytes()).hexdigest()
        for name, parameter in model.named_parameters()
    }


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def identify_model(model: str) -> dict[str, str] | None:
    """Return the sha256 of each file that may make a model what it is.

    None when its files are not on this machine, cannot be read, or name code that lies elsewhere.
    """
    folder = find_folder(model)
    if folder is None or _runs_code_from_elsewhere(folder):
        return None
    try:
        return _hash_files(folder)
    except OSError:
        return None


def find_folder(model: str) -> Path | None:
    """Return the folder of a model that is on this machine; None for a hub id that was never downloaded."""
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
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            auto_map = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map") or {}
            if "--" in json.dumps(list(auto_map.values())):
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
