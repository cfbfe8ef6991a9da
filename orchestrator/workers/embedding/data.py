"""Read the eval files of an embedding model: queries and the corpus that they search, or pairs of texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError


@dataclass(frozen=True)
class Text:
    """A query or a document: its id and its words."""

    id: str
    text: str


@dataclass(frozen=True)
class TextPair:
    """Two texts that are compared; the first is the query's side."""

    id: str
    text1: str
    text2: str


def read_rows(path: Path, names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the named texts of every line; the first name is an id. Raises WorkerError for any other line."""
    wanted = ", ".join(f'"{name}"' for name in names)
    seen: set[str] = set()
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            found = pick(line, names)
            if found is None:
                raise WorkerError(f"{path}:{number}: not an object with the texts {wanted}; prepare the data again")
            if found[0] in seen:
                raise WorkerError(f"{path}:{number}: {names[0]} {found[0]} is there twice; prepare the data again")
            seen.add(found[0])
            yield found
    if not seen:
        raise WorkerError(f"{path}: nothing to score")


def pick(line: str, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the named texts of one JSON line, or None where one is missing."""
    try:
        row: Any = json.loads(line)
    except ValueError:
        return None
    values = [row.get(name) for name in names] if isinstance(row, dict) else []
    texts = tuple(value for value in values if isinstance(value, str))
    return texts if len(texts) == len(names) else None


def is_pair_file(path: Path) -> bool:
    """Tell whether the first row is a pair of texts."""
    with path.open(encoding="utf-8") as stream:
        first = next((line for line in stream if line.strip()), "")
    return pick(first, ("pid", "text1", "text2")) is not None


def read_queries(path: Path) -> list[Text]:
    """Return the queries of a retrieval eval file in file order."""
    return [Text(*row) for row in read_rows(path, ("qid", "query"))]


def read_corpus(path: Path) -> list[Text]:
    """Return the documents in the order of their ids: equal scores are ranked in that order."""
    return sorted((Text(*row) for row in read_rows(path, ("docid", "text"))), key=lambda found: found.id)


def read_text_pairs(path: Path) -> list[TextPair]:
    """Return the pairs of a pair eval file in file order."""
    return [TextPair(*row) for row in read_rows(path, ("pid", "text1", "text2"))]
