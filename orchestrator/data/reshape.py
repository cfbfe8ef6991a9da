"""What the rows of one query say together, and its row or rows in another form.

What a form cannot hold is a finding that names the option which gives it up; nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.data.digests import NORMALISED, document_key, loose_key
from orchestrator.data.judgements import QUERY_KEYS, Hit, Judgements, Place, Reshaping, canonical, is_same
from orchestrator.data.reasons import Fault
from orchestrator.data.rows.texts import build_fault, quote


@dataclass(frozen=True)
class Finding:
    """Why a query cannot be written, and the row that is at fault."""

    place: Place
    fault: Fault


def merge_judgements(parts: Sequence[Judgements]) -> tuple[Judgements, int] | Finding:
    """Return what all rows of one query say together, and how many documents were said twice.

    A document repeated with the same text and keys is one; one that differs only in white space or in further keys
    stands beside it. Two labels or scores of one document are a finding, and so is a document that is relevant and, in
    another width or case, is not.
    """
    first = parts[0]
    for part in parts[1:]:
        if not is_same(part.keys, first.keys):
            return Finding(part.place, _explain_keys(first.keys, part.keys))
    kept: dict[tuple[str, str], Hit] = {}
    known: dict[str, Hit] = {}
    sides: dict[str, Hit] = {}  # by what tells no width and no case: the data pass would refuse both sides of one
    total = 0
    for hit in (hit for part in parts for hit in part.hits):
        total += 1
        name = document_key(hit.content)
        before = known.setdefault(name, hit)
        if (before.label, before.relevant) != (hit.label, hit.relevant):
            return _conflict(before, hit, "label")
        if None not in (before.score, hit.score) and before.score != hit.score:
            return _conflict(before, hit, "score")
        if before.score is None:
            known[name] = hit
        if hit.relevant is not None:
            before = sides.setdefault(loose_key(hit.content), hit)
            if before.relevant != hit.relevant:
                return _conflict(before, hit, "label")
        same = kept.setdefault((hit.content, canonical(hit.keys)), hit)
        if same.score is None and hit.score is not None:
            kept[hit.content, canonical(hit.keys)] = replace(same, score=hit.score)
    return replace(first, hits=tuple(kept.values())), total - len(kept)


def _conflict(one: Hit, other: Hit, key: Literal["label", "score"]) -> Finding:
    values = f"{getattr(one, key):g} and {getattr(other, key):g}"
    if one.label == other.label and key == "label":
        values += ", once relevant and once not"
    before = f"line {one.place[1]}" if one.place[0] == other.place[0] else "an earlier file"
    message = f"the document {quote(other.content)} has two {key}s for its query: {values} (the first in {before})"
    if document_key(one.content) != document_key(other.content):
        message += f" ({NORMALISED})"
    return Finding(other.place, build_fault("conflicting-judgements", message))


def _explain_keys(one: dict[str, Any], other: dict[str, Any]) -> Fault:
    key = next(key for key in (*one, *other) if key not in one or key not in other or not is_same(one[key], other[key]))
    message = f"{quote(key)} is not the same on all rows of the query, and the new row has one place for it"
    if key in QUERY_KEYS:
        return build_fault("would-be-lost", message, "give all rows of the query the same one")
    return build_fault("would-be-lost", message, "leave all further keys out with --drop-keys")


def build_rows(found: Judgements, rules: Reshaping) -> list[dict[str, Any]] | Finding:
    """Return the rows of one query in the form wanted; none where the query is to be dropped."""
    if rules.to == "pointwise":
        return [{"query": found.query, **_write_hit(hit)} for hit in found.hits]
    if rules.to == "hits":
        return [{"query": found.query, "hits": [_write_hit(hit) for hit in found.hits], **found.keys}]
    return _build_ranking(found, rules)


def _write_hit(hit: Hit) -> dict[str, Any]:
    score = {} if hit.score is None else {"score": hit.score}
    return {"content": hit.content, "label": hit.label, **score, **hit.keys}


def _build_ranking(found: Judgements, rules: Reshaping) -> list[dict[str, Any]] | Finding:
    if grade := next((hit for hit in found.hits if hit.relevant is None), None):
        message = f"the label {grade.label:g} is a grade, and a ranking row knows only relevant and not relevant"
        hint = "--relevant-from L makes labels of L and more relevant; --labels-as-scores keeps the labels as scores"
        return Finding(grade.place, build_fault("would-be-lost", message, hint))
    pos, neg = ([hit for hit in found.hits if hit.relevant is side] for side in (True, False))
    if not (pos and neg):
        if rules.drop_queries_without_both:
            return []
        message = f"the query {quote(found.query)} has no {'negative' if pos else 'positive'}: it is no ranking row"
        hint = "--drop-queries-without-both leaves such queries out"
        return Finding(found.place, build_fault("would-be-lost", message, hint))
    scored = [hit for hit in found.hits if hit.score is not None]
    if fault := _check_scores(found, scored, rules):
        return fault
    row: dict[str, Any] = {
        "query": found.query,
        "pos": [hit.content for hit in pos],
        "neg": [hit.content for hit in neg],
    }
    if scored or rules.labels_as_scores:
        for key, side in (("pos_scores", pos), ("neg_scores", neg)):
            row[key] = [hit.label if rules.labels_as_scores else hit.score for hit in side]
    keys = _find_common_keys(found.hits)
    return keys if isinstance(keys, Finding) else [row | keys]


def _check_scores(found: Judgements, scored: list[Hit], rules: Reshaping) -> Finding | None:
    if scored and rules.labels_as_scores:
        message = "the document has a score already, where --labels-as-scores puts its label"
        return Finding(scored[0].place, build_fault("would-be-lost", message, "--drop-scores leaves the scores out"))
    if scored and len(scored) < len(found.hits):
        bare = next(hit for hit in found.hits if hit.score is None)
        message = "this document has no score, and others of its query have: a ranking row has all scores or none"
        hint = "score all of them, or leave the scores out with --drop-scores"
        return Finding(bare.place, build_fault("would-be-lost", message, hint))
    return None


def _find_common_keys(hits: Sequence[Hit]) -> dict[str, Any] | Finding:
    """Return the keys on which all documents agree: a ranking row has a place for no others."""
    first = hits[0].keys
    for hit in hits[1:]:
        if not is_same(hit.keys, first):
            return Finding(hit.place, _explain_keys(first, hit.keys))
    return first


def is_beyond_ranking(found: Judgements, rules: Reshaping) -> bool:
    """Whether a label lies outside [0, 1], so that it cannot be written beside the 1 and 0 of ranking rows."""
    if found.form == "ranking" or (rules.to == "ranking" and not rules.labels_as_scores):
        return False
    return any(not 0 <= hit.label <= 1 for hit in found.hits)
