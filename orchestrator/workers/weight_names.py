"""Tensors under other names than their model's: what wraps a name, how it is renamed, and the command that does it."""

from __future__ import annotations

import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Shapes = Mapping[str, tuple[int, ...]]

# What DistributedDataParallel, torch.compile, FSDP, activation checkpoints and DeepSpeed put into a name, anywhere.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# What peft puts around the weights of a model that it trains; an adapter's own numbers are in the last five.
PEFT_BODY = "base_model.model"
PEFT_LAYER, PEFT_COPY = "base_layer", "original_module"
ADAPTER = re.compile(r"(^|\.)(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|modules_to_save|lora_[EP])(\.|$)")
_HEAD = re.compile(r"(^|\.)(classifier|score|scorer|classification_head|cls_head|ranking_head|head|logits_proj)\.")
TOP_HEAD = re.compile(r"(score|classifier|classification_head)(\.(dense|out_proj))?\.weight")  # and nothing in front
_LOOKED_AT = 12  # missing names that a swap of prefixes is looked for with


@dataclass(frozen=True)
class Renaming:
    """One change of names: components `old` dropped wherever they are, or `old` in front of a name become `new`."""

    old: str
    new: str | None = None

    def apply(self, name: str) -> str:
        """Return the name as it is after the change."""
        if self.new is None:
            parts = f".{name}.".replace(f".{self.old}.", ".").strip(".")
            return parts if parts != name else name
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
    if not any(ADAPTER.search(name) for name in names):  # with an adapter beside it, it is no whole weight
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
            swaps[_part_ends(other, name)] += 1
    best, most = None, 0
    for (old, new), _ in swaps.most_common(_LOOKED_AT):
        renaming = Renaming(old, new)
        filled = {renaming.apply(name): shape for name, shape in there.items() if renaming.apply(name) != name}
        count = sum(missing.get(name) == shape for name, shape in filled.items())
        if count > most:
            best, most = renaming, count
    return best


def looks_like_head(name: str) -> bool:
    """Tell whether a tensor is called as heads that score are."""
    return bool(_HEAD.search(name))


def name_command(folder: str, *options: str) -> str:
    """Return the command that writes a mended copy of a model's folder beside it; any Python runs it."""
    target = f"{folder.rstrip('/')}-mended"
    return shlex.join([sys.executable, str(Path(__file__).parent), "mend_model", folder, "-o", target, *options])


def _part_ends(name: str, other: str) -> tuple[str, str]:
    """Return what stands in front of the longest end that two names share."""
    one, two = name.split("."), other.split(".")
    same = 0
    while same < min(len(one), len(two)) and one[-1 - same] == two[-1 - same]:
        same += 1
    return ".".join(one[: len(one) - same]), ".".join(two[: len(two) - same])
