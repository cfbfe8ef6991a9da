"""Hard negatives, before and after the search: rows become queries, positives and one corpus; finds become rows.

What makes two queries or two documents the same is as everywhere (digests.py), so that no positive of a query, in
whatever row and spelling, can come back as its negative.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.data.digests import digest, loose_key
from orchestrator.data.judged import Hit, Judged, find_unread_keys, open_row, require_judged, scale_label
from orchestrator.data.ledger import BadRows
from orchestrator.data.reading.json_rows import Row as Line
from orchestrator.data.reading.readers import TEXT_LINES, Source
from orchestrator.data.reasons import RepeatedProblems
from orchestrator.data.request import RowFiles
from orchestrator.data.rows.records import is_relevant
from orchestrator.data.rows.shapes import read_scores_as_labels
from orchestrator.data.rows.texts import (
    BadRowError,
    bad_row,
    is_blank,
    is_finite_number,
    require_encodable,
    require_type,
)
from orchestrator.data.rows.unread import note_unread
from orchestrator.data.sides import LabelSources
from orchestrator.data.writers import FileSet, format_line
from orchestrator.errors import DataError

_TEXT_ROW = 'a row is {"text": "…"}'
QUERIES_NAME, CORPUS_NAME, MINED_NAME = "queries.jsonl", "corpus.jsonl", "mined.jsonl"


@dataclass(frozen=True)
class MiningInput:
    """What the files hold, by the names of the ledger's counts, and each file with its hash."""

    rows: int
    dropped: dict[str, int]
    documents: int
    queries: int
    queries_without_positive: int
    inputs: tuple[dict[str, Any], ...]


@dataclass
class MiningOutput:
    """What was written, by the names of the ledger's counts; too few mined negatives are fewer than asked for."""

    rows_written: int = 0
    mined: int = 0
    queries_with_too_few: int = 0
    queries_with_none: int = 0
    positives_removed: int = 0


@dataclass
class _Query:
    text: str
    positives: array[int] = field(default_factory=lambda: array("Q"))
    negatives: array[int] = field(default_factory=lambda: array("Q"))


class _Gathering:
    """State of one pass: queries with the numbers of their documents, and the corpus on its way to disk."""

    def __init__(self, rows: RowFiles, corpus: BinaryIO) -> None:
        self.rows = rows
        self.label_range = rows.rules.label_range
        self.corpus = corpus
        self.queries: dict[bytes, _Query] = {}
        self.documents: dict[bytes, int] = {}
        self.rows_in = 0
        self.sources = LabelSources()
        self.unread = RepeatedProblems()
        self.inputs: list[dict[str, Any]] = []
        self.bad = BadRows()

    def take_file(self, path: Path, *, is_corpus: bool) -> None:
        """Take the rows of a file, or of a corpus every row of {"text"} and every line of a .txt file with a text."""
        ending = TEXT_LINES if is_corpus and path.suffix.lower() == ".txt" else None
        source = Source(path, ending=ending, encoding=self.rows.rules.encoding)
        for line in source.rows():
            self.rows_in += not is_corpus
            try:
                if is_corpus:
                    self._number(_read_text(line))
                else:
                    self._take(self._read(line, path, is_table=source.is_text_table))
            except BadRowError as error:
                self.bad.add(error.fault, path, line.line)
        role = "corpus" if is_corpus else "rows"
        self.inputs.append({"path": str(path), "role": role, "rows": source.rows_in, "sha256": source.sha256})

    def _read(self, line: Line, path: Path, *, is_table: bool) -> Judged:
        """Return what a row says of its documents. Raises BadRowError."""
        rules = self.rows.rules
        row = open_row(line, rules.columns, is_table=is_table).row
        self.sources.note(row, str(path), line.line)
        if rules.scores_as_labels:
            row = read_scores_as_labels(row, *self.label_range)
        found = require_judged(row)
        note_unread(self.unread, find_unread_keys(row, found, rules.ignore, judgements=True), str(path), line.line)
        return found

    def _is_relevant(self, hit: Hit, found: Judged) -> bool:
        if found.form == "ranking":  # its labels are 1 and 0 whatever the scale of others
            return bool(hit.label)
        if not is_finite_number(hit.label):
            raise bad_row("missing-key", 'a document has no number as its "label"', 'write "label": 1 or 0')
        return is_relevant(scale_label(hit.label, "", *self.label_range))

    def _take(self, found: Judged) -> None:
        """Note what a row says of its query. Raises BadRowError where it cannot be used."""
        if is_blank(found.query):
            raise bad_row("empty-query", '"query" is empty or white space')
        if any(map(is_blank, found.texts)):
            raise bad_row("empty-text", "a document is empty or white space")
        relevant = [self._is_relevant(hit, found) for hit in found.hits]
        query = self.queries.setdefault(digest((loose_key(found.query),)), _Query(found.query))
        for text, fits in zip(found.texts, relevant, strict=True):
            number, numbers = self._number(text), query.positives if fits else query.negatives
            if number not in numbers:
                numbers.append(number)

    def _number(self, text: str) -> int:
        """Return the number of a document in the corpus; a new one is written there."""
        key = digest((loose_key(text),))
        if key not in self.documents:
            self.documents[key] = len(self.documents)
            self.corpus.write(format_line({"text": text}))
        return self.documents[key]


