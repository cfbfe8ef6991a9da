"""Which of its forms a JSON file has: rows on lines, one list, rows that span lines, or a list inside one object."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from orchestrator.data.reading.decoding import Row
from orchestrator.data.reading.tabular import LIST_COLUMNS
from orchestrator.data.reasons import refuse
from orchestrator.errors import DataError


def find_json_form(first: bytes) -> Literal["lines", "list", "values"]:
    """Return the form of a file that begins with `first`: a value a line, one list, or values that span lines."""
    text = first.lstrip()
    head, _, rest = text.partition(b"\n")
    if text[:1] == b"[":
        return "lines" if rest.lstrip()[:1] == b"[" and _is_whole(head) else "list"
    if text[:1] == b"{" and not _is_whole(head):
        following = next((line for line in rest.split(b"\n") if line.strip()), b"")
        # the second line of an object that goes on: indented, a key, or its end
        return "values" if following[:1] in {b" ", b"\t", b'"', b"}", b"]"} else "lines"
    return "lines"


def _is_whole(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def unwrap(rows: Iterator[Row], path: Path, key: str | None) -> Iterator[Row]:
    """Yield the rows, or of a file that is one object the elements of its list under `key`.

    Raises DataError for one object that holds its rows under a key which nobody has named.
    """
    first = next(rows, None)
    if first is None:
        return
    second = next(rows, None)
    if key is not None:
        yield from _take_list(first, path, key)
        if second is not None:
            raise refuse("wrapped-rows", "there is more than one object in the file", path, line=second.line)
        return
    if second is None and isinstance(first.value, dict) and (lists := _find_lists(first.value)):
        raise _refuse_wrapped(path, lists)
    yield from chain([first], [] if second is None else [second], rows)


def _find_lists(value: dict[str, Any]) -> list[str]:
    """Return the keys of an object's lists of objects, none where it is a row itself."""
    if not LIST_COLUMNS.isdisjoint(value):
        return []
    return [key for key, part in value.items() if isinstance(part, list) and part and isinstance(part[0], dict)]


def _refuse_wrapped(path: Path, keys: list[str]) -> DataError:
    commands = [
        shlex.join(["orch", "data", "convert", str(path), "--rows", key, "-o", f"{path.stem}.rows.jsonl"])
        for key in keys[:3]
    ]
    shown = ", ".join(json.dumps(key, ensure_ascii=False) for key in keys[:3])
    message = f"the file is one JSON object, and its rows stand in a list inside: {shown}"
    return refuse("wrapped-rows", message, path, line=1, hint=" or ".join(commands))


def _take_list(row: Row, path: Path, key: str) -> Iterator[Row]:
    found = row.value.get(key) if isinstance(row.value, dict) else None
    if not isinstance(found, list):
        there = ", ".join(_find_lists(row.value)) if isinstance(row.value, dict) else ""
        hint = f"the lists of objects are {there}" if there else None
        raise refuse("wrapped-rows", f"the file is no object with a list under {key!r}", path, line=1, hint=hint)
    for number, value in enumerate(found, 1):
        yield Row(number, b"", value)
