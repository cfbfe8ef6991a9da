"""How a model turns texts into vectors: as its own files say, else the table of families, else the recipe; no guess."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from orchestrator.backends.known_models import CLASSIFIER, POOLINGS, Embeds, describes_itself, find_embeds, find_known
from orchestrator.backends.models import BaseModel
from orchestrator.errors import Problem, Where
from orchestrator.machine.json_files import load_json
from orchestrator.recipe.schema import ModelRef

_MODULES = "modules.json"
_PROMPTS = "config_sentence_transformers.json"
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # in sentence-transformers' order (encode_document)
_KEYS = {  # before sentence-transformers 6 each pooling was a key of its own
    "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens", "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens", "lasttoken": "pooling_mode_lasttoken",
}  # fmt: skip
_OWN = "sentence_transformers."
_READ_CODE = "read it, then say model: {path: …, trust_remote_code: true}; or take a model without code"
_TELL = "say what its authors do: model: {path: …, pooling: mean, prompts: {query: 'query: ', document: ''}}"
_ENCODER = "name an embedding model, or a plain encoder such as answerdotai/ModernBERT-base"
Found = tuple[tuple[str, ...], Problem]  # a key of the recipe, and what is wrong with what it says


class Embedding(msgspec.Struct, frozen=True):
    """How texts become vectors; `pooling` joins several by a plus, and `prompts` are all that the model's files name.

    `instruct` is the query's prompt with {} in the place of a task, of a model that takes any; `suffix` stands behind
    queries; `layered`: it has layers of its own behind the pooling.
    """

    pooling: str
    normalize: bool
    query: str = ""
    document: str = ""
    suffix: str = ""
    instruct: str = ""
    prompts: Mapping[str, str] = {}
    layered: bool = False

    def scoring(self) -> dict[str, Any]:
        """Return what a scoring spec says of it; a pooling of several is the model's own affair."""
        pooling = self.pooling if self.pooling in POOLINGS else None
        prompts = {"query_prompt": self.query, "document_prompt": self.document}
        prompts |= {"query_suffix": self.suffix} if self.suffix else {}
        return {**prompts, "pooling": pooling, "normalize": self.normalize}

    def instructions(self) -> dict[str, str]:
        """Return the prompts that sentence-transformers does not find in the files, in a bi-encoder's names."""
        missing = {"query_instruction": (self.query, "query"), "passage_instruction": (self.document, "document")}
        return {key: text for key, (text, name) in missing.items() if text and not self.prompts.get(name)}

    def takes_task(self, prompt: str) -> bool:
        """Tell whether a query's prompt is of the form that takes any task."""
        before, mark, after = self.instruct.partition("{}")
        fits = prompt.startswith(before) and prompt.endswith(after) and len(prompt) > len(before + after)
        return bool(mark) and fits


class _UnusableError(Exception):
    """Files that say what cannot be; the argument is the Problem."""


def read_own(model: BaseModel) -> Embedding | Problem | None:
    """Return how a model's authors embed with it: by its files, else by its name; None where neither tells."""
    try:
        return _read_own(model, find_embeds(model.name))
    except _UnusableError as error:
        problem: Problem = error.args[0]
        return problem


def settle_embedding(model: BaseModel, told: ModelRef) -> Embedding | list[Found]:
    """Return how a recipe's model embeds, with those of its prompts that the recipe asks for; or all that is wrong."""
    own = _refuse(model) or read_own(model)
    if isinstance(own, Problem):
        return [(("model",), own)]
    if own is None and told.pooling is None:
        why = "it has no modules.json" if model.is_local else "it is not on this disk"
        message = f"nothing says how {model.name} makes one vector of a text: {why}, and it is no well-known model"
        return [(("model",), Problem(message, _TELL))]
    if own is None:
        own = Embedding(told.pooling or "", normalize=told.normalize is not False)
    elif found := [*_find_contradictions(model, own, told), *_find_other_prompts(model, own, told)]:
        return found
    return replace(own, **told.prompts.model_dump(exclude_none=True)) if told.prompts else own


def find_guide_problem(model: BaseModel) -> Problem | None:
    """Return why sentence-transformers, told nothing of a model, does not embed with it as its authors do."""
    problem = _refuse(model) or read_own(model)
    message = problem.message if isinstance(problem, Problem) else None
    if message is None and model.folder is not None and not (model.folder / _MODULES).is_file():
        message = f"{model.name} has no modules.json: sentence-transformers takes the mean, whatever its authors do"
    return Problem(message, "name a whole SentenceTransformer, such as BAAI/bge-m3") if message else None


def refuse_told(told: ModelRef, why: str, key: str = "model") -> Iterator[Found]:
    """Yield each thing that a recipe says of an embedding at `key`, where it is not the recipe's to say."""
    for name in ("pooling", "normalize", "prompts", *told.changes):
        if getattr(told, name) is not None:
            yield (key, name), Problem(f"{key}.{name}: {why}", "remove it")


def _refuse(model: BaseModel) -> Problem | None:
    """Return why a model makes no vectors of texts, or does not load."""
    listed = find_embeds(model.name)
    if listed is not None and listed.code and not model.is_local and not model.trust_remote_code:
        return Problem(f"{model.name} brings Python code along, and does not load without it", _READ_CODE)
    if model.folder is not None and describes_itself(model.folder):
        return Problem(f"{model.name} is a cross-encoder: it scores pairs, and makes no vectors of texts", _ENCODER)
    own, known = model.folder is not None and (model.folder / _MODULES).is_file(), find_known(model.name)
    scores = known is not None and known.kind in {"reranker", "reward"} and not model.architectures
    if scores or (not own and any(name.endswith(CLASSIFIER) for name in model.architectures)):
        what = f"{model.name} is a reranker or a classifier"
        return Problem(f"{what}: it has a head, which would be dropped, and makes no vectors of texts", _ENCODER)
    return None