def gather_for_mining(rows: RowFiles, folder: Path, corpus_files: Sequence[Path] = ()) -> MiningInput:
    """Write queries.jsonl and corpus.jsonl into `folder`: {"query", "positives", "negatives"} and {"text"}, by number.

    The corpus is every document of the rows and of the corpus files, each once. Raises DataError when more rows are bad
    than allowed, or no query has a positive.
    """
    with FileSet() as files:
        queries, corpus = files.open(folder / QUERIES_NAME), files.open(folder / CORPUS_NAME)
        gathering = _Gathering(rows, corpus)
        for path in rows.files:
            gathering.take_file(path, is_corpus=False)
        for path in corpus_files:
            gathering.take_file(path, is_corpus=True)
        gathering.bad.require_few(rows.max_dropped)
        if unread := gathering.unread.problems():
            raise DataError.from_problems(unread)
        if rows.rules.scores_as_labels is None:
            ranged = gathering.label_range != (0, 1)
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
        gathering.rows_in,
        dict(sorted(gathering.bad.counts.items())),
        len(gathering.documents),
        len(found),
        len(gathering.queries) - len(found),
        tuple(gathering.inputs),
    )


def write_mined_rows(
    folder: Path, streams: tuple[BinaryIO, BinaryIO], *, wanted: int, keep_negatives: bool
) -> MiningOutput:
    """Write {"query", "pos", "neg"} rows and, for each, the ranks and scores of its mined negatives.

    `folder` holds what `gather_for_mining` wrote and what the search found (mined.jsonl); `streams` are those of the
    rows and of their lineage. A query without any negative is left out.
    """
    made = MiningOutput()
    with (folder / CORPUS_NAME).open("rb") as corpus:
        texts = _Texts(corpus)
        for query, finds in zip(_lines(folder / QUERIES_NAME), _lines(folder / MINED_NAME), strict=True):
            kept = query["negatives"] if keep_negatives else []
            found = [find for find in finds["negatives"] if find["document"] not in query["positives"]]
            made.positives_removed += len(finds["negatives"]) - len(found)
            new = [find for find in found if find["document"] not in kept]
            made.queries_with_too_few += 0 < len(found) < wanted
            made.queries_with_none += not found
            if not kept and not new:
                continue
            numbers = [*kept, *(find["document"] for find in new)]
            row = {"query": query["query"], "pos": list(map(texts.read, query["positives"]))}
            row |= {"neg": list(map(texts.read, numbers))}
            lineage = {
                "query": query["query"],
                "positive_scores": finds["positive_scores"],
                "kept": len(kept),
                "mined": [{"rank": find["rank"], "score": find["score"]} for find in new],
            }
            streams[0].write(format_line(row))
            streams[1].write(format_line(lineage))
            made.rows_written += 1
            made.mined += len(new)
    return made


class _Texts:
    """The documents of a corpus by number, read where they stand."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offsets = array("Q", accumulate(map(len, stream), initial=0))

    def read(self, number: int) -> str:
        self._stream.seek(self._offsets[number])
        return str(json.loads(self._stream.readline())["text"])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        for raw in stream:
            yield json.loads(raw)


def _read_text(line: Line) -> str:
    """Return the text of a row of a corpus. Raises BadRowError."""
    if line.fault:
        raise BadRowError(line.fault)
    text = line.value
    if isinstance(text, dict):
        if "text" not in text:
            raise bad_row("missing-key", 'the key "text" is missing', _TEXT_ROW)
        text = text["text"]
    require_type(text, str, '"text"', _TEXT_ROW)
    require_encodable([('"text"', text)])
    if is_blank(text):
        raise bad_row("empty-text", '"text" is empty or white space')
    return str(text)
