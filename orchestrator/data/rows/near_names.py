"""Keys that look like the one that a row lacks: what to rename."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.data.reasons import Fault
from orchestrator.data.rows.texts import LONGEST_QUOTE, build_fault, is_finite_number, quote, read_number
from orchestrator.machine.tables import load_record


class _Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What names.yaml holds."""

    negatives: tuple[str, ...]
    needed: dict[str, tuple[str, ...]]
    optional: dict[str, tuple[str, ...]]
    metadata: frozenset[str]
    metadata_zh: tuple[str, ...]
    reasoning: frozenset[str]
    labels: frozenset[str]
    scores: frozenset[str]
    documents_list: tuple[str, ...]
    labels_list: tuple[str, ...]


NAMES = load_record(Path(__file__).with_name("names.yaml"), _Names)
_NEAR_NAMES = NAMES.needed | {"neg": NAMES.negatives}
_OPTIONAL_NAMES = dict.fromkeys(("neg", "rejected_response", "negative_messages"), NAMES.negatives) | NAMES.optional
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_CLOSE = 0.85
_LIKE = 0.7  # of a key that must be there: one that may be meant is worth more


def plain_name(name: str) -> str:
    """Return a key's name without what makes no difference to people: case, hyphens, blanks."""
    return name.lower().strip().replace("-", "_").replace(" ", "_")


def find_optional(name: str, optional: Iterable[str]) -> str | None:
    """Return the one of `optional` that may have been meant by the key `name`, or None."""
    plain = plain_name(name)
    known = [key for key in optional if key in _OPTIONAL_NAMES]
    for key in known:
        if plain in _OPTIONAL_NAMES[key] or plain == key:
            return key
    close = difflib.get_close_matches(plain, known, n=1, cutoff=_CLOSE) if len(plain) < LONGEST_QUOTE else []
    return close[0] if close else None


def find_near_name(key: str, row: Iterable[str], known: Iterable[str] = ()) -> str | None:
    """Return the key of a row that may have been meant by `key`, none of `known`, or None."""
    taken = set(known)
    candidates = [name for name in row if name not in taken]
    plain = {plain_name(name): name for name in reversed(candidates)}
    for wanted in (key, *_NEAR_NAMES.get(key, ())):
        if wanted in plain:
            return plain[wanted]
    names = [name for name in list(plain)[:50] if len(name) < LONGEST_QUOTE and name not in _NEAR_NAMES]
    close = difflib.get_close_matches(key, names, n=1, cutoff=_LIKE)  # a key of some form is nobody's misspelling
    return plain[close[0]] if close else None


def names_negatives(name: str) -> bool:
    """Whether a key's name says that it holds texts which are wrong or not wanted."""
    return plain_name(name) in NAMES.negatives


def is_metadata(key: str) -> bool:
    """Whether a key's name, or the last word of it, says that it describes the row."""
    plain = plain_name(_CAMEL.sub("_", key))
    return plain in NAMES.metadata or plain.rpartition("_")[2] in NAMES.metadata or plain.endswith(NAMES.metadata_zh)


_TEXTS = frozenset({"query", "response", "instruction", "output", "content", "sentence1", "sentence2"})
_NUMBERS = frozenset({"label", "score"})


def suits(key: str, value: Any) -> bool:
    """Whether a value may stand under a key that a form needs."""
    if key in _TEXTS:
        return isinstance(value, str)
    if key in _NUMBERS:
        return is_number_like(value)
    if key == "pos":
        return isinstance(value, list) and all(isinstance(text, str) for text in value)
    return isinstance(value, list)


def is_number_like(value: Any) -> bool:
    """Whether a value is a number, or what `read_number` takes for one."""
    return is_finite_number(read_number(value))


def explain_missing_in(name: str, key: str, value: Mapping[str, Any], hint: str) -> Fault:
    """Return the fault of an object `name` inside a row that lacks `key`; `hint` where no near name is there."""
    near = find_near_name(key, value)
    if near is None:
        return build_fault("missing-key", f'{name} has no "{key}"', hint)
    message = f'{name} has no "{key}", and it has {quote(near)}'
    return build_fault("missing-key", message, f'rename {quote(near)} to "{key}"')
