"""Rows that name their texts by ids become rows with these texts: BEIR's judgements, and lists of documents' ids.

The texts stand beside such a file: `corpus.jsonl` for the documents and, where a query is an id too, `queries.jsonl`,
as in BEIR's folders, whose judgements lie in `qrels/`. Only the ids, and where each text stands, are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from orchestrator.data.reading.json_rows import Row
from orchestrator.data.rows.foreign_rows import find_passage
from orchestrator.data.rows.texts import BadRowError, bad_row, build_fault, is_finite_number, quote, read_number

_QUERY_IDS = ("query-id", "query_id", "qid")
_DOCUMENT_IDS = ("corpus-id", "corpus_id")
_LABELS = ("score", "label", "relevance")
_SIDES = {
    "pos": ("positive_ids", "pos_ids", "positive_id", "pos_id"),
    "neg": ("negative_ids", "neg_ids", "negative_id", "neg_id"),
}
_OWN_IDS = ("_id", "id", "docid", "doc_id", "corpus_id", "query_id", "qid")
_ABSENT = object()
_ID_KEYS = frozenset({*_QUERY_IDS, *_DOCUMENT_IDS, *_LABELS, "query", *_SIDES["pos"], *_SIDES["neg"]})


class TextSource(Protocol):
    """What is asked of a file of texts: a Source."""

    path: Path

    def rows(self) -> Iterator[Row]:
        """Yield every row."""

    def reread(self, offset: int) -> Row | None:
        """Return the row at an offset."""


@dataclass(frozen=True)
class _Judgement:
    """One row of ids: the query by its text or id, and each document by its id with a label."""

    row: Row
    query: str
    is_text: bool
    documents: tuple[tuple[str, Any], ...]
    is_list: bool


def join_texts(rows: Iterator[Row], open_texts: Callable[[str], TextSource | None]) -> Iterator[Row]:
    """Yield rows of ids with their texts, any others as they are; the judgements of a query become one row.

    Its labels make `pos` and `neg` where all labels of the file are 0 and 1, and `hits` with grades elsewhere; it has
    the place of its first judgement. `open_texts` opens the file of `corpus` or `queries`, where there is one. Raises
    DataError where they cannot be read.
    """
    first = next(rows, None)
    there = first.value.keys() if first and isinstance(first.value, dict) else set()
    if first is None or there.isdisjoint((*_QUERY_IDS, "query")) or there.isdisjoint((*_DOCUMENT_IDS, *_SIDES["pos"])):
        yield from chain([] if first is None else [first], rows)
        return
    found: list[_Judgement | Row] = [_read(row) for row in chain([first], rows)]
    judged = [one for one in found if isinstance(one, _Judgement)]
    documents = _Texts(open_texts("corpus"), {id_ for one in judged for id_, _ in one.documents})
    asked = {one.query for one in judged if not one.is_text}
    queries = _Texts(open_texts("queries") if asked else None, asked)
    graded = any(label not in (0, 1) for one in judged for _, label in one.documents)
    for one in _by_query(found):
        if isinstance(one, Row):
            yield one
            continue
        try:
            yield _build(one, documents, queries, graded=graded)
        except BadRowError as error:
            yield Row(one.row.line, one.row.raw, fault=error.fault)


def _read(row: Row) -> _Judgement | Row:
    """Return what a row says, or a row that is none with its fault."""
    if not _is_object(row):
        return row
    value: Mapping[str, Any] = row.value
    query = next((value[key] for key in ("query", *_QUERY_IDS) if value.get(key) not in (None, "")), None)
    single = next((value[key] for key in _DOCUMENT_IDS if key in value), _ABSENT)
    ids = [(single, read_number(next((value[key] for key in _LABELS if key in value), 1)))]
    if is_list := single is _ABSENT:
        sides = [(value.get(key), int(side == "pos")) for side, keys in _SIDES.items() for key in keys]
        listed = [(part if isinstance(part, list) else [part], label) for part, label in sides]
        ids = [(one, label) for part, label in listed for one in part if one is not None]
    wrong = next((one for one in (query, *(one for one, _ in ids)) if not isinstance(one, str | int)), None)
    if wrong is not None or query is None or not ids:
        return Row(row.line, row.raw, fault=build_fault("missing-key", "the row names no query, or no document, by id"))
    if not all(is_finite_number(label) for _, label in ids):
        return Row(row.line, row.raw, fault=build_fault("label-not-a-number", "the judgement has no finite number"))
    named = tuple((str(one), label) for one, label in ids)
    return _Judgement(row, str(query), bool(value.get("query")), named, is_list)


def _by_query(found: Iterable[_Judgement | Row]) -> Iterator[_Judgement | Row]:
    """Yield rows and judgements, those of one query that stand a row each as one, at the place of the first."""
    together: dict[tuple[str, bool], _Judgement | Row] = {}
    for number, one in enumerate(found):
        key = (f"{number}", False)
        if isinstance(one, _Judgement) and not one.is_list:
            key = (one.query, True)
            if isinstance(before := together.get(key), _Judgement):
                documents = before.documents + one.documents
                one = _Judgement(before.row, one.query, one.is_text, documents, is_list=False)  # noqa: PLW2901
        together[key] = one
    return iter(together.values())


def _build(one: _Judgement, documents: _Texts, queries: _Texts, *, graded: bool) -> Row:
    query = one.query if one.is_text else queries.read(one.query)
    texts = [(documents.read(id_), label) for id_, label in one.documents]
    value: dict[str, Any] = {"query": query}
    if graded:
        value["hits"] = [{"content": text, "label": label} for text, label in texts]
    else:
        value |= {side: [text for text, label in texts if label == wanted] for side, wanted in (("pos", 1), ("neg", 0))}
    if one.is_list:
        value |= {key: part for key, part in one.row.value.items() if key not in _ID_KEYS}
    return Row(one.row.line, one.row.raw if one.is_list else b"", value)


class _Texts:
    """The texts of a file by id: where each stands, or the text itself where the file cannot be read anew."""

    def __init__(self, source: TextSource | None, wanted: set[str]) -> None:
        self._source = source
        self._places: dict[str, int | str] = {}
        for row in source.rows() if source else ():
            id_ = next((row.value[key] for key in _OWN_IDS if key in row.value), None) if _is_object(row) else None
            if id_ is not None and str(id_) in wanted:
                text = find_passage(row.value)
                if text is not None:
                    self._places.setdefault(str(id_), text if row.offset is None else row.offset)

    def read(self, id_: str) -> str:
        """Return a text. Raises BadRowError where no row has the id."""
        place = self._places.get(id_)
        if isinstance(place, int) and self._source:
            row = self._source.reread(place)
            place = find_passage(row.value) if row and _is_object(row) else None
        if not isinstance(place, str):
            where = f"no row of {self._source.path.name}" if self._source else "there is no queries.jsonl, and nothing"
            raise bad_row("id-not-found", f"{where} has the id {quote(id_)} and a text")
        return place


def _is_object(row: Row) -> bool:
    return row.fault is None and isinstance(row.value, dict)
