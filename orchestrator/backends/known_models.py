"""What a model is by its name: an entry of ms-swift's own list of models, which names over a thousand of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Kind = Literal["llm", "multimodal", "embedding", "reranker", "encoder", "reward", "decision"]

# What ms-swift's versions list, read from them by workers/arguments.py; the tested version's comes first.
_SNAPSHOT = Path(__file__).parent / "arguments" / "swift_models.json"
_ENCODERS = re.compile(r"Bert|Roberta|Electra|Deberta")


@dataclass(frozen=True)
class KnownModel:
    """A model of the list: ms-swift's name of its type, what it is, and the architectures of that type."""

    model_type: str
    kind: Kind
    architectures: tuple[str, ...]

    @property
    def family(self) -> str:
        """Return decoder (an LLM) or encoder (BERT-like)."""
        return "encoder" if any(_ENCODERS.search(name) for name in self.architectures) else "decoder"


def find_known(name: str) -> KnownModel | None:
    """Return what the list says of a hub id, or of a folder that is called like one; None for any other name."""
    return _by_name().get(plain_name(name))


def find_kind_of(model_type: str) -> Kind | None:
    """Return what the models of one of ms-swift's types are; None for a type that it does not have."""
    return next((kind_of(item) for item in _items() if item["model_type"] == model_type), None)


def find_kinds_with(architecture: str) -> set[Kind]:
    """Return what the models are that ms-swift tells by this class."""
    return {kind_of(item) for item in _items() if architecture in item["architectures"]}


def is_llm_architecture(architecture: str) -> bool:
    """Tell whether ms-swift tells an LLM by this class."""
    return architecture in _llm_architectures()


def kind_of(item: dict[str, Any]) -> Kind:
    """Return what the models of one entry are; the list itself says it of those that are no text models."""
    name, said = item["model_type"], item.get("kind")
    if "reranker" in name and said != "multimodal":
        return "reranker"
    if said is not None:
        kind: Kind = said
        return kind
    if "_emb" in name or "_gte" in name:
        return "embedding"
    return "encoder" if "bert" in name else "llm"


def plain_name(name: str) -> str:
    """Return what a hub id's second half, or the folder that was downloaded for it, calls the model.

    Hugging Face's cache names the folder above the snapshots, models--OWNER--NAME; ModelScope's has ___ for a dot.
    """
    *above, last = name.rstrip("/").lower().split("/")
    cached = next((part for part in reversed(above) if part.startswith("models--")), None)
    plain = cached.rpartition("--")[2] if cached else last.replace("___", ".")
    return re.sub(r"^meta-(?=llama-3)", "", plain)  # Meta-Llama-3.1-8B is called Llama-3.1-8B by now


@cache
def _items() -> tuple[dict[str, Any], ...]:
    items = json.loads(_SNAPSHOT.read_text(encoding="utf-8"))["items"]
    return tuple(sorted(items, key=lambda item: min(item["sets"])))


@cache
def _by_name() -> dict[str, KnownModel]:
    found: dict[str, KnownModel] = {}
    for item in _items():
        known = KnownModel(item["model_type"], kind_of(item), tuple(item["architectures"]))
        for ids in item["templates"].values():
            for name in ids:
                found.setdefault(plain_name(name), known)
    return found


@cache
def _llm_architectures() -> frozenset[str]:
    return frozenset(name for item in _items() if kind_of(item) == "llm" for name in item["architectures"])
