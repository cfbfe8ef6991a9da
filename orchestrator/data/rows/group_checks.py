"""The fields of a ranking row are checked and become a group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.data.digests import document_key
from orchestrator.data.reasons import Fault
from orchestrator.data.rows.field_readers import Fields
from orchestrator.data.rows.groups import RankingGroup
from orchestrator.data.rows.texts import build_fault, find_surrogate, is_blank, is_finite_number, name_type, quote

_LISTS = ("pos", "neg")


def check_group(
    fields: Fields, source: str, line: int, *, needs_negatives: bool
) -> tuple[RankingGroup, int, int] | Fault:
    """Return the group, its repeated positives and negatives left out, and how many these were; or its first fault."""
    row = fields.values
    if fault := _check_types(fields) or find_surrogate(_texts(fields)):
        return fault
    if fault := _check_texts_present(fields, needs_negatives=needs_negatives) or _check_scores(row):
        return fault
    negative_texts = row.get("neg") or []
    positive_keys = [document_key(text) for text in row["pos"]]
    negative_keys = [document_key(text) for text in negative_texts]
    if shared := set(positive_keys).intersection(negative_keys):
        text = next(text for text, key in zip(negative_texts, negative_keys, strict=True) if key in shared)
        return build_fault("positive-among-negatives", f"the document {quote(text)} is a positive and a negative")
    positives = _firsts(positive_keys)
    negatives = _firsts(negative_keys)
    group = RankingGroup(
        query=row["query"],
        positives=_pick(row["pos"], positives),
        negatives=_pick(negative_texts, negatives),
        source=source,
        line=line,
        positive_scores=_pick_scores(row.get("pos_scores"), positives),
        negative_scores=_pick_scores(row.get("neg_scores"), negatives),
        prompt=row.get("prompt"),
    )
    return group, len(positive_keys) - len(positives), len(negative_keys) - len(negatives)


def _firsts(keys: list[str]) -> list[int]:
    """Return the places of the keys that did not occur before."""
    if len(set(keys)) == len(keys):
        return list(range(len(keys)))
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    return list(first.values())


def _pick(texts: list[str], places: list[int]) -> tuple[str, ...]:
    return tuple(texts) if len(places) == len(texts) else tuple(texts[place] for place in places)


def _pick_scores(scores: list[float] | None, places: list[int]) -> tuple[float, ...] | None:
    # One JSON type for all: the backend's reader infers a column's type from the first rows and refuses the other.
    return None if scores is None else tuple(float(scores[place]) for place in places)


# Each check may rely on those before it having found nothing.


def _check_types(fields: Fields) -> Fault | None:
    row = fields.values
    if not isinstance(row["query"], str):
        message = f"{fields.name('query')} is {name_type(row['query'])}, not a string"
        return build_fault("wrong-type", message, "write one string")
    for key in _LISTS:
        if key in row and (fault := _check_texts_type(fields, key)):
            return fault
    if not isinstance(row.get("prompt", ""), str | None):
        message = f"{fields.name('prompt')} is {name_type(row['prompt'])}, not a string"
        return build_fault("wrong-type", message, "write one string")
    for key in ("pos_scores", "neg_scores"):
        if not isinstance(row.get(key), list | None):
            message = f'"{key}" is {name_type(row[key])}, not a list of numbers'
            return build_fault("wrong-type", message, f'put it in a list: "{key}": [0.9, …], one score a document')
    return None


_FROM_PASSAGES = "orch data convert FILE --from passages -o NEW.jsonl"


def _check_texts_type(fields: Fields, key: str) -> Fault | None:
    texts, name = fields.values[key], fields.name(key)
    if isinstance(texts, str):
        hint = f"put it in a list: {name}: [{quote(texts)}]"
        if not fields.names:
            hint += f"; {_FROM_PASSAGES} makes lists of texts"
        return build_fault("wrong-type", f"{name} is a string, not a list of strings", hint)
    if not isinstance(texts, list):
        message = f"{name} is {name_type(texts)}, not a list of strings"
        return build_fault("wrong-type", message, "write a list of strings")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            message = f"{fields.name(key, place)} is {name_type(text)}, not a string"
            hint = "write the document's text itself"
            if isinstance(text, dict) and not fields.names:
                hint += f': {_FROM_PASSAGES} does so where it stands in "text"'
            return build_fault("wrong-type", message, hint)
    return None


def _texts(fields: Fields) -> Iterator[tuple[str, str]]:
    """Yield every text of a row with its place, such as `"neg"[2]`."""
    row: dict[str, Any] = fields.values
    yield fields.name("query"), row["query"]
    for key in _LISTS:
        for place, text in enumerate(row.get(key) or ()):
            yield fields.name(key, place), text
    if row.get("prompt") is not None:
        yield fields.name("prompt"), row["prompt"]


def _check_texts_present(fields: Fields, *, needs_negatives: bool) -> Fault | None:
    row = fields.values
    if is_blank(row["query"]):
        return build_fault("empty-query", f"{fields.name('query')} is empty or white space")
    if not row["pos"]:
        return build_fault("no-positive", f"{fields.name('pos')} is an empty list")
    if needs_negatives and not row.get("neg"):
        missing = fields.names and "neg" in fields.names
        return build_fault(
            "no-negative", f"{fields.name('neg')} is {'missing or empty' if missing else 'an empty list'}"
        )
    for key in _LISTS:
        for place, text in enumerate(row.get(key) or ()):
            if is_blank(text):
                return build_fault("empty-text", f"{fields.name(key, place)} is empty or white space")
    return None


def _check_scores(row: dict[str, Any]) -> Fault | None:
    given = [key for key in ("pos_scores", "neg_scores") if row.get(key) is not None]
    if len(given) == 1 and (given == ["neg_scores"] or row.get("neg")):
        other = "neg_scores" if given == ["pos_scores"] else "pos_scores"
        hint = "give both, or neither"
        if given == ["pos_scores"]:
            hint += (
                "; if they are labels (negatives have the lowest), say data.scores_as_labels: true "
                "(--scores-as-labels), which backend: sentence-transformers takes"
            )
        return build_fault("scores-length", f'the row has "{given[0]}" without "{other}"', hint)
    for key in given:
        scores, texts = row[key], row.get(key.removesuffix("_scores")) or []
        if len(scores) != len(texts):
            message = f'"{key}" holds {len(scores)} and "{key.removesuffix("_scores")}" {len(texts)}'
            return build_fault("scores-length", message, "give one score a document, in the same order")
        for place, score in enumerate(scores):
            if not is_finite_number(score):
                return build_fault(
                    "scores-not-numbers", f'"{key}"[{place}] is not a finite number', "write a finite number"
                )
    return None
