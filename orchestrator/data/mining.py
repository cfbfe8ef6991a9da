"""Hard negatives, before and after the search: rows become queries, positives and one corpus; finds become rows.

What makes two queries or two documents the same is as everywhere (digests.py), so that no positive of a query, in
whatever row and spelling, can come back as its negative.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.data.digests import digest, loose_key
from orchestrator.data.mining_corpus import CorpusFile
from orchestrator.data.reading.readers import Source, open_source
from orchestrator.data.reasons import Fault
from orchestrator.data.row_documents import (
    RowDocuments,
    find_unread_documents,
    find_unread_labels,
    read_documents,
    read_value,
)
from orchestrator.data.rows.shapes import normalise, read_scores_as_labels
from orchestrator.data.rows.texts import build_fault, is_blank, is_finite_number
from orchestrator.data.rows.unread import UnreadTexts
from orchestrator.data.sides import LabelSources
from orchestrator.data.verdict import BadRows
from orchestrator.data.writing.writers import FileSet, format_line
from orchestrator.errors import DataError
from orchestrator.recipe.relevance import is_relevant

QUERIES_NAME, CORPUS_NAME, MINED_NAME = "queries.jsonl", "corpus.jsonl", "mined.jsonl"


@dataclass(frozen=True)
class MiningRows:
    """Where queries, positives and documents come from; a label is scaled: (label - min_label) / (max - min)."""

    files: tuple[Path, ...]
    corpus_files: tuple[Path, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    min_label: float = 0.0
    max_label: float = 1.0
    max_dropped: int = 0
    scores_as_labels: bool | None = None
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class MiningInput:
    """What the files hold: counts, and each file with its hash."""

    queries: int
    without_positive: int
    documents: int
    rows: int
    dropped: dict[str, int]
    inputs: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class MiningOutput:
    """What was written: rows, and the queries that have fewer mined negatives than asked for, or none at all."""

    rows: int
    negatives: int
    with_too_few: int
    with_none: int
    positives_removed: int


@dataclass
class _Query:
    text: str
    positives: array[int] = field(default_factory=lambda: array("Q"))
    negatives: array[int] = field(default_factory=lambda: array("Q"))


class _Gathering:
    """State of one pass: queries with the numbers of their documents, and the corpus on its way to disk."""

    def __init__(self, rows: MiningRows, corpus: BinaryIO) -> None:
        self.rows = rows
        self.corpus = corpus
        self.queries: dict[bytes, _Query] = {}
        self.documents: dict[bytes, int] = {}
        self.rows_in = 0
        self.sources = LabelSources()
        self.unread = UnreadTexts()
        self.inputs: list[dict[str, Any]] = []
        self.bad = BadRows()

    def take_rows(self, path: Path) -> None:
        source = open_source(path)
        for row in source.rows():
            self.rows_in += 1
            value = read_value(row, source, self.rows.columns)
            found = row.fault or self._read(value, path, row.line)
            fault = found if isinstance(found, Fault) else self._take(found)
            if fault:
                self.bad.add(fault, path, row.line)
        self._note(path, "rows", source)

    def _read(self, value: Any, path: Path, line: int) -> RowDocuments | Fault:
        rows, columns = self.rows, self.rows.columns
        if not isinstance(value, dict):
            return read_documents(value, columns, path=path, line=line)
        row = normalise(value, columns)
        if isinstance(row, Fault):
            return row
        self.sources.note(row, str(path), line)
        graded = read_scores_as_labels(row, rows.min_label, rows.max_label) if rows.scores_as_labels else row
        if isinstance(graded, Fault):
            return graded
        found = read_documents(graded, {}, path=path, line=line)
        if isinstance(found, RowDocuments):
            unread = find_unread_documents(graded, found, rows.ignore)
            self.unread.note((*unread, *find_unread_labels(graded, found, rows.ignore)), str(path), line)
        return found

    def take_corpus(self, path: Path) -> None:
        source = CorpusFile(path)
        for line, text in source.texts():
            if isinstance(text, Fault):
                self.bad.add(text, path, line)
            else:
                self._number(text)
        self._note(path, "corpus", source)

    def _judge(self, found: RowDocuments) -> list[bool] | Fault:
        """Return of each document whether it is relevant, or the row's first fault."""
        if is_blank(found.query):
            return build_fault("empty-query", '"query" is empty or white space')
        if any(map(is_blank, found.documents)):
            return build_fault("empty-text", "a document is empty or white space")
        if found.shape == "ranking":  # its labels are 1 and 0 whatever the scale of others
            return [label == 1 for label in found.labels]
        lowest, highest = self.rows.min_label, self.rows.max_label
        judged = []
        for label in found.labels:
            if not is_finite_number(label):
                return build_fault("missing-key", 'a document has no number as its "label"', 'write "label": 1 or 0')
            if not lowest <= label <= highest:
                message = f'"label" is {label:g}, and labels are between {lowest:g} and {highest:g}'
                return build_fault("wrong-type", message, "name the range with --min-label and --max-label")
            judged.append(is_relevant((label - lowest) / (highest - lowest)))
        return judged

    def _take(self, found: RowDocuments) -> Fault | None:
        """Note what a row says of its query; return its fault where it cannot be used."""
        relevant = self._judge(found)
        if isinstance(relevant, Fault):
            return relevant
        query = self.queries.setdefault(digest((loose_key(found.query),)), _Query(found.query))
        for text, fits in zip(found.documents, relevant, strict=True):
            number, numbers = self._number(text), query.positives if fits else query.negatives
            if number not in numbers:
                numbers.append(number)
        return None

    def _number(self, text: str) -> int:
        """Return the number of a document in the corpus; a new one is written there."""
        key = digest((loose_key(text),))
        if key not in self.documents:
            self.documents[key] = len(self.documents)
            self.corpus.write(format_line({"text": text}))
        return self.documents[key]

    def _note(self, path: Path, role: str, source: Source | CorpusFile) -> None:
        self.inputs.append({"path": str(path), "role": role, "rows": source.rows_in, "sha256": source.sha256})


