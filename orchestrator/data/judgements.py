"""Ranking data in its three forms, pointwise, hits and ranking: a row of any becomes judgements of documents."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.data.reasons import Fault
from orchestrator.data.rows.shapes import SAMPLE_KEY, read_scores_as_labels
from orchestrator.data.rows.texts import build_fault, is_finite_number, name_type, quote

Form = Literal["pointwise", "hits", "ranking"]
Place = tuple[int, int]  # the number of a file among those given, and a line

EXAMPLES: dict[Form, str] = {
    "pointwise": '{"query": "…", "content": "…", "label": 1}',
    "hits": '{"query": "…", "hits": [{"content": "…", "label": 1}, …]}',
    "ranking": '{"query": "…", "pos": ["…"], "neg": ["…", "…"]}',
}
_MARKS: dict[Form, tuple[str, ...]] = {"pointwise": ("content",), "hits": ("hits",), "ranking": ("pos", "neg")}
OWN_KEYS: dict[Form, tuple[str, ...]] = {
    "pointwise": ("query", "content", "label", "score"),
    "hits": ("query", "hits"),
    "ranking": ("query", "pos", "neg", "pos_scores", "neg_scores"),
}
_HIT_KEYS = ("content", "label", "score")
QUERY_KEYS = ("prompt", SAMPLE_KEY)  # what they say is said of a query, in every form; --drop-keys keeps them
_NULLABLE = {"prompt", *(key for keys in OWN_KEYS.values() for key in keys)}


@dataclass(frozen=True)
class Reshaping:
    """The form to write, and what may be given up for it.

    `min_label` and `max_label` scale labels to [0, 1]; `relevant_from` is on the scale of the files. The labels of a
    ranking row are 1 and 0 whatever the scale, unless `scores_as_labels` says that its scores are its labels.
    """

    to: Form
    relevant_from: float | None = None
    labels_as_scores: bool = False
    drop_queries_without_both: bool = False
    drop_keys: bool = False
    drop_scores: bool = False
    min_label: float | None = None
    max_label: float | None = None
    scores_as_labels: bool | None = None


@dataclass(frozen=True)
class Hit:
    """A document of a query. `relevant` None: a grade of which nobody has said what counts; `score` the teacher's."""

    content: str
    label: float
    relevant: bool | None
    score: float | None
    keys: dict[str, Any]
    place: Place


@dataclass(frozen=True)
class Judgements:
    """What one row, or all rows of a query, say of its documents; `keys` belong to the query."""

    query: str
    keys: dict[str, Any]
    hits: tuple[Hit, ...]
    place: Place
    form: Form


def read_judgements(row: dict[str, Any], rules: Reshaping, place: Place) -> Judgements | Fault:
    """Return what a row of any of the three forms says, or why it is none of them; `null` is an absent key."""
    row = {key: value for key, value in row.items() if value is not None or key not in _NULLABLE}
    if rules.scores_as_labels:
        graded = read_scores_as_labels(row, *find_range(rules))
        if isinstance(graded, Fault):
            return graded
        row = graded
    forms = [form for form, marks in _MARKS.items() if any(mark in row for mark in marks)]
    if len(forms) != 1:
        known = ", ".join(map(quote, list(row)[:20])) or "no keys"
        which = "more than one form" if forms else "no form of ranking data"
        message = f"the row is of {which}; it has {known}"
        hint = _advise_swift(row) or f"rename columns with --map, or write {' or '.join(EXAMPLES.values())}"
        return build_fault("not-convertible", message, hint)
    form = forms[0]
    if fault := _check_query(row, form):
        return fault
    if form == "ranking":
        hits = _read_ranking(row, rules, place)
    elif form == "hits":
        hits = _read_hits(row["hits"], rules, place)
    else:
        hits = _read_pointwise(row, rules, place)
    if isinstance(hits, Fault):
        return hits
    if not hits:
        return build_fault("no-documents", "the row has no documents")
    keys = {key: row[key] for key in row if key in QUERY_KEYS}
    if form != "pointwise" and not rules.drop_keys:  # the further keys of a pointwise row belong to its document
        keys = {key: value for key, value in row.items() if key not in OWN_KEYS[form]}
    found = Judgements(row["query"], keys, tuple(hits), place, form)
    return found if rules.to == "hits" else _give_to_hits(found, rules)


def _advise_swift(row: dict[str, Any]) -> str | None:
    """Return how ms-swift's rows become ranking data, None for other rows."""
    if {"query", "response", "label"} <= row.keys():
        return "this is a pair of ms-swift's: --map content=response makes a pointwise row of it"
    if {"query", "response"} <= row.keys() or {"messages", "positive_messages"} <= row.keys():
        return "these are ms-swift's keys: --from swift3 reads them, together with --to"
    return None


def find_range(rules: Reshaping) -> tuple[float, float]:
    """Return the lowest and the highest label; any number is a label where no range was given."""
    if rules.max_label is None:
        return (0, math.inf)
    return (rules.min_label or 0, rules.max_label)


def pack_judgements(found: Judgements) -> list[Any]:
    """Return judgements as a value that JSON can hold."""
    hits = [[hit.content, hit.label, hit.relevant, hit.score, hit.keys] for hit in found.hits]
    return [found.query, found.keys, hits, found.place, found.form]


def unpack_judgements(value: list[Any]) -> Judgements:
    """Return the judgements that `pack_judgements` has packed; all hits of a row stand in its place."""
    query, keys, packed, (file, line), form = value
    place = (file, line)
    hits = (Hit(content, label, relevant, score, own, place) for content, label, relevant, score, own in packed)
    return Judgements(query, keys, tuple(hits), place, form)


