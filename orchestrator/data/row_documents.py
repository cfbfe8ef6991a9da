"""The query and the documents of one raw ranking row, whatever its shape, and the same row with teacher scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.reading.json_rows import Row
from orchestrator.data.reading.readers import Source
from orchestrator.data.reading.tabular import DELIMITERS
from orchestrator.data.reasons import Fault, refuse
from orchestrator.data.rows.nearest import explain_unknown
from orchestrator.data.rows.shapes import SAMPLE_KEY, SHAPES, explain_no_object, fold_numbered, normalise, rewrite
from orchestrator.data.rows.texts import build_fault, find_surrogate, is_finite_number, name_type
from orchestrator.data.rows.unread import UnreadText, find_unread, find_unread_judgements

_FORMS = [shape for shape in reversed(SHAPES) if shape.kind == "labelled"]  # ranking rows are the likeliest
_SWIFT_KEYS = ({"messages", "positive_messages"}, {"query", "response"})
HIT_KEYS = ("content", "label", "score")
_KNOWN = {
    "ranking": {"query", "pos", "neg", "pos_scores", "neg_scores", "prompt", SAMPLE_KEY},
    "hits": {"query", "hits", "prompt", SAMPLE_KEY},
    "pointwise": {"query", *HIT_KEYS, "prompt", SAMPLE_KEY},
}
_ABSENT: tuple[Any, ...] = (None, "", [])
_NUMBERS = ("label", "score")
_LISTS = ("pos", "neg", "pos_scores", "neg_scores", "hits")


@dataclass(frozen=True)
class RowDocuments:
    """What a row says: its documents in their order (positives first), and a label each (1 and 0 in ranking rows).

    `shape` is ranking, hits or pointwise; labels are as they stand there, None where a row has none.
    """

    shape: str
    query: str
    documents: tuple[str, ...]
    labels: tuple[Any, ...]
    has_scores: bool


def read_value(row: Row, source: Source, columns: Mapping[str, str]) -> Any:
    """Return a row's JSON value; in a text table, lists and numbers that stand in cells as text are read."""
    if not isinstance(row.value, dict):
        return row.value
    if source.ending not in DELIMITERS:
        return _rewrite(fold_numbered(row.value))
    value = fold_numbered(dict(row.value))
    for key in (*_NUMBERS, *_LISTS):
        name = columns.get(key, key)
        if isinstance(cell := value.get(name), str):
            value[name] = _read_cell(cell, key)
    return _rewrite(value)