def gather_for_mining(rows: MiningRows, folder: Path) -> MiningInput:
    """Write queries.jsonl and corpus.jsonl into `folder`: {"query", "positives", "negatives"} and {"text"}, by number.

    The corpus is every document of the rows and of the corpus files, each once. Raises DataError when more rows are bad
    than allowed, or no query has a positive.
    """
    with FileSet() as files:
        queries, corpus = files.open(folder / QUERIES_NAME), files.open(folder / CORPUS_NAME)
        gathering = _Gathering(rows, corpus)
        for path in rows.files:
            gathering.take_rows(path)
        for path in rows.corpus_files:
            gathering.take_corpus(path)
        gathering.bad.require_few(rows.max_dropped)
        if unread := gathering.unread.problems():
            raise DataError.from_problems(unread)
        if rows.scores_as_labels is None:
            ranged = (rows.min_label, rows.max_label) != (0, 1)
            if unclear := gathering.sources.problem(ranged=ranged, needs_negatives=False):
                raise DataError.from_problems(unclear)
        found = [query for query in gathering.queries.values() if query.positives]
        if not found:
            raise DataError(
                f"no-rows-kept: none of {gathering.rows_in} rows says which document is relevant to its query",
                hint="give rows with a positive (or a label of at least 0.5)",
            )
        for query in found:
            negatives = [number for number in query.negatives if number not in query.positives]
            line = {"query": query.text, "positives": list(query.positives), "negatives": negatives}
            queries.write(format_line(line))
        files.commit()
    return MiningInput(
        queries=len(found),
        without_positive=len(gathering.queries) - len(found),
        documents=len(gathering.documents),
        rows=gathering.rows_in,
        dropped=dict(sorted(gathering.bad.counts.items())),
        inputs=tuple(gathering.inputs),
    )


def write_mined_rows(
    folder: Path, streams: tuple[BinaryIO, BinaryIO], *, wanted: int, keep_negatives: bool
) -> MiningOutput:
    """Write {"query", "pos", "neg"} rows and, for each, the ranks and scores of its mined negatives.

    `folder` holds what `gather_for_mining` wrote and what the search found (mined.jsonl); `streams` are those of the
    rows and of their lineage. A query without any negative is left out.
    """
    rows, negatives, too_few, none, removed = 0, 0, 0, 0, 0
    with (folder / CORPUS_NAME).open("rb") as corpus:
        texts = _Texts(corpus)
        for query, finds in zip(_lines(folder / QUERIES_NAME), _lines(folder / MINED_NAME), strict=True):
            kept = query["negatives"] if keep_negatives else []
            found = [find for find in finds["negatives"] if find["document"] not in query["positives"]]
            removed += len(finds["negatives"]) - len(found)
            new = [find for find in found if find["document"] not in kept]
            too_few += 0 < len(found) < wanted
            none += not found
            if not kept and not new:
                continue
            numbers = [*kept, *(find["document"] for find in new)]
            row = {"query": query["query"], "pos": texts.read(query["positives"]), "neg": texts.read(numbers)}
            lineage = {
                "query": query["query"],
                "positive_scores": finds["positive_scores"],
                "kept": len(kept),
                "mined": [{"rank": find["rank"], "score": find["score"]} for find in new],
            }
            streams[0].write(format_line(row))
            streams[1].write(format_line(lineage))
            rows, negatives = rows + 1, negatives + len(new)
    return MiningOutput(rows, negatives, too_few, none, removed)


class _Texts:
    """The documents of a corpus by number, read where they stand."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offsets = array("Q")
        offset = 0
        for raw in stream:
            self._offsets.append(offset)
            offset += len(raw)

    def read(self, numbers: Sequence[int]) -> list[str]:
        """Return the texts of these documents, in that order."""
        found = []
        for number in numbers:
            self._stream.seek(self._offsets[number])
            found.append(json.loads(self._stream.readline())["text"])
        return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        for raw in stream:
            yield json.loads(raw)
