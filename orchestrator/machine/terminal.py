"""The one door to the standard streams: nothing of data, paths or logs that is printed commands a terminal.

`say` is for people, in the language of their environment (`Text`), and always clean. `hand_on` is for data, which is
clean on a terminal and as it is in a file or a pipe. JSON is both at once: what a terminal would obey is written as an
escape.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

from orchestrator.machine.secrets import find_secret_values, redact_text

Language = Literal["en", "zh"]

# POSIX's order: the first of these that is set decides, the others are not asked.
_LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")


@dataclass(frozen=True)
class Text:
    """One sentence in every language that Orch speaks."""

    en: str
    zh: str

    def say(self, language: Language) -> str:
        """Return the sentence in that language."""
        return self.zh if language == "zh" else self.en

    def fill(self, *values: object, **named: object) -> str:
        """Return the sentence in this process's language, with values in the place of its {}."""
        return self.say(current_language()).format(*values, **named)


def choose_language(environment: Mapping[str, str]) -> Language:
    """Return the language that an environment asks for: ORCH_LANG, else the locale; English unless it is Chinese."""
    asked = environment.get("ORCH_LANG") or next(
        (environment[name] for name in _LOCALE_VARIABLES if environment.get(name)), ""
    )
    return "zh" if asked.lower().startswith("zh") else "en"


def current_language() -> Language:
    """Return the language of this process's environment."""
    return choose_language(os.environ)


# C0 and C1 controls (a terminal obeys them), controls of writing direction (they reorder a line), lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def make_legible(text: str) -> str:
    """Return text from data, paths or logs as a terminal may show it: nothing in it is a command to the terminal."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def clean(text: str) -> str:
    """Return text as Orch prints it: legible, and without the secrets of this environment."""
    return make_legible(redact_text(text, find_secret_values(os.environ)))


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines, each column as wide as its widest cell; rows of fewer cells than others do not count."""
    most = max(map(len, rows), default=0)
    widths = [max(map(len, column)) for column in zip(*(row for row in rows if len(row) == most), strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def say(text: str, *, err: bool = False, nl: bool = True, bold: bool = False) -> None:
    """Print text for people: cleaned, in bold where `bold` and a terminal are. Raises OSError when it cannot be."""
    stream, text = sys.stderr if err else sys.stdout, clean(text)
    if bold and stream.isatty():
        text = f"{_BOLD}{text}{_PLAIN}"
    _write(stream, text + "\n" * nl)


def say_over(text: str, *, last: bool = False) -> None:
    """Print progress on stderr, over what was said before, on a line that the `last` one ends."""
    _write(sys.stderr, "\r" + clean(text) + "\n" * last)


def hand_on(text: str, *, nl: bool = True, bold: bool = False) -> None:
    """Print data on stdout: cleaned on a terminal, byte for byte elsewhere (bytes that are not UTF-8 as surrogates)."""
    if sys.stdout.isatty():
        say(text, nl=nl, bold=bold)
    elif (buffer := getattr(sys.stdout, "buffer", None)) is None:
        _write(sys.stdout, text + "\n" * nl)
    else:
        sys.stdout.flush()
        buffer.write((text + "\n" * nl).encode("utf-8", "surrogateescape"))
        buffer.flush()


def format_json(value: Any, *, indent: int | None = 2) -> str:
    """Return a value as JSON without this environment's secrets, in letters that every terminal and parser may have."""
    text = redact_text(json.dumps(value, ensure_ascii=False, indent=indent), find_secret_values(os.environ))
    return _UNSAFE.sub(lambda letter: f"\\u{ord(letter[0]):04x}", text)


def print_data(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON on stdout."""
    _write(sys.stdout, format_json(value, indent=indent) + "\n")


def say_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Print lines for people, cleaned, in one go."""
    secrets = find_secret_values(os.environ)
    stream = sys.stderr if err else sys.stdout
    _write(stream, "".join(f"{make_legible(redact_text(line, secrets))}\n" for line in lines))


def _write(stream: IO[str], text: str) -> None:
    stream.write(text)
    stream.flush()
