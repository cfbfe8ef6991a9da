"""Eval records become the rows of eval.jsonl, in the form of their kind, or a retrieval task over one corpus."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.data.digests import digest, document_key, query_key
from orchestrator.data.rows.records import Chat, LabelledGroup, RankingGroup, Record, ScoredPair
from orchestrator.data.writing.writers import CORPUS, EVAL, FileSet, format_line


def build_eval_row(group: RankingGroup | LabelledGroup, number: int, seed: int) -> dict[str, Any]:
    """Return the canonical form of the `number`-th eval group, documents shuffled, labels from 0 to 1.

    Order and docids carry no label: measures break ties by docid, so that numbering positives first would give a
    constant scorer a perfect rank. The order depends on the seed and the query only, not on the row's place.
    """
    labelled: list[tuple[str, float]]
    if isinstance(group, LabelledGroup):
        labels = [int(label) if label in {0, 1} else label for label in group.labels]
        labelled = list(zip(group.documents, labels, strict=True))
    else:
        labelled = [(text, label) for texts, label in ((group.positives, 1), (group.negatives, 0)) for text in texts]
    prompt = group.prompt if isinstance(group, RankingGroup) else None
    random.Random(f"{seed}:{query_key(group.query)}").shuffle(labelled)  # noqa: S311 - not for secrets
    qid = f"q{number:06d}"
    documents = [
        {"docid": f"{qid}.{place}", "text": text, "label": label} for place, (text, label) in enumerate(labelled)
    ]
    row = {"qid": qid, "query": group.query, "documents": documents}
    return row | ({} if prompt is None else {"prompt": prompt}) | _place(group)


def build_pair_row(pair: ScoredPair, number: int) -> dict[str, Any]:
    """Return the canonical form of the `number`-th pair."""
    return {"pid": f"p{number:06d}", "text1": pair.text1, "text2": pair.text2, "score": pair.score} | _place(pair)


def build_chat_row(chat: Chat, number: int) -> dict[str, Any]:
    """Return the canonical form of the `number`-th conversation: its last answer is the reference."""
    *asked, answer = chat.messages
    messages = [{"role": message.role, "content": message.content} for message in asked]
    return {"id": f"r{number:06d}", "messages": messages, "reference": answer.content} | _place(chat)


def _place(record: Record) -> dict[str, Any]:
    return {"source": record.source, "line": record.line}


class EvalWriter:
    """Writes each record as it comes, numbered from 1."""

    def __init__(self, stream: BinaryIO, seed: int) -> None:
        """Write to `stream`; `seed` orders the documents of groups."""
        self._stream = stream
        self._seed = seed
        self._number = 0

    def add(self, record: Record) -> None:
        """Write one record."""
        self._number += 1
        self._stream.write(format_line(self._build(record)))

    def close(self) -> None:
        """Nothing is left to write."""

    def _build(self, record: Record) -> dict[str, Any]:
        if isinstance(record, RankingGroup | LabelledGroup):
            return build_eval_row(record, self._number, self._seed)
        if isinstance(record, ScoredPair):
            return build_pair_row(record, self._number)
        if isinstance(record, Chat):
            return build_chat_row(record, self._number)
        raise TypeError(record)


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


def open_eval(
    folder: Path, files: FileSet, *, seed: int, spool: Callable[[], BinaryIO] | None
) -> EvalWriter | RetrievalWriter:
    """Open eval.jsonl; with a `spool`, which opens a temporary file, as queries over a corpus.jsonl."""
    stream = files.open(folder / EVAL)
    if spool is None:
        return EvalWriter(stream, seed)
    return RetrievalWriter(stream, files.open(folder / CORPUS), spool(), seed)
