"""Read the scoring spec of an embedding model: everything that decides the vector of a text."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring_spec import DTYPES, load_raw_spec

SCORER = "embedding"
POOLINGS = ("lasttoken", "cls", "mean")
TEXTS = ("name", "label", "query_prompt", "document_prompt", "model_type", "template")
FLAGS = ("trust_remote_code", "normalize")
COUNTS = ("batch_size", "max_length")


@dataclass(frozen=True)
class EmbeddingSpec:
    """How texts become vectors; `max_length` is in tokens, end token included, and prompts stand in front of texts.

    `pooling` and `normalize` count for a base that does not say them itself (in modules.json); None asks for the base's
    own pooling, and a trained model is packaged with the spec's. `truncate_dim` None is
    every dimension; `mrl_dims` are the shorter ones that were trained (Matryoshka). `tool` swift with `model_type` and
    `template` names the engine that the trained model is verified in.
    """

    name: str = ""
    label: str = ""
    dtype: str = "float32"
    trust_remote_code: bool = False
    batch_size: int = 32
    max_length: int = 512
    query_prompt: str = ""
    document_prompt: str = ""
    pooling: str | None = "lasttoken"
    normalize: bool = True
    truncate_dim: int | None = None
    mrl_dims: tuple[int, ...] = ()
    tool: str | None = None
    model_type: str = "qwen3_emb"
    template: str = "qwen3_emb"

    def wrap_query(self, text: str) -> str:
        """Return the query as the model reads it."""
        return self.query_prompt + text

    def wrap_document(self, text: str) -> str:
        """Return the document as the model reads it."""
        return self.document_prompt + text

    def wrap(self, kind: str, text: str) -> str:
        """Return a text of the kind `query` or `document` as the model reads it."""
        return self.wrap_query(text) if kind == "query" else self.wrap_document(text)


def parse_spec(raw: dict[str, Any], origin: str) -> EmbeddingSpec:
    """Return the spec; keys that are not its own are left to other readers. Raises WorkerError, a line a bad value."""
    if raw.get("version", 1) != 1:
        raise WorkerError(f"{origin}: version {raw['version']} of the scoring spec is not known to this worker")
    if raw.get("scorer") != SCORER:
        raise WorkerError(f"{origin}: scorer is {raw.get('scorer')!r}, not {SCORER!r}")
    known = {field.name for field in fields(EmbeddingSpec)}
    given = {key: value for key, value in raw.items() if key in known}
    given["mrl_dims"] = given.get("mrl_dims") or ()
    problems = [f"{origin}: {problem}" for problem in find_problems(given)]
    if problems:
        raise WorkerError(*problems)
    return EmbeddingSpec(**{**given, "mrl_dims": tuple(given["mrl_dims"])})


def find_problems(given: dict[str, Any]) -> list[str]:
    """Return one line a value that has the wrong type or is not known."""
    found = [f"{name} is {given[name]!r}, not a text" for name in TEXTS if not isinstance(given.get(name, ""), str)]
    found += [
        f"{name} is {given[name]!r}, not true or false" for name in FLAGS if not isinstance(given.get(name, True), bool)
    ]
    found += [
        f"{name} is {given[name]!r}, not a whole number of at least 1" for name in COUNTS if not counts(given, name)
    ]
    if given.get("truncate_dim") is not None and not counts(given, "truncate_dim"):
        found.append(f"truncate_dim is {given['truncate_dim']!r}, neither null nor a whole number of at least 1")
    dims = given["mrl_dims"]
    if not isinstance(dims, (list, tuple)) or not all(type(dim) is int and dim > 0 for dim in dims):
        found.append(f"mrl_dims is {dims!r}, not a list of whole numbers of at least 1")
    for name, choices in (("pooling", (None, *POOLINGS)), ("dtype", DTYPES), ("tool", (None, "swift"))):
        if name in given and given[name] not in choices:
            found.append(f"{name} is {given[name]!r}; known are {', '.join(map(str, choices))}")
    return found


def counts(given: dict[str, Any], name: str) -> bool:
    """Tell whether the value, where there is one, is a whole number of at least 1."""
    value = given.get(name, 1)
    return type(value) is int and value > 0


def load_spec(path: Path) -> EmbeddingSpec:
    """Return the spec in a JSON file. Raises WorkerError when it cannot be read."""
    return parse_spec(load_raw_spec(path), str(path))
