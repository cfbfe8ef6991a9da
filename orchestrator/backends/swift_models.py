"""A base model → the names by which ms-swift knows it: its model type and its template (the prompt)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.backends.arguments import find_set, load_words
from orchestrator.backends.known_models import (
    Kind,
    KnownModel,
    find_kind_of,
    find_kinds_with,
    find_known,
    list_known,
    plain_name,
)
from orchestrator.backends.models import BaseModel
from orchestrator.errors import Problem

# What GENERATIVE_RERANKER_*_TOKEN say: Qwen3-Reranker's own answers, on which its package is built.
ANSWERS = {"GENERATIVE_RERANKER_POSITIVE_TOKEN": "yes", "GENERATIVE_RERANKER_NEGATIVE_TOKEN": "no"}
GENERATIVE = "generative_reranker"
SCORE_HEAD = "reranker"
# The types whose prompt, pooling and score Orch can package and prove equal; any type can be tuned as an LLM.
PACKAGED = {
    "embedding": ("qwen3_emb", "modern_bert_gte"),
    "reranker": ("qwen3_reranker", "modern_bert_gte_reranker", "bge_reranker"),
}
_WORDS = load_words("swift")
_TASKS: dict[str, dict[str, str]] = _WORDS["tasks"]
_KINDS: dict[Kind, str] = _WORDS["kinds"]
# Whose first prompt fits most models that were made from them: the others are of a few models with names of their own.
_FIRST_FITS = frozenset({"qwen3"})
# Prompts of ms-swift's that no model of its list has.
_UNLISTED = frozenset({"default", "dummy", "deepseek_coder", "internlm3", "xcomposer2_4khd", "generic_decision"})
_SHOWN = 12
# What a name says of the model that another was made from, where nothing else is known of it.
_FAMILIES = re.compile(
    r"qwen|llama|mistral|gemma|minicpm|deepseek|internlm|phi|glm|bge|jina|stella|e5|gte|nomic|arctic"
)
_NOT_CHAT = ("_emb", "_gte", "reranker", "bert", "_reward", "_prm")


TASK_TYPES = {"embedding": ("embedding",), "reranker": (GENERATIVE, SCORE_HEAD), "sft": ("causal_lm",)}


def find_task_type(model: BaseModel, task: str, arguments: Mapping[str, Any]) -> str:
    """Return ms-swift's task type: the recipe's `task`, and for a reranker what it gives, or the model's own way."""
    known = TASK_TYPES[task]
    if task == "reranker" and model.family == "encoder":
        return SCORE_HEAD
    asked = arguments.get("task_type")
    return str(asked) if asked in known else known[0]


@dataclass(frozen=True)
class SwiftModel:
    """A model as `swift sft` wants it named, and why so."""

    model_type: str
    template: str
    why: str


def find_swift_model(model: BaseModel, task: str, versions: Mapping[str, str] | None = None) -> SwiftModel | Problem:
    """Return how ms-swift calls `model` for `task`: as the recipe says, by its hub id, or by its architecture."""
    index = find_set("swift_models", versions).index
    registry = {one.model_type: one for one in list_known() if one.text and index in one.sets}
    if model.model_type:
        return _given(model, task, registry)
    found, why = _find_fitting(model, task, registry)
    if len(found) == 1:
        return _with_template(model, found[0], why)
    if found:
        names = _nearest(model.name, [known.model_type for known in found])
        what = f"{model.name} as {_TASKS[task]['article']}"
        message = f"ms-swift has several names for {what}: it would guess, and take a wrong prompt"
        return Problem(message, f"say model: {{path: {model.name}, model_type: …}}, one of {', '.join(names)}")
    return _explain(model, task, registry)


def _find_fitting(model: BaseModel, task: str, registry: Mapping[str, KnownModel]) -> tuple[list[KnownModel], str]:
    """Return ms-swift's types that a model can be for a task, and by what it was told."""
    named = [known for known in registry.values() if known.find_template(model.name)]
    able = [known for known in registry.values() if _fits(known.model_type, task)]
    fitting = [known for known in able if known in named]
    if fitting and not _contradicts(model, fitting[0]):
        return fitting, "its hub id"
    architectures = set(model.architectures) or {name for known in named for name in known.architectures}
    fitting = [known for known in able if architectures & set(known.architectures)]
    if not fitting and model.score_head and task == "reranker":  # ms-swift loads it as what it is (task_type reranker)
        stems = {_stem(name) for name in model.architectures}
        fitting = [known for known in able if stems & {_stem(name) for name in known.architectures}]
    return fitting, f"its architecture {', '.join(sorted(architectures))}"


def _given(model: BaseModel, task: str, registry: dict[str, KnownModel]) -> SwiftModel | Problem:
    name = model.model_type or ""
    if name not in registry:
        kind = find_kind_of(name)
        other = f"model_type {name!r} names {_KINDS[kind]}: {_TASKS[task]['supported']}" if kind in _KINDS else None
        return Problem(other or f"ms-swift knows no model_type {name!r}", _advise_type(model, task, registry))
    if not _fits(name, task):
        message = f"model_type {name!r} is no {task} model: its prompt and pooling would be the wrong ones"
        return Problem(message, _advise_type(model, task, registry))
    if own := _contradicts(model, registry[name]):
        meant = sorted({_stem(architecture) for architecture in registry[name].architectures})
        message = f"model_type {name!r} is for {', '.join(meant)} models, and {model.name} is {', '.join(sorted(own))}"
        return Problem(message, _advise_type(model, task, registry))
    return _with_template(model, registry[name], "model.model_type")


