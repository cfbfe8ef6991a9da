"""Lines of JSON, files that appear all together or not at all, and the rows of eval.jsonl and corpus.jsonl."""

from __future__ import annotations

import contextlib
import json
import os
import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from orchestrator.data.digests import digest, document_key, query_key
from orchestrator.data.reasons import refuse
from orchestrator.data.rows.records import Chat, ClassText, LabelledGroup, RankingGroup, Record, ScoredPair
from orchestrator.machine.files import create_part, remove_parts
from orchestrator.machine.rundir import RunDir

# Python's str.splitlines ends a line at these, and JSON leaves them as they are.
_LINE_BREAKS = {character.encode(): f"\\u{ord(character):04x}".encode() for character in "\x85\u2028\u2029"}


def format_line(row: dict[str, Any]) -> bytes:
    """Return one line of JSON Lines, UTF-8, the same bytes for the same row.

    It is written as Python's json.dumps does, which takes ten times as long where there are no fractions.
    """
    if _has_fraction(row):  # 1e16, which is 1e+16 in Python
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    else:
        line = msgspec.json.format(msgspec.json.encode(row), indent=0)
    if not line.isascii():
        for character, escaped in _LINE_BREAKS.items():
            if character in line:
                line = line.replace(character, escaped)
    return line + b"\n"


def _has_fraction(row: dict[str, Any]) -> bool:
    waiting: list[Any] = [row]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list | tuple):
            if not _PLAIN.issuperset(map(type, value)):
                waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif type(value) not in _PLAIN:
            return True
    return False


_PLAIN = {str, int, bool, type(None)}


class FileSet:
    """Files written beside their final names; `commit` renames them, leaving the block without it removes them."""

    def __init__(self) -> None:
        self._parts: list[tuple[Path, Path, BinaryIO]] = []  # each final name, the name until then, and the stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, part, stream in self._parts:
            with contextlib.suppress(OSError):  # a full disk, which is on its way up already
                stream.close()
            part.unlink(missing_ok=True)
        self._parts.clear()

    def open(self, path: Path) -> BinaryIO:
        """Return a stream whose contents will be `path`."""
        part, descriptor = create_part(path)
        stream = os.fdopen(descriptor, "wb", buffering=1 << 20)
        self._parts.append((path, part, stream))
        return stream

    def commit(self) -> None:
        """Give every file its name, once all are on disk; in the order in which they were opened."""
        for _, _, stream in self._parts:
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
        for path, part, _ in self._parts:
            part.replace(path)
        self._parts.clear()


def remove_files(paths: Sequence[Path]) -> None:
    """Remove files, where they exist, and what an interrupted `FileSet` left of them."""
    for path in paths:
        path.unlink(missing_ok=True)
        remove_parts(path)


_NAMES = RunDir(Path())
STATS, LEDGER = _NAMES.stats_json.name, _NAMES.ledger_json.name
EVAL, CORPUS = _NAMES.eval_jsonl.name, _NAMES.corpus_jsonl.name
QUERIES_A_CLASS = 100  # each of them lists all documents of its class
VALIDATION, TRAIN = _NAMES.validation_jsonl.name, _NAMES.train_jsonl.name
SOURCES = _NAMES.train_sources.name
FAILED_LEDGER = "ledger.failed.json"


