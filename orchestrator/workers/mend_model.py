"""Tensors under other names than their model's, and the worker that writes a copy of the folder with the right ones.

Only headers are rewritten and bytes copied, but for a head or an adapter that is computed: any Python renames, and so
nothing here asks safetensors or PyTorch to.
"""

from __future__ import annotations

import argparse
import itertools
import json
import mmap
import os
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import fresh_folder, read_object, write_json
from orchestrator.workers.weights import INDEX, Shapes, read_tensors, require_safetensors

# What DistributedDataParallel, torch.compile, FSDP, activation checkpoints and DeepSpeed put into a name, anywhere.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# What peft puts around the weights of a model that it trains; an adapter's own numbers are in the last five.
PEFT_BODY = "base_model.model"
PEFT_LAYER, PEFT_COPY = "base_layer", "original_module"
ADAPTER = re.compile(r"(^|\.)(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|modules_to_save|lora_[EP])(\.|$)")
# what heads that score are called
HEAD = re.compile(r"(^|\.)(classifier|score|scorer|classification_head|cls_head|ranking_head|head|logits_proj)\.")
TOP_HEAD = re.compile(r"(score|classifier|classification_head)(\.(dense|out_proj))?\.weight")  # and nothing in front
_LOOKED_AT = 12  # missing names that a swap of prefixes is looked for with
_CLASSIFIES = "ForSequenceClassification"
_WEIGHTS = ("*.safetensors", INDEX, "*.bin", "*.bin.index.json", "*.pt", "*.pth")
_LABELS = ("id2label", "label2id", "num_labels", "_num_labels")


@dataclass(frozen=True)
class Renaming:
    """One change of names: components `old` dropped wherever they are, or `old` in front of a name become `new`."""

    old: str
    new: str | None = None

    def apply(self, name: str) -> str:
        """Return the name as it is after the change."""
        if self.new is None:
            return f".{name}.".replace(f".{self.old}.", ".").strip(".")
        if self.old and not name.startswith(f"{self.old}."):
            return name
        rest = name[len(self.old) :].removeprefix(".")
        return f"{self.new}.{rest}" if self.new else rest

    @property
    def option(self) -> tuple[str, str]:
        """The option of `workers mend_model` that says it."""
        if self.new is None:
            return "--drop", self.old
        return ("--strip", self.old) if not self.new else ("--rename", f"{self.old}={self.new}")

    def __str__(self) -> str:
        """Return what to do, in words."""
        if self.new is None:
            return f"take {self.old}. out of the names"
        if not self.new:
            return f"strip the prefix {self.old}."
        return f"rename {self.old}. to {self.new}." if self.old else f"put {self.new}. in front of the names"


def rename(name: str, renamings: Iterable[Renaming]) -> str:
    """Return the name after every change, in order."""
    for renaming in renamings:
        name = renaming.apply(name)
    return name


def find_wrappers(names: Iterable[str], wanted: Iterable[str] = ()) -> tuple[Renaming, ...]:
    """Return what takes the wrappers out of names; what the model itself calls so is none."""
    names = list(names)
    found = {part for name in names for part in name.split(".")}
    own = {part for name in wanted for part in name.split(".")}
    wrapped = []
    for wrapper in WRAPPERS:
        if wrapper in found - own:
            inside = any(f".{wrapper}." in name for name in names)
            wrapped.append(Renaming(wrapper, None if inside else ""))
    after = [rename(name, wrapped) for name in names]
    if any(name.startswith(f"{PEFT_BODY}.") for name in after):
        wrapped.append(Renaming(PEFT_BODY, ""))
    if not any(ADAPTER.search(name) for name in names):  # with an adapter beside it, it is not a whole weight
        wrapped += [Renaming(part) for part in (PEFT_LAYER, PEFT_COPY) if part in found - own]
    return tuple(wrapped)


