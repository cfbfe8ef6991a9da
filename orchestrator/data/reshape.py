"""Ranking data in another form: rows of one query come together, wherever they stand, and are written as one.

Texts wait on disk; memory holds a digest of each query and a number of each row. What the new form cannot hold is
refused with the option that allows the loss; nothing is left out without a message.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from orchestrator.data.digests import NORMALISED, digest, document_key, loose_key
from orchestrator.data.earlier_rows import GroupedSpool
from orchestrator.data.judged import (
    EXAMPLES,
    OWN_KEYS,
    QUERY_KEYS,
    TO_RANKING,
    Form,
    Hit,
    Judged,
    Place,
    drop_nulls,
    find_form,
    list_keys,
    read_judged,
    require_number,
    scale_label,
)
from orchestrator.data.ledger import BadRows
from orchestrator.data.rows.nearest import find_nearest
from orchestrator.data.rows.shapes import Row, read_scores_as_labels
from orchestrator.data.rows.texts import BadRowError, bad_row, build_fault, quote
from orchestrator.data.sides import LabelSources
from orchestrator.data.writers import format_line
from orchestrator.errors import DataError


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


def pack(found: Judged) -> bytes:
    """Return one line of JSON. Raises ValueError where JSON in UTF-8 cannot hold a value."""
    return format_line(msgspec.to_builtins(found))


unpack = msgspec.json.Decoder(Judged).decode  # of a line that `pack` has made


class LossError(BadRowError):
    """A query cannot be written without a loss, or its rows contradict each other; `place` is the row at fault."""

    def __init__(self, place: Place, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(build_fault(code, message, hint))
        self.place = place


def read_judgements(row: Row, rules: Reshaping, place: Place) -> Judged:
    """Return what a row of one of the three forms says, labels scaled. Raises BadRowError for any other row."""
    if rules.scores_as_labels:
        low, high = (0, math.inf) if rules.max_label is None else (rules.min_label or 0, rules.max_label)
        row = read_scores_as_labels(drop_nulls(row), low, high)
    form = find_form(row)
    if form is None:
        hint = TO_RANKING
        if {"query", "response", "label"} <= row.keys():
            hint = "this is a pair of ms-swift's: --map content=response makes a pointwise row of it"
        elif find_nearest(row, "labelled").shape.kind == "class":
            hint = "this is a text with a class, which no query asks for: leave --to out to keep it as it is"
        raise bad_row("not-convertible", f"the row is of no form of ranking data; it has {list_keys(row)}", hint)
    judged = read_judged(row, form, scores=True)
    names = [f'"hits"[{at}] ' if form == "hits" else "" for at in range(len(judged.hits))]
    hits = [_scale(hit, form, name, rules, place) for hit, name in zip(judged.hits, names, strict=True)]
    keys = {key: value for key, value in judged.keys.items() if key in QUERY_KEYS or not rules.drop_keys}
    found = replace(judged, keys=keys, hits=tuple(hits))
    return found if rules.to == "hits" else _give_keys_to_hits(found, rules)


def _scale(hit: Hit, form: Form, name: str, rules: Reshaping, place: Place) -> Hit:
    """Return a document with its label scaled and judged; `name` opens what is said of it."""
    if hit.label is None:
        raise bad_row("missing-key", f'{name}"label" is missing', f"write {EXAMPLES['hits']}")
    require_number(hit.label, "label", f'{name}"label"')
    if hit.score is not None:
        require_number(hit.score, "score", f'{name}"score"')
    label, relevant = hit.label, None
    if form == "ranking":
        relevant = bool(label)
    else:
        if rules.max_label is not None:
            label = scale_label(label, name, rules.min_label or 0, rules.max_label)
            label = int(label) if label in (0, 1) else label
        if rules.relevant_from is not None:
            relevant = float(hit.label) >= rules.relevant_from
        elif label in (0, 1):
            relevant = label == 1
    keys, score = {} if rules.drop_keys else hit.keys, None if rules.drop_scores else hit.score
    return Hit(hit.content, label, score, keys, relevant, place)


def _give_keys_to_hits(found: Judged, rules: Reshaping) -> Judged:
    """Return judgements whose documents carry the keys of the query, for forms without a place for both."""
    own = OWN_KEYS[rules.to]
    for hit in found.hits:
        for key in found.keys:
            if key in hit.keys and not is_same(found.keys[key], hit.keys[key]):
                message = f"{quote(key)} stands in the row and, with another value, in one of its hits"
                raise bad_row("would-be-lost", message, "rename one of them, or leave both out with --drop-keys")
    if taken := [key for hit in found.hits for key in (*found.keys, *hit.keys) if key in own]:
        message = f"{quote(taken[0])} is a key of {rules.to} rows, and would be overwritten"
        raise bad_row("would-be-lost", message, "rename it, or leave it out with --drop-keys")
    return replace(found, keys={}, hits=tuple(replace(hit, keys=found.keys | hit.keys) for hit in found.hits))


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same in a file: 1, 1.0 and true are equal in Python, and not there."""
    return _canonical(one) == _canonical(other)


