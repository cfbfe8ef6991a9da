"""Finds the user's rows in logs and reports: they go to nobody else, and are not the trainer's own words.

Two ways. ms-swift prints the first row of the training set before it begins, as token ids and as text: [INPUT_IDS],
[INPUT], [LABELS], each also with anchor, positive, negative, chosen or rejected before it (swift/template/base.py:
print_inputs, in 3.6 to 4.6); the text may go over several lines, to the logger's next line. And the texts of a run's
prepared data are found wherever they stand, each by its first 20 characters, as it is or as JSON and Python escape it,
and so is each of its lines; it is left out as far as it goes on, so that a quoted beginning is found too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEFT_OUT = "(a row of the data, left out)"
_LOGGER = r"\[(?:INFO|WARNING|ERROR|DEBUG|CRITICAL):\w+\] "
_OPENING = rf"{_LOGGER}\[(?:[A-Z]+\d*_)*(?:INPUT|LABELS|GENERATE|LOSS_SCALE)(?:_IDS)?\] "
_RANK = r"(?:\[?(?:rank|default)\d+\]?:\s?)?"
# What cannot belong to the row any more: the logger's next line, a traceback, torchrun's own words.
_CLOSING = rf"{_LOGGER}|{_RANK}Traceback |[EW]\d{{4}} \d\d:\d\d:\d\d"
_QUOTED = re.compile(rf"^({_OPENING}).*?(?=^(?:{_CLOSING})|\Z)", re.MULTILINE | re.DOTALL)
_OPENS = re.compile(_OPENING)
_CLOSES = re.compile(_CLOSING)
SHORTEST = 20  # characters: a shorter text says little, and stands in logs by chance
_QUOTE = re.compile(rf'"(?:[^"\\\n]|\\.){{{SHORTEST},}}"')  # as orchestrator/data quotes a text in a message
_DROPPED = re.compile(r"^(?:dropped|bad): .*$", re.MULTILINE)
_KEPT_WORDS = frozenset({"origin", "kind"})  # of a probe: what sort it is


def hide_rows(log: str) -> str:
    """Return the log with each quoted row replaced by a remark; whatever stands between is kept as it is."""
    return _QUOTED.sub(rf"\g<1>{LEFT_OUT}\n", log)


class QuotedRows:
    """Follows one log line by line, and knows whether the line belongs to a row that the trainer quotes."""

    _inside = False

    def has(self, line: str) -> bool:
        """Tell whether `line`, the next one of the log, is part of a quoted row."""
        if _OPENS.match(line):
            self._inside = True
        elif self._inside and _CLOSES.match(line):
            self._inside = False
        return self._inside


@dataclass(frozen=True)
class RowTexts:
    """The texts that were found, by their first `SHORTEST` characters."""

    found: Mapping[str, tuple[str, ...]]

    def hide(self, text: str) -> str:
        """Return `text` with a remark in the place of each of them, and of what the reasons for dropping rows quote."""
        text = _DROPPED.sub(lambda line: _QUOTE.sub(f'"{LEFT_OUT}"', line[0]), text)
        kept, at = [], 0
        for begin in _find_beginnings(text, self.found):
            if begin >= at:
                kept += [text[at:begin], LEFT_OUT]
                at = max(begin + _count_same(text, begin, row) for row in self.found[text[begin : begin + SHORTEST]])
        return "".join([*kept, text[at:]])


def load_row_texts(data: Path, texts: Sequence[str], *, public: str) -> RowTexts:
    """Return which texts of the JSON Lines under `data` stand in any of `texts`; what is in `public` is no secret."""
    beginnings = {row[:SHORTEST] for row in _iter_forms(data)}
    wanted = {text[at : at + SHORTEST] for text in texts for at in _find_beginnings(text, beginnings)}
    wanted -= {public[at : at + SHORTEST] for at in _find_beginnings(public, wanted)}
    found: dict[str, set[str]] = {}
    for row in _iter_forms(data) if wanted else ():
        if row[:SHORTEST] in wanted:
            found.setdefault(row[:SHORTEST], set()).add(row)
    return RowTexts({beginning: tuple(rows) for beginning, rows in found.items()})


def hide_probes(report: str) -> str:
    """Return a verification report with its checks and numbers, without any text that a model was asked or gave."""
    try:
        value = json.loads(report)
        kept = {key: _without_words(item) if isinstance(item, list | dict) else item for key, item in value.items()}
    except (ValueError, RecursionError, AttributeError):
        return LEFT_OUT
    kept |= {key: value[key] for key in ("checks", "weights") if key in value}
    return json.dumps(kept, ensure_ascii=False, indent=2) + "\n"


def hide_details(ledger: str) -> str:
    """Return a ledger without what it quotes of the rows that were dropped: these are in no prepared file."""
    try:
        value = json.loads(ledger)
        for row in value["dropped_rows"]:
            row["detail"] = _QUOTE.sub(f'"{LEFT_OUT}"', row["detail"])
    except (ValueError, RecursionError, LookupError, TypeError):
        return LEFT_OUT
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _without_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key in _KEPT_WORDS else _without_words(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_words(item) for item in value]
    return LEFT_OUT if isinstance(value, str) else value


def _find_beginnings(text: str, beginnings: Collection[str]) -> Iterator[int]:
    for at in range(len(text) - SHORTEST + 1) if beginnings else ():
        if text[at : at + SHORTEST] in beginnings:
            yield at


def _count_same(text: str, begin: int, row: str) -> int:
    """Return for how many characters `text`, from `begin` on, says what `row` says."""
    low, high = 0, min(len(row), len(text) - begin)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text.startswith(row[:middle], begin) else (low, middle - 1)
    return low


def _iter_forms(data: Path) -> Iterator[str]:
    """Yield every text, and every line of one, in each form in which it may be written, if it is long enough."""
    for text in _iter_texts(data):
        whole = text.strip()
        for part in {whole, *(line.strip() for line in whole.splitlines())}:
            forms = {part, _escape(part), json.dumps(part)[1:-1], repr(part)[1:-1]}
            forms |= {_escape(form) for form in forms}  # a message that quotes it stands in a file of JSON
            yield from (form for form in forms if len(form) >= SHORTEST)


def _escape(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _iter_texts(data: Path) -> Iterator[str]:
    for path in sorted(data.rglob("*.jsonl")):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    yield from _iter_strings(json.loads(line))
                except (ValueError, RecursionError):
                    yield line


def _iter_strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _iter_strings(item)