def format_json(value: object) -> bytes:
    """Return a JSON file's bytes, the same for the same value."""
    return (json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()


def refuse_input_as_output(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raise DataError where a file to read would be overwritten."""
    read = set(map(os.path.realpath, inputs))
    for out in outputs:
        if os.path.realpath(out) in read:
            raise refuse("input-is-output", "this file is read, and would be overwritten", out)


def refuse_existing(outs: Iterable[Path], *, force: bool | None = None) -> None:
    """Raise DataError for an output that is there already, without `force`; None: the command has no such option."""
    for out in outs:
        if (out.exists() or out.is_symlink()) and not force:
            hint = None if force is None else "name another one, or give --force"
            raise refuse("output-exists", "this file exists already", out, hint=hint)


def require_new_rows(outs: Sequence[Path], inputs: Iterable[Path] = (), *, force: bool | None = None) -> None:
    """Raise DataError for an output that is read, is there already (`refuse_existing`), or is not named JSON Lines.

    The first of `outs` holds the rows.
    """
    refuse_input_as_output(inputs, outs)
    refuse_existing(outs, force=force)
    if outs[0].suffix.lower() not in {".jsonl", ".ndjson"}:
        hint = f"name it {outs[0].stem or 'rows'}.jsonl"
        raise refuse("unknown-ending", "what is written is JSON Lines, and the name says otherwise", outs[0], hint=hint)


def build_eval_row(group: RankingGroup | LabelledGroup, number: int, seed: int) -> dict[str, Any]:
    """Return the canonical form of the `number`-th eval group, documents shuffled, labels from 0 to 1.

    Order and docids carry no label: measures break ties by docid, so that numbering positives first would give a
    constant scorer a perfect rank. The order depends on the seed and the query only, not on the row's place.
    """
    labels = [int(label) if label in {0, 1} else label for label in group.labels]
    labelled = list(zip(group.documents, labels, strict=True))
    prompt = group.prompt
    random.Random(f"{seed}:{query_key(group.query)}").shuffle(labelled)  # noqa: S311 - not for secrets
    qid = f"q{number:06d}"
    documents = [
        {"docid": f"{qid}.{place}", "text": text, "label": label} for place, (text, label) in enumerate(labelled)
    ]
    row = {"qid": qid, "query": group.query, "documents": documents}
    return row | ({} if prompt is None else {"prompt": prompt})


class EvalWriter:
    """Writes each record as it comes, numbered from 1."""

    def __init__(self, stream: BinaryIO, seed: int) -> None:
        """Write to `stream`; `seed` orders the documents of groups."""
        self._stream = stream
        self._seed = seed
        self._number = 0

    def add(self, record: Record) -> None:
        """Write one record, with its place."""
        self._number += 1
        if isinstance(record, RankingGroup | LabelledGroup):
            row = build_eval_row(record, self._number, self._seed)
        elif isinstance(record, ScoredPair):
            row = {"pid": f"p{self._number:06d}", "text1": record.text1, "text2": record.text2, "score": record.score}
        elif isinstance(record, Chat):
            *asked, answer = record.messages  # which is the reference
            messages = [{"role": message.role, "content": message.content} for message in asked]
            row = {"id": f"r{self._number:06d}", "messages": messages, "reference": answer.content}
        else:
            raise TypeError(record)
        self._stream.write(format_line(row | {"source": record.source, "line": record.line}))

    def close(self) -> None:
        """Nothing is left to write."""


@dataclass
class _Query:
    text: str
    source: str
    line: int
    relevant: set[int] = field(default_factory=set)  # numbers of documents, in the order in which they were met
    class_name: str | None = None  # of a text with a class


class RetrievalWriter:
    """Gathers groups, and writes eval.jsonl and corpus.jsonl when it is closed; texts of a class are both by turns."""

    def __init__(self, queries: BinaryIO, documents: BinaryIO, spool: BinaryIO, seed: int) -> None:
        """Write the queries and the corpus to two streams; `spool` is a temporary file, `seed` orders the corpus."""
        self._streams = (queries, documents)
        self._spool = spool
        self._seed = seed
        self._queries: dict[bytes, _Query] = {}
        self._numbers: dict[bytes, int] = {}
        self._places = array("Q", [0])
        self._ranks = array("Q")
        self._classes: dict[str, tuple[list[_Query], set[int]]] = {}

    def add(self, record: Record) -> None:
        """Take in one group; groups of one query become one."""
        if isinstance(record, ClassText):
            queries, documents = self._classes.setdefault(record.label, ([], set()))
            if len(queries) == min(len(documents), QUERIES_A_CLASS):
                documents.add(self._take(record.text))
            else:
                queries.append(_Query(record.text, record.source, record.line, documents, record.label))
                self._queries[digest((record.text,))] = queries[-1]
            return
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
        if not self._queries:
            raise refuse("no-rows-kept", "no two eval texts are of one class: none finds another", EVAL)
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
            row |= {} if query.class_name is None else {"class": query.class_name}
            queries.write(format_line(row | {"source": query.source, "line": query.line}))


def _name(rank: int) -> str:
    return f"d{rank:06d}"