def find_swap(missing: Shapes, there: Shapes) -> Renaming | None:
    """Return the change in front of names that makes most of what is there into what is missing, shapes included."""
    by_end: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, shape in there.items():
        by_end.setdefault((name.rpartition(".")[2], shape), []).append(name)
    swaps: Counter[tuple[str, str]] = Counter()
    step = max(1, len(missing) // _LOOKED_AT)
    for name in sorted(missing)[::step]:
        for other in by_end.get((name.rpartition(".")[2], missing[name]), ()):
            one, two = other.split("."), name.split(".")
            from_end = zip(reversed(one), reversed(two), strict=False)
            same = sum(1 for _ in itertools.takewhile(lambda parts: parts[0] == parts[1], from_end))
            swaps[".".join(one[: len(one) - same]), ".".join(two[: len(two) - same])] += 1
    best, most = None, 0
    for (old, new), _ in swaps.most_common(_LOOKED_AT):
        renaming = Renaming(old, new)
        filled = {renaming.apply(name): shape for name, shape in there.items() if renaming.apply(name) != name}
        count = sum(missing.get(name) == shape for name, shape in filled.items())
        if count > most:
            best, most = renaming, count
    return best


def name_command(folder: str, *options: str) -> str:
    """Return the command that writes a mended copy of a model's folder beside it; any Python runs it."""
    target = f"{folder.rstrip('/')}-mended"
    return shlex.join([sys.executable, str(Path(__file__).parent), "mend_model", folder, "-o", target, *options])


Names = dict[str, str | None]  # old → new, None for a tensor that is left out
Values = dict[str, tuple[list[int], bytes]]  # shape and bytes of a tensor that is computed


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


def write_changed(path: Path, target: Path, names: Names, values: Values) -> None:
    """Write one safetensors file with the change: a tensor that it does not speak of stays as it is."""
    header, start = read_header(path)
    written: dict[str, Any] = {"__metadata__": header.pop("__metadata__")}
    parts: list[slice | bytes] = []  # where the bytes are in the file, or what they are
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if (new := names.get(name, name)) is None:
            continue
        first, last = entry["data_offsets"]
        shape, content = values.get(name, (entry["shape"], None))
        size = last - first if content is None else len(content)
        written[new] = {**entry, "shape": shape, "data_offsets": [end, end + size]}
        parts.append(slice(start + first, start + last) if content is None else content)
        end += size
    text = json.dumps(written).encode()
    text += b" " * (-len(text) % 8)
    with path.open("rb") as source, target.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        there = memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
        for part in parts:
            out.write(there[part] if isinstance(part, slice) else part)


def make_one_label(tensors: dict[str, Any]) -> Values:
    """Return the head of two labels as one of one: the second label's logit less the first's.

    Raises WorkerError where there is no such head.
    """
    heads = {name: tensor for name, tensor in tensors.items() if HEAD.search(name) and tensor.shape[:1] == (2,)}
    if not heads:
        raise WorkerError("there is no head of two labels")
    return {name: _pack((tensor[1:] - tensor[:1]).to(tensor.dtype)) for name, tensor in heads.items()}


def fold_adapter(tensors: dict[str, Any], alpha: float) -> tuple[Names, Values]:
    """Return the weights with the LoRA that lies beside them added, each times `alpha` by its rank.

    Raises WorkerError where there is none, or another kind of adapter.
    """
    names: Names = {}
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
    return names, values


def mend(folder: Path, target: Path, options: argparse.Namespace) -> int:
    """Write the mended copy into `target`; return how many tensors were changed. Raises WorkerError."""
    files = require_safetensors(folder)
    there = [name for path in files for name in read_header(path)[0] if name != "__metadata__"]
    names: Names = {}
    values: Values = {}
    if options.without_head:
        names = {name: None for name in there if HEAD.search(name)}
    elif options.one_label:
        values = make_one_label(dict(read_tensors(files)))
    elif options.fold_lora is not None:
        names, values = fold_adapter(dict(read_tensors(files)), options.fold_lora)
    else:
        names = {name: rename(name, options.renamings) for name in there}
        if twice := [new for new, count in Counter(names.values()).items() if count > 1]:
            raise WorkerError(f"two tensors would be called {twice[0]}")
        if all(old == new for old, new in names.items()):
            raise WorkerError("no tensor is called so: nothing would change")
    # the weights of the model itself, and not of its modules, are written anew
    anew = {found.name for pattern in _WEIGHTS for found in folder.glob(pattern)}
    shutil.copytree(folder, target, dirs_exist_ok=True, ignore=lambda path, _: anew if Path(path) == folder else set())
    for path in files:
        write_changed(path, target / path.name, names, values)
    if (folder / INDEX).is_file():
        index = read_object(folder / INDEX, "the index of the weights")
        moved = {names.get(name, name): file for name, file in index["weight_map"].items()}
        index["weight_map"] = {name: file for name, file in moved.items() if name is not None}
        write_json(target / INDEX, index)
    if options.one_label or options.without_head:
        config = read_object(folder / "config.json", "the model's config")
        config = {key: value for key, value in config.items() if key not in _LABELS}
        if options.one_label:
            config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        else:
            config["architectures"] = [name.replace(_CLASSIFIES, "Model") for name in config.get("architectures") or ()]
        write_json(target / "config.json", config)
    return len({name for name, new in names.items() if name != new} | values.keys())


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
        raise WorkerError(f"{options.folder} is not a model: it has no config.json")
    if os.path.lexists(options.out):
        raise WorkerError(f"{options.out} exists already: choose another")
    with fresh_folder(options.out) as target:
        changed = mend(options.folder, target, options)
    print(f"wrote {options.out}: {changed} tensors changed", flush=True)  # noqa: T201
    return 0


def _pack(tensor: Any) -> tuple[list[int], bytes]:
    import torch

    return list(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes()
