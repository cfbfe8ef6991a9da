"""Which tensors the files hold that `from_pretrained` would load: their names, their shapes, and which are integers."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.workers.pickles import ALLOWED

Shapes = dict[str, tuple[int, ...]]

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_FLOATS = ("F", "BF", "C")  # how safetensors calls its types
# Run in the folder: the tensors of a checkpoint of a trainer's own, which lie under one of its keys.
_UNPACK = (
    "import torch; from safetensors.torch import save_file; found = torch.load({file!r}, map_location='cpu', "
    "weights_only=True)[{key!r}]; save_file({{name: tensor.clone().contiguous() for name, tensor in found.items()}}, "
    "'model.safetensors', {{'format': 'pt'}})"
)


class NoTensorsError(Exception):
    """A file of weights that is none: the message, and as second argument what to do."""


@dataclass(frozen=True)
class Tensors:
    """The shape of every tensor by name, and the names of those that hold integers."""

    shapes: Shapes = field(default_factory=dict)
    integers: frozenset[str] = frozenset()


def read_tensor_files(model: str | Path) -> Tensors | None:
    """Return what the files hold that `from_pretrained` would load, None where there are none.

    Raises NoTensorsError for a pickle that holds something else than tensors by name.
    """
    from safetensors import safe_open

    if not (paths := find_weight_files(model)):
        return None
    shapes: Shapes = {}
    integers: set[str] = set()
    for path in paths:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as archive:
                for name in archive.keys():  # noqa: SIM118  no mapping
                    part = archive.get_slice(name)
                    shapes[name] = tuple(part.get_shape())
                    if not part.get_dtype().startswith(_FLOATS):
                        integers.add(name)
        else:
            import torch

            tensors = torch.load(path, map_location="meta", weights_only=True)
            _require_tensors(path, tensors)
            shapes |= {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            integers |= {name for name, tensor in tensors.items() if not tensor.is_floating_point()}
    return Tensors(shapes, frozenset(integers))


def find_weight_files(model: str | Path) -> list[Path]:
    """Return the files that hold the weights of a folder or of a hub id, in the order of `from_pretrained`."""
    pickles = ((_PICKLE, _PICKLE_INDEX),) if os.environ.get(ALLOWED) == "1" else ()
    for whole, index in ((_WHOLE, _INDEX), *pickles):
        if (path := _find_file(model, whole)) is not None:
            return [path]
        if (path := _find_file(model, index)) is not None:
            names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
            return [found for name in names if (found := _find_file(model, name)) is not None]
    return []


def _require_tensors(path: Path, content: Any) -> None:
    import torch

    if isinstance(content, dict) and all(isinstance(value, torch.Tensor) for value in content.values()):
        return
    message = f"{path} holds no tensors by name, as a model's file does: nothing of it would be loaded"
    inner = content.items() if isinstance(content, dict) else ()
    for key, value in inner:
        if isinstance(value, dict) and value and all(isinstance(tensor, torch.Tensor) for tensor in value.values()):
            command = shlex.join([sys.executable, "-c", _UNPACK.format(file=path.name, key=key)])
            hint = f"its weights lie under {key!r}; take them out: cd {shlex.quote(str(path.parent))} && {command}"
            raise NoTensorsError(message, hint)
    raise NoTensorsError(message, "call save_pretrained() in the program that wrote it")


def _find_file(model: str | Path, name: str) -> Path | None:
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(model), name))
    except Exception:  # noqa: BLE001  a hub that does not answer is the loader's to report
        return None
