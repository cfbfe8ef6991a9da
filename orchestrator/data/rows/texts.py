"""What is wrong with one value or one text of a row, and how both are named in messages."""

from __future__ import annotations

import json
import math
import re
import shlex
import unicodedata
from collections.abc import Iterable
from typing import Any

from orchestrator.data.reasons import REASONS, Fault

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


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can hold a text: it has no half of a UTF-16 pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_surrogate(texts: Iterable[tuple[str, str]]) -> Fault | None:
    """Return the fault of the first (name, text) that UTF-8 cannot hold."""
    for name, text in texts:
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = f"\\u{ord(text[error.start]):04x}"
            message = f"{name} holds {code}, half of a UTF-16 pair, at character {error.start + 1}"
            return build_fault("lone-surrogate", message)
    return None
