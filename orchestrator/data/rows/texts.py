"""What is wrong with one value or text of a row, how both are named in messages, and keys that look like another."""

from __future__ import annotations

import difflib
import json
import math
import re
import shlex
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.data.reasons import REASONS, Fault
from orchestrator.machine.tables import load_record

_TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
_INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
ONE_STRING = "write one string"
LONGEST_INVISIBLE = 32
LONGEST_QUOTE = 40


def build_fault(code: str, message: str, hint: str | None = None) -> Fault:
    """Return a fault whose hint defaults to the table's remedy."""
    return Fault(code, message, hint or REASONS[code].remedy)


class BadRowError(Exception):
    """A row cannot be used, for its fault. Never leaves this package: the row is counted as bad."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def bad_row(code: str, message: str, hint: str | None = None) -> BadRowError:
    """Return the error for a row with such a fault."""
    return BadRowError(build_fault(code, message, hint))


def quote(text: str) -> str:
    """Return the beginning of a user's text in quotes, on one line and printable, for a message."""
    short = text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 1] + "…"
    return json.dumps(short, ensure_ascii=not short.isprintable())


def write_word(text: str) -> str:
    """Return a text as one word of a shell's command, in quotes only where these are needed."""
    return text if re.fullmatch(r"[\w.\[\]-]+", text) else shlex.quote(text)


def name_type(value: Any) -> str:
    """Return what a JSON value is, for a message; a table's file may hold others, such as dates."""
    return _TYPE_NAMES.get(type(value)) or f"a {type(value).__name__}"


def require_type(value: Any, kind: type, name: str, hint: str | None = ONE_STRING, what: str = "a string") -> None:
    """Raise BadRowError unless a value is of a type; `what` names that in the message."""
    if not isinstance(value, kind):
        raise bad_row("wrong-type", f"{name} is {name_type(value)}, not {what}", hint)


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: white space, or only invisible characters such as a zero-width space."""
    if not text or text.isspace():
        return True
    if text.isascii() or len(text) > LONGEST_INVISIBLE:
        return False
    return all(unicodedata.category(character) in _INVISIBLE for character in text)


def is_finite_number(value: Any) -> bool:
    """Whether a value is a number (true and false are none) that is neither NaN nor infinite, as a float too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of floats
        return False


_WORDS = {"true": 1, "false": 0, "yes": 1, "no": 0}


def read_number(value: Any) -> Any:
    """Return the finite number that a text or a truth value stands for, whole ones whole; any other value as it is."""
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, str) or "_" in value:
        return value
    word = value.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    number = parse_number(word)
    if not is_finite_number(number):
        return value
    return float(number) if "." in word else number


def parse_number(value: Any) -> Any:
    """Return the number that a text is, whole ones whole; any other value as it is."""
    if not isinstance(value, str) or "_" in value:
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() else number


def require_encodable(texts: Iterable[tuple[str, str]]) -> None:
    """Raise BadRowError for the first (name, text) that UTF-8 cannot hold: half of a UTF-16 pair is in it."""
    for name, text in texts:
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = f"\\u{ord(text[error.start]):04x}"
            message = f"{name} holds {code}, half of a UTF-16 pair, at character {error.start + 1}"
            raise bad_row("lone-surrogate", message) from None


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


_TEXTS = frozenset(
    {"query", "response", "instruction", "output", "content", "sentence1", "sentence2", "input", "system", "prompt"}
)


def suits(key: str, value: Any) -> bool:
    """Whether a value may stand under a key that a form needs, or under an optional one, as it is."""
    if key in _TEXTS or (key == "rejected_response" and isinstance(value, str)):
        return isinstance(value, str)
    if key in {"label", "score"}:
        return is_number_like(value)
    if not isinstance(value, list):
        return False
    if key == "history":
        return all(isinstance(turn, list) and len(turn) == 2 for turn in value)  # noqa: PLR2004 - question and answer
    return key not in {"pos", "neg", "rejected_response"} or all(isinstance(text, str) for text in value)


def is_number_like(value: Any) -> bool:
    """Whether a value is a number, or what `read_number` takes for one."""
    return is_finite_number(read_number(value))