def _check_query(row: dict[str, Any], form: Form) -> Fault | None:
    needs = {"pointwise": ("query", "content", "label"), "hits": ("query", "hits"), "ranking": ("query", "pos")}[form]
    if missing := [key for key in needs if key not in row]:
        return build_fault("missing-key", f'the key "{missing[0]}" is missing', f"write {EXAMPLES[form]}")
    if not isinstance(row["query"], str):
        return build_fault("wrong-type", f'"query" is {name_type(row["query"])}, not a string', "write one string")
    return None


def _read_pointwise(row: dict[str, Any], rules: Reshaping, place: Place) -> list[Hit] | Fault:
    further = {key: value for key, value in row.items() if key not in (*OWN_KEYS["pointwise"], *QUERY_KEYS)}
    hit = _build_hit({key: row[key] for key in _HIT_KEYS if key in row} | further, "", rules, place)
    return hit if isinstance(hit, Fault) else [hit]


def _read_hits(entries: Any, rules: Reshaping, place: Place) -> list[Hit] | Fault:
    if not isinstance(entries, list):
        return build_fault("wrong-type", f'"hits" is {name_type(entries)}, not a list', f"write {EXAMPLES['hits']}")
    hits = []
    for number, entry in enumerate(entries):
        name = f'"hits"[{number}]'
        if not isinstance(entry, dict):
            return build_fault("wrong-type", f"{name} is {name_type(entry)}, not an object", EXAMPLES["hits"])
        hit = _build_hit(entry, f"{name} ", rules, place)
        if isinstance(hit, Fault):
            return hit
        hits.append(hit)
    return hits


def _build_hit(entry: dict[str, Any], name: str, rules: Reshaping, place: Place) -> Hit | Fault:
    """Return a document with its label; `name` opens what is said of it."""
    content: Any = entry.get("content")
    label: Any = entry.get("label")
    score: Any = entry.get("score")
    for key, value in (("content", content), ("label", label)):
        if value is None:
            return build_fault("missing-key", f'{name}"{key}" is missing', f"write {EXAMPLES['hits']}")
    if not isinstance(content, str):
        return build_fault("wrong-type", f'{name}"content" is {name_type(content)}, not a string', "write one string")
    for key, value, code in (("label", label, "label-not-a-number"), ("score", score, "scores-not-numbers")):
        if value is not None and not is_finite_number(value):
            return build_fault(code, f'{name}"{key}" is {name_type(value)}, not a finite number', "write a number")
    scaled = _scale(label, name, rules)
    if isinstance(scaled, Fault):
        return scaled
    relevant: bool | None = None
    if rules.relevant_from is not None:
        relevant = float(label) >= rules.relevant_from
    elif scaled in (0, 1):
        relevant = scaled == 1
    keys = {} if rules.drop_keys else {key: value for key, value in entry.items() if key not in _HIT_KEYS}
    return Hit(content, scaled, relevant, None if rules.drop_scores else score, keys, place)


def _scale(label: Any, name: str, rules: Reshaping) -> float | Fault:
    if rules.max_label is None:
        return float(label) if isinstance(label, float) else int(label)
    low, high = rules.min_label or 0, rules.max_label
    if not low <= label <= high:
        message = f'{name}"label" is {label:g}, which is not between {low:g} and {high:g}'
        return Fault("label-out-of-range", message, "correct the label, or --min-label and --max-label")
    scaled = float((label - low) / (high - low))
    return int(scaled) if scaled in (0, 1) else scaled


def _read_ranking(row: dict[str, Any], rules: Reshaping, place: Place) -> list[Hit] | Fault:
    hits = []
    given = [key for key in ("pos_scores", "neg_scores") if key in row]
    for key, label in (("pos", 1), ("neg", 0)):
        texts = row.get(key, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return build_fault("wrong-type", f'"{key}" is not a list of strings', f"write {EXAMPLES['ranking']}")
        scores = row.get(f"{key}_scores", [])
        if not isinstance(scores, list) or not all(is_finite_number(score) for score in scores):
            return build_fault("scores-not-numbers", f'"{key}_scores" is not a list of finite numbers')
        if given and len(scores) != len(texts):
            return build_fault("scores-length", f'"{key}_scores" holds {len(scores)} and "{key}" {len(texts)}')
        known = scores if given and not rules.drop_scores else [None] * len(texts)
        hits += [Hit(text, label, bool(label), score, {}, place) for text, score in zip(texts, known, strict=True)]
    return hits


def _give_to_hits(found: Judgements, rules: Reshaping) -> Judgements | Fault:
    """Return judgements whose documents carry the keys of the query, for forms without a place for both."""
    for hit in found.hits:
        clash = next(
            (key for key in found.keys if key in hit.keys and not is_same(found.keys[key], hit.keys[key])), None
        )
        if clash is not None:
            message = f"{quote(clash)} stands in the row and, with another value, in one of its hits"
            return build_fault("would-be-lost", message, "rename one of them, or leave both out with --drop-keys")
    taken = [key for hit in found.hits for key in (*found.keys, *hit.keys) if key in OWN_KEYS[rules.to]]
    if taken:
        message = f"{quote(taken[0])} is a key of {rules.to} rows, and would be overwritten"
        return build_fault("would-be-lost", message, "rename it, or leave it out with --drop-keys")
    hits = tuple(replace(hit, keys=found.keys | hit.keys) for hit in found.hits)
    return replace(found, keys={}, hits=hits)


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same in a file: 1, 1.0 and true are equal in Python, and not there."""
    return canonical(one) == canonical(other)


def canonical(value: Any) -> str:
    """Return the same text for the same value, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True)
