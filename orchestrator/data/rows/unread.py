"""Texts and judgements in keys that no reader takes: they are refused until somebody says that they are not needed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.data.reasons import RepeatedProblems, problem_of
from orchestrator.data.rows.shapes import Shape
from orchestrator.data.rows.texts import (
    NAMES,
    find_optional,
    is_blank,
    is_metadata,
    is_number_like,
    names_negatives,
    plain_name,
    quote,
    read_number,
    suits,
    write_word,
)
from orchestrator.errors import Where

ANSWERS = ("output", "response")  # of rows without messages
_WORDS, _LETTERS = 4, 8  # a string with so many words, or so many letters beyond ASCII, is a text
_NESTED = re.compile(r"(?P<list>\w+)\[\]\.(?P<key>.+)", re.DOTALL)
_LISTS = {"hits": ("hits",), "messages": ("messages", "conversations", "positive_messages", "negative_messages")}


@dataclass(frozen=True)
class UnreadText:
    """A key that holds a text and is read by nobody, and what to do about it; `what` else it holds."""

    name: str
    hint: str
    what: str = "holds text"


def find_unread(
    row: Mapping[str, Any],
    unknown: Iterable[str],
    texts: Collection[str],
    *,
    shape: Shape | None = None,
    optional: Collection[str] = (),
    ignore: Collection[str] = (),
) -> tuple[UnreadText, ...]:
    """Return those of a row's unknown keys (`context`, `hits[].title`) that hold a text which is not among `texts`.

    With a `shape` also those that judge its documents otherwise than what is read of them. `optional` are the keys that
    its form also reads; of `ignore` none is returned, by whole name or by what follows the dot.
    """
    found = []
    judging = []
    for name in unknown:
        key = name.rpartition(".")[2]
        if name in ignore or key in ignore:
            continue
        advice = _advise_number_of(row, name, shape) if shape and "[]" not in name else None
        if advice:
            judging.append(UnreadText(name, f"{advice}; {advise_ignoring(name)}", _WHAT))
        near = find_optional(key, optional) if key == name else None
        is_reasoning = plain_name(key) in NAMES.reasoning and (key != name or any(answer in row for answer in ANSWERS))
        strings = [text for text in find_strings(list(_values(row, name))) if not is_blank(text)]
        if not (near or is_reasoning or names_negatives(key)):
            strings = [text for text in strings if _is_long(text)] if not is_metadata(key) else []
        lines = [line.strip() for one in texts for line in one.splitlines()]
        stripped = {one.strip() for one in texts}  # what is read already, or holds all that is
        if any(text.strip() not in stripped and not all(line in text for line in lines) for text in strings):
            found.append(UnreadText(name, _advise(row, key, near, is_reasoning=is_reasoning)))
    return (*found, *judging)


def _values(row: Mapping[str, Any], name: str) -> Iterator[Any]:
    """Yield what stands under a key, of one such as `messages[].name` in every message."""
    nested = None if name in row else _NESTED.fullmatch(name)
    if nested is None:
        yield row.get(name)
        return
    for outer in _LISTS.get(nested["list"], (nested["list"],)):
        entries = row.get(outer)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                yield entry.get(nested["key"])


def find_strings(value: Any) -> Iterator[str]:
    """Yield every string inside a value, but for those that a metadata key names."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(part for key, part in value.items() if not is_metadata(key))


def _is_long(text: str) -> bool:
    words = sum(any(letter.isalpha() for letter in word) for word in text.split(maxsplit=4 * _WORDS))
    if words >= _WORDS:
        return True
    return not text.isascii() and sum(letter > "\x7f" and letter.isalpha() for letter in text[:200]) >= _LETTERS


def advise_ignoring(key: str) -> str:
    """Return how it is said that a key is not needed."""
    return f"data.ignore: [{key}] (--ignore {write_word(key)}) says that it is not needed"


def _advise(row: Mapping[str, Any], key: str, near: str | None, *, is_reasoning: bool) -> str:
    ignored = advise_ignoring(key)
    if is_reasoning:
        return f"orch data convert FILE --keep-reasoning -o NEW.jsonl writes it in front of its answer; {ignored}"
    if near is None and names_negatives(key):
        return f"{_advise_negatives(row, key)}; {ignored}"
    if near is None:
        named = f"--map NEW={write_word(key)} (data.columns: {{NEW: {key}}})"
        return f"read it under a key that has a meaning: {named}; {ignored}"
    if suits(near, row.get(key)):
        return f"read it as {quote(near)}: --map {near}={write_word(key)} (data.columns: {{{near}: {key}}}); {ignored}"
    return f"write it as {quote(near)}: {_FORMS[near]}; {ignored}"


