"""What the names of models say of them (families.yaml): family, how pairs are scored, how texts become vectors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from orchestrator.machine.tables import load_table

POOLINGS = ("cls", "mean", "lasttoken", "max", "mean_sqrt_len_tokens", "weightedmean")


class Embeds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the authors of an embedding model turn a text into a vector; families.yaml says what each field means."""

    pooling: str
    normalize: bool
    query: str = ""
    document: str = ""
    suffix: str = ""
    optional: bool = False
    instruct: str = ""
    code: bool = False
    modules: bool = False
    source: str


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    named: re.Pattern[str] | None = None
    like: re.Pattern[str] | None = None
    classes: re.Pattern[str] | None = None
    family: Literal["encoder", "decoder"] | None = None
    native: str | None = None
    needs: str | None = None
    embeds: Embeds | None = None

    def fits(self, name: str, classes: str) -> bool:
        """Tell whether the row is about a model of this name, or with one of these classes."""
        return bool(
            (self.named and self.named.fullmatch(plain_name(name)))
            or (self.like and self.like.search(name.lower()))
            or (self.classes and self.classes.search(classes))
        )


@cache
def plain_name(name: str) -> str:
    """Return what a hub id's second half, or the folder that was downloaded for it, calls the model.

    Hugging Face's cache names the folder above the snapshots, models--OWNER--NAME; ModelScope's has ___ for a dot.
    """
    *above, last = name.rstrip("/").lower().split("/")
    cached = next((part for part in reversed(above) if part.startswith("models--")), None)
    plain = cached.rpartition("--")[2] if cached else last.replace("___", ".")
    return re.sub(r"^meta-(?=llama-3)", "", plain)  # Meta-Llama-3.1-8B is called Llama-3.1-8B by now


@cache
def _load() -> tuple[_Row, ...]:
    return load_table(Path(__file__).with_suffix(".yaml"), _Row)


def find_family(name: str) -> str | None:
    """Return the family that a name tells."""
    return next((row.family for row in _load() if row.family and row.fits(name, "")), None)


def find_native(name: str) -> str | None:
    """Return how the authors of an LLM of this name score pairs with it."""
    return next((row.native for row in _load() if row.native and row.fits(name, "")), None)


def refuse_layerwise(name: str, architectures: Iterable[str] = ()) -> str | None:
    """Return why a model that scores by layers is neither trained nor scored: its name tells it, or its config's class.

    FlagEmbedding/inference/reranker/model_mapping.py (1.4.2) gives these models other classes than FlagLLMReranker, and
    those do not load with transformers 5 (docs/decisions/0055).
    """
    classes = " ".join(architectures)
    needs = next((row.needs for row in _load() if row.needs and row.fits(name, classes)), None)
    why = "and FlagEmbedding (up to 1.4.2) cannot load it with transformers 5"
    return f"{name} scores by layers of its own choice ({needs}, not FlagLLMReranker), {why}" if needs else None


def find_embeds(name: str) -> Embeds | None:
    """Return how the authors of a model of this very name embed texts with it."""
    return next((row.embeds for row in _load() if row.embeds and row.fits(name, "")), None)
