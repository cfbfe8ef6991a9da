"""Write a copy of a model's folder whose tensors have the names, or the head, that its class wants.

Only headers are rewritten and bytes copied, but for a head or an adapter that is computed: any Python renames, and so
nothing here asks safetensors or PyTorch to.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import fresh_folder, read_object, write_json
from orchestrator.workers.weight_names import PEFT_BODY, PEFT_COPY, PEFT_LAYER, Renaming, looks_like_head, rename
from orchestrator.workers.weights import INDEX, read_tensors, require_safetensors

_CLASSIFIES = "ForSequenceClassification"
_WEIGHTS = ("*.safetensors", INDEX, "*.bin", "*.bin.index.json", "*.pt", "*.pth")
_BLOCK = 1 << 24
_LABELS = ("id2label", "label2id", "num_labels", "_num_labels")


@dataclass(frozen=True)
class Change:
    """What becomes of the tensors: `names` old → new, None for one left out; `values` shape and bytes."""

    names: dict[str, str | None] = field(default_factory=dict)
    values: dict[str, tuple[list[int], bytes]] = field(default_factory=dict)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's header, and where its data begin. Raises WorkerError for one that is not whole."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header: dict[str, Any] = json.loads(stream.read(length) if length < size else b"")
        except ValueError as error:
            raise WorkerError(f"{path} is truncated, or has a damaged header: {error}") from error
    metadata = header.pop("__metadata__", {})
    expected = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if expected != size:
        raise WorkerError(f"{path} is truncated or padded: its header asks for {expected} bytes, it has {size}")
    return {"__metadata__": {**metadata, "format": "pt"}, **header}, 8 + length


def write_changed(path: Path, target: Path, change: Change) -> None:
    """Write one safetensors file with the change: a tensor that it does not speak of stays as it is."""
    header, start = read_header(path)
    written: dict[str, Any] = {"__metadata__": header.pop("__metadata__")}
    parts: list[tuple[int, int] | bytes] = []  # where the bytes are in the file, or what they are
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if (new := change.names.get(name, name)) is None:
            continue
        first, last = entry["data_offsets"]
        shape, content = change.values.get(name, (entry["shape"], None))
        size = last - first if content is None else len(content)
        written[new] = {**entry, "shape": shape, "data_offsets": [end, end + size]}
        parts.append((start + first, size) if content is None else content)
        end += size
    text = json.dumps(written).encode()
    text += b" " * (-len(text) % 8)
    with path.open("rb") as source, target.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for part in parts:
            if isinstance(part, bytes):
                out.write(part)
                continue
            place, left = part
            source.seek(place)
            while left:
                left -= out.write(source.read(min(left, _BLOCK)))


def rename_all(names: list[str], renamings: list[Renaming]) -> dict[str, str | None]:
    """Return each name's new one. Raises WorkerError where two would become one, or none is changed."""
    found = {name: rename(name, renamings) for name in names}
    if len(set(found.values())) < len(found):
        twice = next(new for new in found.values() if list(found.values()).count(new) > 1)
        raise WorkerError(f"two tensors would be called {twice}")
    if all(old == new for old, new in found.items()):
        raise WorkerError("no tensor is called so: nothing would change")
    return dict(found)


def make_one_label(tensors: dict[str, Any]) -> Change:
    """Return the head of two labels as one of one: the second label's logit less the first's.

    Raises WorkerError where there is no such head.
    """
    heads = {name: tensor for name, tensor in tensors.items() if looks_like_head(name) and tensor.shape[:1] == (2,)}
    if not heads:
        raise WorkerError("there is no head of two labels")
    return Change({}, {name: _pack((tensor[1:] - tensor[:1]).to(tensor.dtype)) for name, tensor in heads.items()})


def fold_adapter(tensors: dict[str, Any], alpha: float) -> Change:
    """Return the weights with the LoRA that lies beside them added, each times `alpha` by its rank.

    Raises WorkerError where there is none, or another kind of adapter.
    """
    names: dict[str, str | None] = {}
    values = {}
    for name, tensor in tensors.items():
        module, mark, rest = name.partition(".lora_A.")
        if not mark:
            continue
        one, two = tensor.float(), tensors[f"{module}.lora_B.{rest}"].float()
        weight = next((key for key in (f"{module}.{PEFT_LAYER}.weight", f"{module}.weight") if key in tensors), None)
        if weight is None:
            raise WorkerError(f"{module} has an adapter, and no weight that it belongs to")
        base = tensors[weight]
        values[weight] = _pack((base.float() + two @ one * (alpha / one.shape[0])).to(base.dtype))
        names |= {name: None, f"{module}.lora_B.{rest}": None}
    if not values:
        raise WorkerError("there is no LoRA beside the weights")
    renamings = [Renaming(PEFT_BODY, ""), Renaming(PEFT_LAYER)]
    for name in tensors.keys() - names.keys():
        if f".{PEFT_COPY}." in name:
            names[name] = None
        elif ".modules_to_save." in name:
            module, _, rest = name.partition(".modules_to_save.")
            names[name] = rename(f"{module}.{rest.partition('.')[2]}", renamings)
        elif ".lora_" in name:
            raise WorkerError(f"{name} is of an adapter that is not a plain LoRA: merge it with peft")
        else:
            names[name] = rename(name, renamings)
    return Change(names, values)


