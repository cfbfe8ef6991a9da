"""Labels and scores of a row's documents in keys that no reader takes: a label left out makes a negative a positive.

A number beside documents is metadata as long as it contradicts nothing: `score: 0.9` of a whole row, `label: 1` of
its positive. What says that a positive is none, and lists with one score a document, are asked about.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from orchestrator.data.rows.formats import Shape
from orchestrator.data.rows.near_names import is_number_like, plain_name
from orchestrator.data.rows.texts import read_number, write_word
from orchestrator.data.rows.unread_texts import UnreadText, advise_ignoring

_LABELS = frozenset({
    *("label", "labels", "relevant", "is_relevant", "relevance", "relevances", "is_positive", "is_match"),
    *("is_duplicate", "grade", "grades", "标签", "标注", "相关性"),
})  # fmt: skip
_SCORES = frozenset({"score", "scores", "similarity", "similarities", "similarity_score", "分数", "得分", "相似度"})
_OF_ONE_SIDE = re.compile(r"(?P<side>pos|neg|teacher)(?:itives?|atives?|s)?_(?:scores?|labels?|relevances?|grades?)")
_WHAT = "holds labels or scores of its documents"


def find_unread_judgements(
    row: Mapping[str, Any], unknown: Iterable[str], shape: Shape, *, ignore: Collection[str] = ()
) -> tuple[UnreadText, ...]:
    """Return those of a row's unknown keys that judge its documents otherwise than what is read of them."""
    found = []
    for name in unknown:
        if name in ignore or "[]" in name:
            continue
        advice = _advise(row, name, shape)
        if advice:
            found.append(UnreadText(name, f"{advice}; {advise_ignoring(name)}", _WHAT))
    return tuple(found)


def _advise(row: Mapping[str, Any], name: str, shape: Shape) -> str | None:
    """Return what to do about one key, None where it judges nothing or says what is read anyway."""
    value, plain = row[name], plain_name(name)
    if shape.kind == "pair" and shape.name == "sentences":
        differs = plain in _LABELS and is_number_like(value) and read_number(value) != read_number(row["score"])
        return 'two numbers judge the pair, and "score" is read: keep one of them' if differs else None
    if shape.kind not in {"group", "labelled"} or shape.name in {"pointwise", "hits"}:
        return None
    if isinstance(value, list):
        return _advise_list(row, plain, name) if shape.name == "ranking" else None
    if not is_number_like(value) or read_number(value) == 1:
        return None
    negatives = next((row[key] for key in ("neg", "rejected_response", "negative_messages") if row.get(key)), None)
    if plain in _LABELS and negatives:
        return "it says that the positive is none: leave it out, or make the row a pair, one row a text"
    if plain in _LABELS or (plain in _SCORES and not negatives):
        return _advise_single(name, shape)
    return None


def _advise_single(name: str, shape: Shape) -> str:
    if shape.name == "ranking":
        return f'write one row a text: {{"query", "response", "label"}}, with {name!r} as the label'
    return f'read it as "label": --map label={write_word(name)} (data.columns: {{label: {name}}})'


def _advise_list(row: Mapping[str, Any], plain: str, name: str) -> str | None:
    """Return what to do about a list with one number a document."""
    values, side = row[name], _OF_ONE_SIDE.fullmatch(plain)
    if not values or not all(map(is_number_like, values)) or not (side or plain in _LABELS):
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
