"""Write the README of a packaged model: a template of cards/, filled with what is known of the model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CARDS = Path(__file__).resolve().parent / "cards"
MODEL_PATH = "path/to/this/folder"


def build_card(template: str, base: str, facts: Mapping[str, Any], *, hub_base: bool) -> str:
    """Return the card's text; measured results may be written after its mark `<!-- orch:results -->`.

    In a template the filter `code` writes a text as Markdown code that nothing in it can end, `repr` and `json` as
    source, `shell` as what single quotes of a shell may hold, and `block` as an indented code block.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701  Markdown, whose texts pass the filters of their own
        loader=FileSystemLoader(CARDS),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": code_span,
        "repr": repr,
        "json": json.dumps,
        "shell": lambda text: text.replace("'", "'\\''"),
        "block": lambda text: "\n".join("    " + line for line in text[:1000].splitlines() or [""]),
    }
    card = environment.get_template(f"{template}.md.jinja")
    return card.render(base=base, hub_base=hub_base, folder=MODEL_PATH, **facts)


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
