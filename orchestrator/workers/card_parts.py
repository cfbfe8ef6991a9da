"""What the cards of packaged models have in common: how the base is named, rerankers' front matter and snippets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS_MARK = "<!-- orch:results -->"
MODEL_PATH = "path/to/this/folder"


def name_base(base: str, spec: Mapping[str, Any]) -> tuple[str, bool]:
    """Return how the card calls the base model, and whether that is a hub id.

    The scoring spec's `base_name` comes first; a folder goes by its own name.
    """
    if spec.get("base_name"):
        return str(spec["base_name"]), False
    path = Path(base)
    return (path.resolve().name, False) if path.exists() else (base, True)


def code_span(text: str) -> str:
    """Return one line of text as Markdown code that nothing in it can end: its fence is longer than its backticks."""
    text = text.replace("\n", " ")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " * bool(longest)
    return f"{fence}{space}{text}{space}{fence}"


def build_front(base: str, *, hub_base: bool) -> str:
    """Return the front matter of a reranker's card."""
    front = ["---", "pipeline_tag: text-ranking", "library_name: sentence-transformers", "tags:", "- reranker"]
    front += ["- cross-encoder"]
    if hub_base:
        front += [f"base_model: {base}"]
    return "\n".join([*front, "---"])


def example_pairs(opening: str, closing: str) -> str:
    """Return two pairs as Python source."""
    query = "What is the capital of France?"
    documents = ("Paris is the capital and largest city of France.", "Mitochondria are the power plants of the cell.")
    return "[" + ", ".join(f'{opening}"{query}", "{document}"{closing}' for document in documents) + "]"


def build_cross_encoder_snippet(
    dtype: str, *, trust_remote_code: bool, before: Sequence[str] = (), pairs: str | None = None
) -> str:
    """Return the code that scores two pairs with sentence-transformers; `before` are lines that make other `pairs`."""
    options = [f'model_kwargs={{"torch_dtype": "{dtype}"}}']
    if trust_remote_code:
        options += ["trust_remote_code=True"]
    lines = [
        "from sentence_transformers import CrossEncoder",
        "",
        f'model = CrossEncoder("{MODEL_PATH}", {", ".join(options)})',
        *before,
        f"scores = model.predict({pairs or example_pairs('(', ')')})",
        "print(scores)",
    ]
    return "\n".join(lines) + "\n"