def _read_own(model: BaseModel, listed: Embeds | None) -> Embedding | None:
    files = _read_modules(model, model.folder) if model.folder is not None else None
    if files is None and listed is not None and listed.modules and model.is_local:
        message = f"{model.name} has layers behind its pooling, and its folder lacks the modules.json that names them"
        raise _UnusableError(Problem(message, f"download it whole: {listed.source}"))
    prompts, default = _read_prompts(model.folder) if model.folder is not None else ({}, "")
    if files is not None:
        own = replace(files, prompts=prompts)
    elif listed is not None:
        own = Embedding(listed.pooling, listed.normalize, prompts=prompts, layered=listed.modules)
    else:
        return None
    query = prompts.get("query") or default
    document = next((prompts[name] for name in _DOCUMENT_PROMPTS if prompts.get(name)), default)
    if listed is not None:
        own = replace(own, instruct=listed.instruct, suffix=listed.suffix)
        query, document = (query, document) if query or document else (listed.query, listed.document)
    return replace(own, query=query, document=document)


def _read_modules(model: BaseModel, folder: Path) -> Embedding | None:
    """Return what modules.json says but for prompts, or a pooling that stands alone; None without both."""
    path = folder / _MODULES
    named: Any = _load(path) if path.is_file() else []
    if not named:
        alone = next(iter(sorted(folder.glob("*_Pooling/config.json"))), None)
        return None if alone is None else Embedding(_read_pooling(alone), normalize=True)
    well = isinstance(named, list) and all(isinstance(one, dict) and isinstance(one.get("type"), str) for one in named)
    if not well:
        raise _UnusableError(_damaged(path, "it is no list of modules"))
    foreign = next((one["type"] for one in named if not one["type"].startswith(_OWN)), None)
    if foreign and not model.trust_remote_code:
        raise _UnusableError(Problem(f"{model.name} brings Python code along: {path} names {foreign}", _READ_CODE))
    kinds = {one["type"].rpartition(".")[2]: str(one.get("path", "")) for one in named}
    first = next(iter(kinds))
    if not foreign and first != "Transformer":
        message = f"{model.name} begins with {first}: it has no Transformer to be trained and packaged"
        raise _UnusableError(Problem(message, "name another model"))
    pooling = _read_pooling(folder / kinds["Pooling"] / "config.json") if "Pooling" in kinds else "other"
    layered = bool(kinds.keys() - {"Transformer", "Pooling", "Normalize"})
    return Embedding(pooling, "Normalize" in kinds, layered=layered)


def _read_pooling(path: Path) -> str:
    config = _load(path)
    if not isinstance(config, dict):
        raise _UnusableError(_damaged(path, "it is no object"))
    said = config.get("pooling_mode") or [name for name, key in _KEYS.items() if config.get(key)] or "mean"
    modes = [said] if isinstance(said, str) else said
    if not isinstance(modes, list) or any(mode not in POOLINGS for mode in modes):
        raise _UnusableError(_damaged(path, f"pooling_mode is {said!r}"))
    return "+".join(modes)


def _read_prompts(folder: Path) -> tuple[dict[str, str], str]:
    """Return the prompts that a model names, and the one that stands in front of every text."""
    path = folder / _PROMPTS
    config = _load(path) if path.is_file() else {}
    said = config.get("prompts") if isinstance(config, dict) else None
    prompts = {name: text for name, text in said.items() if isinstance(text, str)} if isinstance(said, dict) else {}
    return prompts, prompts.get(str(config.get("default_prompt_name")), "") if prompts else ""


def _load(path: Path) -> Any:
    try:
        return load_json(path, constants=True)
    except (OSError, ValueError) as error:
        raise _UnusableError(_damaged(path, str(error))) from None


def _damaged(path: Path, why: str) -> Problem:
    return Problem(f"{path} cannot be read: {why}", "download the model again", where=Where(str(path)))


def _find_contradictions(model: BaseModel, own: Embedding, told: ModelRef) -> Iterator[Found]:
    """Yield pooling and normalisation that are not the model's."""
    listed = find_embeds(model.name)
    files = model.folder is not None and _read_modules(model, model.folder) is not None
    who = f"{model.folder}/{_MODULES}" if files or listed is None else f"its model card ({listed.source})"
    for name in ("pooling", "normalize"):
        asked, own_ = getattr(told, name), getattr(own, name)
        if asked is not None and asked != own_:
            message = f"model.{name} is {_show(asked)}, and {who} says {_show(own_)}"
            yield ("model", name), Problem(message, "remove it: made otherwise, a vector is another model's")


def _find_other_prompts(model: BaseModel, own: Embedding, told: ModelRef) -> Iterator[Found]:
    """Yield prompts that the model does not have; a model of which nothing is known may have any."""
    listed = find_embeds(model.name)
    known = {*own.prompts.values(), own.query, own.document} - {""}
    if told.prompts is None or (not known and listed is None):
        return
    who = f"its {_PROMPTS}" if any(own.prompts.values()) or listed is None else f"its model card ({listed.source})"
    for side, texts in (("query", "queries"), ("document", "documents")):
        asked, has = getattr(told.prompts, side), getattr(own, side)
        plain = asked == "" and side == "query" and listed is not None and listed.optional
        if asked in {None, has} or asked in known or plain or (side == "query" and own.takes_task(asked)):
            continue
        message = f"{model.name} has no prompt {asked!r} for {texts}: {who} says {has!r}"
        others = " or ".join(repr(one) for one in sorted(known))
        hint = "remove it" + (f", or say one that it has: {others}" if known else "")
        yield ("model", "prompts", side), Problem(message, hint)


def _show(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