def _canonical(value: Any) -> str:
    """Return the same text for the same value, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True)


def merge_judgements(parts: Sequence[Judged]) -> tuple[Judged, int]:
    """Return what all rows of one query say together, and how many documents were said twice.

    A document repeated with the same text and keys is one; one that differs only in white space or in further keys
    stands beside it. Raises LossError for two labels or scores of one document, and for a document that is relevant
    and, in another width or case, is not.
    """
    first = parts[0]
    for part in parts[1:]:
        _require_same_keys(part.hits[0].place, first.keys, part.keys)
    kept: dict[tuple[str, str], Hit] = {}
    known: dict[str, Hit] = {}
    sides: dict[str, Hit] = {}  # without width and case, as the data pass compares: it refuses a text on both sides
    hits = [hit for part in parts for hit in part.hits]
    for hit in hits:
        name = document_key(hit.content)
        before = known.setdefault(name, hit)
        if (before.label, before.relevant) != (hit.label, hit.relevant):
            raise _conflict(before, hit, "label")
        if None not in (before.score, hit.score) and before.score != hit.score:
            raise _conflict(before, hit, "score")
        if before.score is None:
            known[name] = hit
        if hit.relevant is not None:
            before = sides.setdefault(loose_key(hit.content), hit)
            if before.relevant != hit.relevant:
                raise _conflict(before, hit, "label")
        identity = (hit.content, _canonical(hit.keys))
        same = kept.setdefault(identity, hit)
        if same.score is None and hit.score is not None:
            kept[identity] = replace(same, score=hit.score)
    return replace(first, hits=tuple(kept.values())), len(hits) - len(kept)


def _conflict(one: Hit, other: Hit, key: Literal["label", "score"]) -> LossError:
    values = f"{getattr(one, key):g} and {getattr(other, key):g}"
    if one.label == other.label and key == "label":
        values += ", once relevant and once not"
    before = f"line {one.place[1]}" if one.place[0] == other.place[0] else "an earlier file"
    message = f"the document {quote(other.content)} has two {key}s for its query: {values} (the first in {before})"
    if document_key(one.content) != document_key(other.content):
        message += f" ({NORMALISED})"
    return LossError(other.place, "conflicting-judgements", message)


def _require_same_keys(place: Place, one: Row, other: Row) -> None:
    for key in (*one, *other):
        if key not in one or key not in other or not is_same(one[key], other[key]):
            message = f"{quote(key)} is not the same on all rows of the query, and the new row has one place for it"
            hint = "leave all further keys out with --drop-keys"
            if key in QUERY_KEYS:
                hint = "give all rows of the query the same one"
            raise LossError(place, "would-be-lost", message, hint)


def build_rows(found: Judged, rules: Reshaping) -> list[Row]:
    """Return the rows of one query in the form wanted; none where the query is to be dropped. Raises LossError."""
    if rules.to == "pointwise":
        return [{"query": found.query, **_write(hit)} for hit in found.hits]
    if rules.to == "hits":
        return [{"query": found.query, "hits": list(map(_write, found.hits)), **found.keys}]
    if grade := next((hit for hit in found.hits if hit.relevant is None), None):
        message = f"the label {grade.label:g} is a grade, and a ranking row knows only relevant and not relevant"
        hint = "--relevant-from L makes labels of L and more relevant; --labels-as-scores keeps the labels as scores"
        raise LossError(grade.place, "would-be-lost", message, hint)
    sides = {"pos": [hit for hit in found.hits if hit.relevant], "neg": [hit for hit in found.hits if not hit.relevant]}
    if not all(sides.values()):
        if rules.drop_queries_without_both:
            return []
        missing = "negative" if sides["pos"] else "positive"
        message = f"the query {quote(found.query)} has no {missing}: it is not a ranking row"
        hint = "--drop-queries-without-both leaves such queries out"
        raise LossError(found.hits[0].place, "would-be-lost", message, hint)
    has_scores = _require_all_scores(found.hits, rules)
    row: Row = {"query": found.query} | {side: [hit.content for hit in hits] for side, hits in sides.items()}
    if has_scores or rules.labels_as_scores:
        for side, hits in sides.items():
            row[f"{side}_scores"] = [hit.label if rules.labels_as_scores else hit.score for hit in hits]
    for hit in found.hits[1:]:  # a ranking row has a place for the keys on which all documents agree, and no others
        _require_same_keys(hit.place, found.hits[0].keys, hit.keys)
    return [row | found.hits[0].keys]


def _write(hit: Hit) -> Row:
    """Return a document as one of the hits of a row."""
    score = {} if hit.score is None else {"score": hit.score}
    return {"content": hit.content, "label": hit.label, **score, **hit.keys}


def _require_all_scores(hits: Sequence[Hit], rules: Reshaping) -> bool:
    """Return whether the documents have scores. Raises LossError where some have, or labels would take their place."""
    scored = [hit for hit in hits if hit.score is not None]
    if scored and rules.labels_as_scores:
        message = "the document has a score already, where --labels-as-scores puts its label"
        raise LossError(scored[0].place, "would-be-lost", message, "--drop-scores leaves the scores out")
    if scored and len(scored) < len(hits):
        bare = next(hit for hit in hits if hit.score is None)
        message = "this document has no score, and others of its query have: a ranking row has all scores or none"
        hint = "score all of them, or leave the scores out with --drop-scores"
        raise LossError(bare.place, "would-be-lost", message, hint)
    return bool(scored)


@dataclass(frozen=True)
class Regrouped:
    """What was written: rows, queries with rows; queries left out, and documents that were said twice."""

    rows: int
    queries: int
    queries_dropped: int
    repeated: int


class Regrouping:
    """Takes rows in any order, then writes them query by query.

    Queries keep the order of their first rows, and documents theirs. A query costs about 200 bytes of memory and a row
    16, whatever their length; the texts of one query at a time are in memory. Queries are one when their texts are
    equal, letter by letter.
    """

    def __init__(self, rules: Reshaping, spool: BinaryIO) -> None:
        """Prepare to take rows; `spool` is an empty file to write and read, for as long as this lives."""
        self._rules = rules
        self._chains = GroupedSpool(spool)
        self._paths: list[Path] = []
        self._queries: dict[bytes, int] = {}
        self._beyond_ranking: Place | None = None  # of the first label that cannot stand beside ranking rows' 1 and 0
        self._has_ranking = False
        self._sources = LabelSources()

    def take(self, rows: list[Row], path: Path, line: int) -> None:
        """Take the rows that one row of a file became, all or none of them.

        Raises BadRowError where one of them is none, ValueError where UTF-8 cannot hold them.
        """
        if not self._paths or self._paths[-1] != path:
            self._paths.append(path)
        found = [read_judgements(row, self._rules, (len(self._paths) - 1, line)) for row in rows]
        packed = list(map(pack, found))
        for row, one, data in zip(rows, found, packed, strict=True):
            is_ranking = one.form == "ranking"
            self._sources.note(row if is_ranking else {}, str(path), line)
            self._chains.add(self._queries.setdefault(digest((one.query,)), len(self._chains)), data)
            self._has_ranking |= is_ranking
            keeps_labels = self._rules.to != "ranking" or self._rules.labels_as_scores
            if not is_ranking and keeps_labels and any(not 0 <= hit.label <= 1 for hit in one.hits):
                self._beyond_ranking = self._beyond_ranking or one.hits[0].place

    def write(self, stream: BinaryIO) -> Regrouped:
        """Write all rows. Raises DataError with the first findings where something would be lost or contradicts."""
        if self._rules.scores_as_labels is None and not self._rules.drop_scores:
            unclear = self._sources.problem(ranged=self._rules.max_label is not None)
            if unclear:
                raise DataError.from_problems(unclear)
        bad = BadRows()
        if self._beyond_ranking and self._has_ranking:
            message = "ranking rows say 1 and 0, and among them stands a label outside of that range"
            hint = "scale the labels: --max-label, and --min-label if it is not 0"
            self._note(bad, LossError(self._beyond_ranking, "would-be-lost", message, hint))
        rows = queries = dropped = repeated = 0
        for packed in self._chains.read():
            try:
                merged, more = merge_judgements([unpack(line) for line in packed])
                found = build_rows(merged, self._rules)
            except LossError as error:
                self._note(bad, error)
                continue
            stream.writelines(format_line(row) for row in found)
            rows += len(found)
            queries += bool(found)
            dropped += not found
            repeated += more
        if bad.counts:
            raise DataError.from_problems(bad.sum_up("queries"))
        return Regrouped(rows, queries, dropped, repeated)

    def _note(self, bad: BadRows, error: LossError) -> None:
        file, line = error.place
        bad.add(error.fault, self._paths[file], line)