def _with_template(model: BaseModel, known: KnownModel, why: str) -> SwiftModel | Problem:
    """Return a model of a known type with its prompt, or what to say where the type's models have several."""
    prompts = {template for one in list_known() if 0 in one.sets for template in one.templates}
    asked = model.template if model.template not in prompts | _UNLISTED else None
    if asked and (near := _find_near(asked, sorted(prompts))):
        return Problem(f"ms-swift knows no template {model.template!r}", f"did you mean {near!r}?")
    only = len(known.templates) == 1 or known.model_type in _FIRST_FITS
    template = model.template or known.find_template(model.name) or (next(iter(known.templates)) if only else None)
    if template:
        return SwiftModel(known.model_type, template, why)
    one_of = ", ".join(sorted(known.templates, key=lambda one: -len(known.templates[one]))[:_SHOWN])
    message = f"ms-swift has several prompts for models of type {known.model_type}, and none by the name {model.name}"
    hint = f"say model: {{path: {model.name}, model_type: {known.model_type}, template: …}}, one of {one_of}"
    return Problem(message, hint)


def _contradicts(model: BaseModel, known: KnownModel) -> set[str]:
    """Return what a model is where a type is for others: by its config, or else by the list, its family, its name."""
    listed = find_known(model.name)
    named = model.architectures or (listed.architectures if listed else ())
    own, meant = {_stem(name) for name in named}, {_stem(name) for name in known.architectures}
    if own or not meant:
        return own if meant and not own & meant else set()
    if model.family == "encoder":
        return set() if known.family == "encoder" else {"a BERT-like encoder"}
    words = set(_FAMILIES.findall(plain_name(model.name)))
    asks_qwen = known.model_type in {PACKAGED["embedding"][0], PACKAGED["reranker"][0]}
    return words if asks_qwen and "qwen" not in words else set()


def _advise_type(model: BaseModel, task: str, registry: Mapping[str, KnownModel]) -> str:
    """Return what to do about a model_type that cannot be: none, another one, or another model."""
    found, _ = _find_fitting(model, task, registry)
    types = [known.model_type for known in found]
    fitting = types or [one for one in registry if _fits(one, task) and not _contradicts(model, registry[one])]
    if find_kind_of(model.model_type or "") is None and (near := _find_near(model.model_type or "", fitting)):
        return f"did you mean {near!r}?"
    if len(found) == 1:
        return "remove model_type: it is found from the model's name or config"
    if found:
        return f"say model_type: …, one of {', '.join(_nearest(model.name, types))}"
    return _explain(model, task, registry).hint or ""


def _explain(model: BaseModel, task: str, registry: Mapping[str, KnownModel]) -> Problem:
    """Return why ms-swift has no name for a model that Orch can train for this task, and what can be done."""
    kind = _find_kind(model, registry)
    what = f"{model.name} is {_KINDS[kind]}" if kind in _KINDS else model.name
    instead = f"name {_TASKS[task]['models']}"
    if task in PACKAGED:
        if kind is None and not model.architectures and not _contradicts(model, registry[PACKAGED[task][0]]):
            instead += f"; one that was made from them is told by model: {{path: …, model_type: {PACKAGED[task][0]}}}"
        if kind in {None, "llm", "encoder", "embedding"} or kind == task:
            instead = f"say backend: sentence-transformers or flagembedding; or {instead}"
        return Problem(f"{what}: {_TASKS[task]['supported']}", instead)
    if kind in _KINDS:
        return Problem(f"{what}: {_TASKS[task]['supported']}", instead)
    if model.architectures:
        message = f"{model.name} is {', '.join(model.architectures)}, which ms-swift does not list among its text LLMs"
        return Problem(message, f"{instead}; or say whose prompt it has: model: {{path: …, model_type: …}}")
    message = f"{model.name} is not on ms-swift's list, and its config.json is not here to tell what it is"
    own = f"say whose kind it is: model: {{path: {model.name}, model_type: …}}"
    return Problem(message, f"download it (hf download {model.name}) and name its folder; or {own}; or {instead}")


def _find_kind(model: BaseModel, registry: Mapping[str, KnownModel]) -> Kind | None:
    """Return what a model is: by the list, by a class that only models of one kind have, or by its family."""
    known = find_known(model.name)
    if known is not None and not (model.architectures and not set(model.architectures) & set(known.architectures)):
        return "encoder" if known.family == "encoder" else known.kind
    if model.family == "encoder":
        return "encoder"
    text = {name for one in registry.values() for name in one.architectures}
    kinds = {kind for name in model.architectures if name not in text for kind in find_kinds_with(name)}
    return kinds.pop() if len(kinds) == 1 else None


def _stem(architecture: str) -> str:
    """Return an architecture without its head: `Qwen3` of `Qwen3ForCausalLM`."""
    return re.sub(r"(For\w+|Model)$", "", architecture)


def _fits(model_type: str, task: str) -> bool:
    if task in PACKAGED:
        return model_type in PACKAGED[task]
    return not any(part in model_type for part in _NOT_CHAT)


def _find_near(name: str, types: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, types, n=1)), None)


def _nearest(name: str, types: list[str]) -> list[str]:
    """Return the types that a model's name is most like, at most 12 of them."""
    plain = plain_name(name).replace("-", "_").replace(".", "_")
    return sorted(types, key=lambda one: -difflib.SequenceMatcher(None, plain, one).ratio())[:_SHOWN]
