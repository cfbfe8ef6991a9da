"""A base model → the names by which ms-swift knows it: its model type and its template (the prompt)."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from orchestrator.backends.arguments.snapshots import find_set, items_of
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.models import BaseModel

# The types whose prompt, pooling and score Orch can package and prove equal; any type can be tuned as an LLM.
PACKAGED = {"embedding": ("qwen3_emb",), "reranker": ("qwen3_reranker",)}
_NOT_CHAT = ("_emb", "_gte", "reranker", "bert", "_reward", "_prm")


@dataclass(frozen=True)
class SwiftModel:
    """A model as `swift sft` wants it named, and why so."""

    model_type: str
    template: str
    why: str


@dataclass(frozen=True)
class _Known:
    """One entry of ms-swift's registry; `templates` maps each of its prompts to the hub ids that it fits."""

    model_type: str
    architectures: tuple[str, ...]
    templates: dict[str, tuple[str, ...]]

    def template_of(self, name: str) -> str:
        """Return the prompt of the model called `name`, else the first one."""
        for template, ids in self.templates.items():
            if any(_same_model(name, known) for known in ids):
                return template
        return next(iter(self.templates))

    def holds(self, name: str) -> bool:
        """Tell whether one of its hub ids is `name`, or what the folder `name` is called."""
        return any(_same_model(name, known) for ids in self.templates.values() for known in ids)


@cache
def _load_registry(index: int) -> dict[str, _Known]:
    """Return the text models by type that one of the snapshot's versions of ms-swift knows."""
    return {
        item["model_type"]: _Known(
            item["model_type"],
            tuple(item["architectures"]),
            {template: tuple(ids) for template, ids in item["templates"].items()},
        )
        for item in items_of("swift_models", index)
    }


def find_swift_model(model: BaseModel, task: str, versions: Mapping[str, str] | None = None) -> SwiftModel | Problem:
    """Return how ms-swift calls `model` for `task`: as the recipe says, by its hub id, or by its architecture."""
    registry = _load_registry(find_set("swift_models", versions).index)
    if model.model_type:
        return _given(model, task, registry)
    named = [known for known in registry.values() if known.holds(model.name)]
    fitting = [known for known in named if _fits(known.model_type, task)]
    why = "its hub id"
    if not fitting:
        architectures = set(model.architectures) or {name for known in named for name in known.architectures}
        fitting = [
            known
            for known in registry.values()
            if architectures & set(known.architectures) and _fits(known.model_type, task)
        ]
        why = f"its architecture {', '.join(sorted(architectures))}"
    if not fitting and model.score_head and task == "reranker":  # ms-swift loads it as what it is (task_type reranker)
        stems = {_stem(name) for name in model.architectures}
        fitting = [
            known
            for known in registry.values()
            if _fits(known.model_type, task) and stems & {_stem(name) for name in known.architectures}
        ]
    if len(fitting) == 1:
        known = fitting[0]
        return SwiftModel(known.model_type, model.template or known.template_of(model.name), why)
    candidates = [known.model_type for known in fitting] or list(_of_task(registry, task))
    return Problem(
        f"ms-swift has no one name for {model.name} as {_article(task)}: it would guess, and take the wrong prompt",
        f"say model: {{path: {model.name}, model_type: …}}, one of {', '.join(candidates[:12])}",
    )


def _given(model: BaseModel, task: str, registry: dict[str, _Known]) -> SwiftModel | Problem:
    name = model.model_type or ""
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"such as {', '.join(list(_of_task(registry, task))[:12])}"
        return Problem(f"ms-swift knows no model_type {name!r}", hint)
    if not _fits(name, task):
        return Problem(
            f"model_type {name!r} is no {task} model: its prompt and pooling would be the wrong ones",
            f"one of {', '.join(list(_of_task(registry, task))[:12])}",
        )
    meant = {_stem(architecture) for architecture in registry[name].architectures}
    if meant and (own := {_stem(architecture) for architecture in model.architectures}) and not meant & own:
        message = f"model_type {name!r} is for {', '.join(sorted(meant))} models, and {model.name} is {', '.join(own)}"
        return Problem(message, "remove model_type: it is found from the model's config")
    return SwiftModel(name, model.template or registry[name].template_of(model.name), "model.model_type")


def _stem(architecture: str) -> str:
    """Return an architecture without its head: `Qwen3` of `Qwen3ForCausalLM`."""
    return re.sub(r"(For\w+|Model)$", "", architecture)


def _fits(model_type: str, task: str) -> bool:
    if task in PACKAGED:
        return model_type in PACKAGED[task]
    return not any(part in model_type for part in _NOT_CHAT)


def _of_task(registry: Iterable[str], task: str) -> Iterable[str]:
    return (name for name in registry if _fits(name, task))


def _same_model(name: str, hub_id: str) -> bool:
    return _second_half(name) == _second_half(hub_id)


def _second_half(name: str) -> str:
    """Return what a hub id's second half, or the folder that was downloaded for it, calls the model.

    Hugging Face's cache names the folder above the snapshots, models--OWNER--NAME; ModelScope's has ___ for a dot.
    """
    *above, last = name.rstrip("/").lower().split("/")
    cached = next((part for part in reversed(above) if part.startswith("models--")), None)
    return cached.rpartition("--")[2] if cached else last.replace("___", ".")


def _article(task: str) -> str:
    return {"embedding": "an embedding model", "reranker": "a reranker", "sft": "an LLM"}[task]