def _advise_negatives(row: Mapping[str, Any], name: str) -> str:
    """Return what becomes of texts that are not wanted, where their row has no place for them, or none that is free."""
    for key in ("neg", "rejected_response", "negative_messages"):
        if row.get(key):
            return f"put its texts into {quote(key)}, with those that are there"
    learnt = "a conversation learns its own answers, and nothing from what is rejected"
    if "messages" not in row or name not in {"rejected_response", "rejected_messages"}:
        return learnt
    return f"{learnt}; as a row of rerankers and embeddings: orch data convert FILE --from swift3 -o NEW.jsonl"


_TEXTS = '["…", "…"]'
_FORMS = {
    **dict.fromkeys(("neg", "rejected_response"), _TEXTS),
    **dict.fromkeys(("input", "system", "prompt"), '"…"'),
    "negative_messages": '[[{"role": "user", "content": "…"}], …]',
    "history": '[["a question", "its answer"], …]',
}


def note_unread(problems: RepeatedProblems, unread: Sequence[UnreadText], path: str, line: int) -> None:
    """Note the unread texts of one row: they are one problem a key, at the first row that has it."""
    for one in unread:
        message = f"the row has {quote(one.name)}, which {one.what} and which nothing reads"
        problems.note(one.name, problem_of("text-not-read", message, hint=one.hint, where=Where(path, line)))


_OF_ONE_SIDE = re.compile(r"(?P<side>pos|neg|teacher)(?:itives?|atives?|s)?_(?:scores?|labels?|relevances?|grades?)")
_WHAT = "holds labels or scores of its documents"


def _advise_number_of(row: Mapping[str, Any], name: str, shape: Shape) -> str | None:
    """Return what to do about one key, None where it judges nothing or says what is read anyway."""
    value, plain = row[name], plain_name(name)
    if shape.kind == "pair" and shape.name == "sentences":
        differs = plain in NAMES.labels and is_number_like(value) and read_number(value) != read_number(row["score"])
        return 'two numbers judge the pair, and "score" is read: keep one of them' if differs else None
    if shape.kind not in {"group", "labelled"} or shape.name in {"pointwise", "hits"}:
        return None
    if isinstance(value, list):
        return _advise_list(row, plain, name) if shape.name == "ranking" else None
    if not is_number_like(value) or read_number(value) == 1:
        return None
    negatives = next((row[key] for key in ("neg", "rejected_response", "negative_messages") if row.get(key)), None)
    if plain in NAMES.labels and negatives:
        return "it says that the positive is none: leave it out, or make the row a pair, one row a text"
    if plain in NAMES.labels or (plain in NAMES.scores and not negatives):
        if shape.name == "ranking":
            return f'write one row a text: {{"query", "response", "label"}}, with {name!r} as the label'
        return f'read it as "label": --map label={write_word(name)} (data.columns: {{label: {name}}})'
    return None


def _advise_list(row: Mapping[str, Any], plain: str, name: str) -> str | None:
    """Return what to do about a list with one number a document."""
    values, side = row[name], _OF_ONE_SIDE.fullmatch(plain)
    if not values or not all(map(is_number_like, values)) or not (side or plain in NAMES.labels):
        return None
    positives, negatives = (len(texts) if isinstance(texts := row.get(key), list) else 0 for key in ("pos", "neg"))
    if len(values) not in {positives, negatives, positives + negatives}:
        return None
    if side is None:
        if list(map(read_number, values)) in ([1] * positives, [1] * positives + [0] * negatives):
            return None
        if negatives:
            return 'write them as hits: {"query", "hits": [{"content", "label"}, …]}'
        columns = ["--map", "documents=pos", *(() if plain == "labels" else ("--map", f"labels={name}"))]
        return f"orch data convert FILE {shlex.join(columns)} --from lists -o NEW.jsonl makes rows of hits"
    target = f"{side['side']}_scores"
    if target == "teacher_scores" or target in row:
        return 'write "pos_scores" and "neg_scores", one score a document'
    return f'read it as "{target}": --map {target}={write_word(name)} (data.columns: {{{target}: {name}}})'