def _rewrite(value: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a foreign shape as one that has a place for scores; whose cannot be read stays as it is."""
    found = rewrite(value)
    return value if isinstance(found, Fault) else found


def _read_cell(cell: str, key: str) -> Any:
    if key in _LISTS and not cell.lstrip().startswith("["):
        return cell
    try:
        found = json.loads(cell) if key in _LISTS else float(cell)
    except (ValueError, RecursionError):
        return cell
    if key in _LISTS:
        return found
    return int(found) if is_finite_number(found) and found.is_integer() else found


def read_documents(value: Any, columns: Mapping[str, str], *, path: Path, line: int) -> RowDocuments | Fault:
    """Return the documents of a row (value of any JSON type), or why it has none that can be read.

    Raises DataError for the rows of ms-swift, which have no place for scores.
    """
    row = normalise(value, columns) if isinstance(value, dict) else explain_no_object(value, "group")
    if isinstance(row, Fault):
        return row
    found = _read_shape(row, path, line)
    if isinstance(found, RowDocuments):
        texts = [("the query", found.query), *(("a document", text) for text in found.documents)]
        if fault := find_surrogate(texts):
            return fault
    return found


def _read_shape(row: dict[str, Any], path: Path, line: int) -> RowDocuments | Fault:
    if "query" in row and not isinstance(row["query"], str):
        return _wrong_type('"query"', row["query"], "a string")
    there = [key for key in _READERS if key in row and "query" in row]
    if there:  # a key with a value says more than one without
        return _READERS[next((key for key in there if row[key] not in _ABSENT), there[0])](row)
    if any(keys <= row.keys() for keys in _SWIFT_KEYS):
        message = "this is a row of ms-swift, which has no place for teacher scores and mined negatives"
        hint = "orch data convert FILE --from swift3 -o NEW.jsonl makes {query, pos, neg} of it"
        raise refuse("other-kind", message, path, line=line, hint=hint)
    return explain_unknown(row, "labelled", _FORMS)


def _read_ranking(row: dict[str, Any]) -> RowDocuments | Fault:
    lists: list[list[str]] = []
    for key in ("pos", "neg"):
        texts = row.get(key)
        if texts is None and key == "neg":
            texts = []
        if not isinstance(texts, list):
            return _wrong_type(f'"{key}"', texts, "a list of strings")
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                return _wrong_type(f'"{key}"[{place}]', text, "a string")
        lists.append(texts)
    positives, negatives = lists
    if not positives:
        return build_fault("no-positive", '"pos" is an empty list')
    labels = (1,) * len(positives) + (0,) * len(negatives)
    has_scores = any(row.get(key) is not None for key in ("pos_scores", "neg_scores"))
    return RowDocuments("ranking", row["query"], (*positives, *negatives), labels, has_scores)


def _read_hits(row: dict[str, Any]) -> RowDocuments | Fault:
    hits = row["hits"]
    if not isinstance(hits, list):
        return _wrong_type('"hits"', hits, 'a list of {"content", "label"}')
    if not hits:
        return build_fault("no-positive", '"hits" is an empty list')
    for place, hit in enumerate(hits):
        if not isinstance(hit, dict):
            return _wrong_type(f'"hits"[{place}]', hit, 'an object {"content", "label"}')
        if "content" not in hit:
            return build_fault("missing-key", f'"hits"[{place}] has no "content"', 'write {"content": "…", "label": 1}')
        if not isinstance(hit["content"], str):
            return _wrong_type(f'"content" of "hits"[{place}]', hit["content"], "a string")
    documents = tuple(hit["content"] for hit in hits)
    labels = tuple(hit.get("label") for hit in hits)
    return RowDocuments("hits", row["query"], documents, labels, any(hit.get("score") is not None for hit in hits))


def _read_pointwise(row: dict[str, Any]) -> RowDocuments | Fault:
    if not isinstance(row["content"], str):
        return _wrong_type('"content"', row["content"], "a string")
    has_scores = row.get("score") is not None
    return RowDocuments("pointwise", row["query"], (row["content"],), (row.get("label"),), has_scores)


_READERS = {"pos": _read_ranking, "hits": _read_hits, "content": _read_pointwise}


def find_unread_documents(row: dict[str, Any], found: RowDocuments, ignore: Sequence[str]) -> tuple[UnreadText, ...]:
    """Return the texts of a row, its keys in canonical names, that nobody reads."""
    unknown = [key for key in row if key not in _KNOWN[found.shape]]
    if found.shape == "hits":
        unknown += dict.fromkeys(f"hits[].{key}" for hit in row["hits"] for key in hit if key not in HIT_KEYS)
    if not unknown:
        return ()
    optional = ("neg",) if found.shape == "ranking" and not row.get("neg") else ()
    return find_unread(row, unknown, (found.query, *found.documents), optional=optional, ignore=ignore)


def find_unread_labels(row: dict[str, Any], found: RowDocuments, ignore: Sequence[str]) -> tuple[UnreadText, ...]:
    """Return the keys of a ranking row that judge its documents otherwise than its two lists do."""
    if found.shape != "ranking":
        return ()
    shape = next(shape for shape in _FORMS if shape.name == found.shape)
    unknown = [key for key in row if key not in _KNOWN[found.shape]]
    return find_unread_judgements(row, unknown, shape, ignore=ignore)


def _wrong_type(name: str, value: Any, wanted: str) -> Fault:
    return build_fault("wrong-type", f"{name} is {name_type(value)}, not {wanted}", f"write {wanted}")


def add_scores(
    value: dict[str, Any], columns: Mapping[str, str], found: RowDocuments, scores: Sequence[float]
) -> dict[str, Any]:
    """Return the row, under its own keys, with one score a document (in the order of `found.documents`)."""

    def name(key: str) -> str:
        return columns.get(key, key)

    if found.shape == "pointwise":
        return value | {name("score"): scores[0]}
    if found.shape == "hits":
        hits = value[name("hits")]
        return value | {name("hits"): [hit | {"score": score} for hit, score in zip(hits, scores, strict=True)]}
    count = len(value[name("pos")])
    added = {name("pos_scores"): list(scores[:count])}
    if value.get(name("neg")) is not None:
        added[name("neg_scores")] = list(scores[count:])
    return {key: kept for key, kept in value.items() if key != name("neg_scores")} | added


def pair_texts(found: RowDocuments) -> Iterator[tuple[str, str]]:
    """Yield query and document of every document."""
    return ((found.query, document) for document in found.documents)