def write_config(folder: Path, target: Path, *, head: str) -> None:
    """Write config.json for a head of one label (`one`), or for none (`none`)."""
    config = read_object(folder / "config.json", "the model's config")
    for key in _LABELS:
        config.pop(key, None)
    if head == "one":
        config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    else:
        config["architectures"] = [name.replace(_CLASSIFIES, "Model") for name in config.get("architectures") or ()]
    write_json(target / "config.json", config)


def mend(folder: Path, target: Path, options: argparse.Namespace) -> int:
    """Write the mended copy into `target`; return how many tensors were changed. Raises WorkerError."""
    files = require_safetensors(folder)
    names = [name for path in files for name in read_header(path)[0] if name != "__metadata__"]
    if options.without_head:
        change = Change({name: None for name in names if looks_like_head(name)})
    elif options.one_label or options.fold_lora is not None:
        tensors = dict(read_tensors(files))
        change = make_one_label(tensors) if options.one_label else fold_adapter(tensors, options.fold_lora)
    else:
        change = Change(rename_all(names, options.renamings))
    shutil.copytree(folder, target, dirs_exist_ok=True, ignore=lambda path, _: _list_weights(folder, Path(path)))
    for path in files:
        write_changed(path, target / path.name, change)
    if (folder / INDEX).is_file():
        index = read_object(folder / INDEX, "the index of the weights")
        moved = {change.names.get(name, name): file for name, file in index["weight_map"].items()}
        index["weight_map"] = {name: file for name, file in moved.items() if name is not None}
        write_json(target / INDEX, index)
    if options.one_label or options.without_head:
        write_config(folder, target, head="one" if options.one_label else "none")
    return len({name for name, new in change.names.items() if name != new} | change.values.keys())


def main(argv: list[str]) -> int:
    """Write the mended copy, which appears whole or not at all."""

    class Renamed(argparse.Action):
        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            old, equals, new = values.partition("=")
            if self.dest == "rename" and not equals:
                parser.error(f"{option_string} takes OLD=NEW")
            namespace.renamings.append(Renaming(old, {"drop": None, "strip": ""}.get(self.dest, new)))

    parser = argparse.ArgumentParser(prog="workers mend_model", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True, help="a folder that is not there yet")
    parser.set_defaults(renamings=[])
    parser.add_argument("--strip", action=Renamed, metavar="PREFIX", help="take PREFIX. from the front of the names")
    parser.add_argument("--drop", action=Renamed, metavar="PART", help="take PART. out of the names, wherever it is")
    parser.add_argument("--rename", action=Renamed, metavar="OLD=NEW", help="put NEW. in the place of OLD. in front")
    parser.add_argument("--one-label", action="store_true", help="make one label of a head of two: second less first")
    parser.add_argument("--without-head", action="store_true", help="leave the head out, so that a new one is trained")
    parser.add_argument("--fold-lora", type=float, metavar="ALPHA", help="add the LoRA that lies beside the weights")
    options = parser.parse_args(argv)
    asked = (bool(options.renamings), options.one_label, options.without_head, options.fold_lora is not None)
    if sum(asked) != 1:
        parser.error("say what to change: names, --one-label, --without-head or --fold-lora")
    if not (options.folder / "config.json").is_file():
        raise WorkerError(f"{options.folder} is no model: it has no config.json")
    if os.path.lexists(options.out):
        raise WorkerError(f"{options.out} exists already: choose another")
    with fresh_folder(options.out) as target:
        changed = mend(options.folder, target, options)
    print(f"wrote {options.out}: {changed} tensors changed", flush=True)  # noqa: T201
    return 0


def _list_weights(folder: Path, path: Path) -> set[str]:
    """Return which files of `path` are written anew: the weights of the model itself, and not of its modules."""
    if path != folder:
        return set()
    return {found.name for pattern in _WEIGHTS for found in path.glob(pattern)}


def _pack(tensor: Any) -> tuple[list[int], bytes]:
    import torch

    return list(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes()
