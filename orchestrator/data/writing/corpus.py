"""Eval groups become a retrieval task: one corpus of every distinct document, and each query's relevant ones.

Documents wait in a temporary file; memory holds their digests and places (some 60 bytes each) and the eval queries.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import BinaryIO

from orchestrator.data.digests import digest, document_key, query_key
from orchestrator.data.rows.groups import RankingGroup
from orchestrator.data.rows.labelled import LabelledGroup
from orchestrator.data.rows.records import Record
from orchestrator.data.writing.writers import format_line


@dataclass
class _Query:
    text: str
    source: str
    line: int
    relevant: set[int] = field(default_factory=set)  # numbers of documents, in the order in which they were met


class RetrievalWriter:
    """Gathers groups, and writes eval.jsonl and corpus.jsonl when it is closed."""

    def __init__(self, queries: BinaryIO, documents: BinaryIO, spool: BinaryIO, seed: int) -> None:
        """Write the queries and the corpus to two streams; `spool` is a temporary file, `seed` orders the corpus."""
        self._streams = (queries, documents)
        self._spool = spool
        self._seed = seed
        self._queries: dict[bytes, _Query] = {}
        self._numbers: dict[bytes, int] = {}
        self._places = array("Q", [0])
        self._ranks = array("Q")

    def add(self, record: Record) -> None:
        """Take in one group; groups of one query become one."""
        if not isinstance(record, RankingGroup | LabelledGroup):
            raise TypeError(record)
        key = digest((query_key(record.query),))
        if key not in self._queries:
            self._queries[key] = _Query(record.query, record.source, record.line)
        self._queries[key].relevant.update(self._take(text) for text in record.answers)
        for text in record.texts[1:]:  # the relevant ones among them are known already
            self._take(text)

    def _take(self, text: str) -> int:
        """Return the document's number, writing it down if it is new."""
        key = digest((document_key(text),))
        if key not in self._numbers:
            self._numbers[key] = len(self._ranks)
            data = text.encode()
            self._spool.write(data)
            self._places.append(self._places[-1] + len(data))
            shuffled = blake2b(key, digest_size=8, salt=str(self._seed).encode()[-16:])
            self._ranks.append(int.from_bytes(shuffled.digest(), "big"))
        return self._numbers[key]

    def close(self) -> None:
        """Write both files. A document's place depends on the seed and its text only, so that it tells no label."""
        queries, documents = self._streams
        order = sorted(range(len(self._ranks)), key=self._ranks.__getitem__)
        docids = array("Q", bytes(8 * len(order)))
        self._spool.flush()
        for rank, number in enumerate(order, 1):
            docids[number] = rank
            self._spool.seek(self._places[number])
            text = self._spool.read(self._places[number + 1] - self._places[number]).decode()
            documents.write(format_line({"docid": _name(rank), "text": text}))
        for count, query in enumerate(self._queries.values(), 1):
            relevant = [_name(rank) for rank in sorted(docids[number] for number in query.relevant)]
            row = {"qid": f"q{count:06d}", "query": query.text, "relevant": relevant}
            queries.write(format_line(row | {"source": query.source, "line": query.line}))


def _name(rank: int) -> str:
    return f"d{rank:06d}"
