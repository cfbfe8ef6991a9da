"""One JSON text becomes a row's value, or the fault for which it is none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from orchestrator.data.reasons import REASONS, Fault

WHITESPACE = " \t\r\n"


@dataclass(frozen=True)
class Row:
    """One row of a file: its first line (from 1), its bytes as they stand there, and its JSON value or its fault."""

    line: int
    raw: bytes
    value: Any = None
    fault: Fault | None = None


class RowDecoder:
    """A JSON decoder that also notices what Python's accepts though it is not JSON, or not safe."""

    def __init__(self) -> None:
        self._repeated: list[str] = []
        self._constants: list[str] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constants.append)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            self._repeated.extend(name for name in found if names.count(name) > 1)
        return found

    def decode_at(self, text: str, start: int) -> tuple[Any, int]:
        """Return the value that begins at `start` and where it ends. Raises ValueError and RecursionError."""
        self._repeated.clear()
        self._constants.clear()
        return self._decoder.raw_decode(text, start)

    def decode_all(self, text: str) -> Any:
        """Return the value that is the whole text. Raises ValueError and RecursionError."""
        self._repeated.clear()
        self._constants.clear()
        return self._decoder.decode(text)

    def find_fault(self) -> Fault | None:
        """Return what was wrong with the value decoded last, although it could be decoded."""
        if self._constants:
            return _fault("not-json", f"{self._constants[0]} is not JSON", "replace it by a number or leave it out")
        if self._repeated:
            return _fault("duplicate-key", f"the key {json.dumps(self._repeated[0])} stands there twice")
        return None


def _fault(code: str, message: str, hint: str | None = None) -> Fault:
    return Fault(code, message, hint or REASONS[code].remedy)


def describe_syntax(error: Exception, text: str) -> tuple[str, str]:
    """Return (what is wrong, what to do) for a text that no JSON parser can read."""
    if isinstance(error, RecursionError):
        return "the value is nested too deeply", 'a row is {"query": "…", "pos": ["…"], "neg": ["…", "…"]}'
    if not isinstance(error, json.JSONDecodeError):
        return "a number has too many digits", "write numbers as JSON libraries do"
    message = f"{error.msg} at column {error.colno}"
    if text.startswith("{'"):
        return message, "JSON needs double quotes: write rows with json.dumps, not str"
    if text.rstrip() in {"{", "[", "}", "]", "},"}:
        return message, "write each row on one line, or all rows as a JSON list"
    return message, REASONS["not-json"].remedy
