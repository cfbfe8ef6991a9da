"""Repeated rows and contradictions: what a pass remembers of earlier rows, and those that wait to be merged."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import IO

import msgspec

from orchestrator.data.digests import (
    DIGEST_BYTES,
    NORMALISED,
    DigestMap,
    DigestSet,
    digest,
    document_key,
    loose_key,
    query_key,
)
from orchestrator.data.reasons import Fault
from orchestrator.data.rows import records
from orchestrator.data.rows.records import LabelledGroup, RankingGroup, Record, ScoredPair, is_relevant, merge_groups
from orchestrator.data.rows.texts import build_fault, quote

_NONE = (1 << 64) - 1


class GroupedSpool:
    """Groups lines by a number, on disk; 16 bytes of memory a group and 16 a line, whatever a line's length."""

    def __init__(self, spool: IO[bytes]) -> None:
        """Start empty; `spool` is an empty file to write and read, for as long as this lives."""
        self._spool = spool
        self._size = 0
        # Of each group its first and last line, of each line its place in the spool and the group's next line.
        self._first, self._last = array("Q"), array("Q")
        self._offsets, self._next = array("Q"), array("Q")

    def __len__(self) -> int:
        return len(self._first)

    def add(self, group: int, line: bytes) -> None:
        """Append a line, which ends with a line feed, to a group; the number `len(self)` begins a new one."""
        number = len(self._offsets)
        if group == len(self):
            self._first.append(number)
            self._last.append(number)
        else:
            self._next[self._last[group]] = number
            self._last[group] = number
        self._offsets.append(self._size)
        self._next.append(_NONE)
        self._size += self._spool.write(line)

    def read(self) -> Iterator[list[bytes]]:
        """Yield the lines of each group: groups in the order of their numbers, lines in that of their coming."""
        for number in self._first:
            lines = []
            while number != _NONE:
                self._spool.seek(self._offsets[number])
                lines.append(self._spool.readline())
                number = self._next[number]  # noqa: PLW2901  its lines are followed
            yield lines


class Merger:
    """Gathers labelled records, and hands on one group a query, in the order in which the queries were met."""

    def __init__(self, spool: IO[bytes]) -> None:
        """Start empty; `spool` is a temporary file."""
        self._rows = GroupedSpool(spool)
        self._paths: dict[str, int] = {}
        self._queries = DigestMap()

    def add(self, path: str, record: LabelledGroup) -> None:
        """Take in one record of the file `path`."""
        query = self._queries.put(digest((query_key(record.query),)), len(self._rows))
        place = self._paths.setdefault(path, len(self._paths))
        self._rows.add(query, msgspec.json.encode((place, record)) + b"\n")

    def groups(self) -> Iterator[tuple[str, LabelledGroup, int]]:
        """Yield each group with the path of its first row, and how many records it is made of."""
        paths = list(self._paths)
        for lines in self._rows.read():
            found = [_PARSER.decode(line) for line in lines]
            yield paths[found[0][0]], merge_groups([group for _, group in found]), len(found)


_PARSER = msgspec.json.Decoder(tuple[int, LabelledGroup])


class KnownLabels:
    """Which documents of which queries were met, and with which label; some 60 bytes each."""

    def __init__(self) -> None:
        self._labels = DigestMap()

    def take(self, record: LabelledGroup) -> LabelledGroup | Fault | None:
        """Return the record with the documents that are new, None where none is, or the fault of another label."""
        query = query_key(record.query)
        keys = [digest((query, document_key(text))) for text in record.documents]
        labels = [_LABEL.unpack(_FLOAT.pack(label))[0] for label in record.labels]
        new: list[int] = []
        for place, (key, label) in enumerate(zip(keys, labels, strict=True)):
            known = self._labels.get(key)
            if known is None:
                new.append(place)
            elif known != label:
                [earlier] = _FLOAT.unpack(_LABEL.pack(known))
                message = (
                    f"the document {quote(record.documents[place])} has the label {record.labels[place]:g} here, "
                    f"and {earlier:g} in an earlier row of this query"
                )
                return build_fault("conflicting-labels", message)
        for place in new:
            self._labels.put(keys[place], labels[place])
        if len(new) == len(keys):
            return record
        return record.pick(new) if new else None


_FLOAT = struct.Struct("<d")
_LABEL = struct.Struct("<Q")


_SIDES = ("negative", "positive")
_BITS = (1 << 64) - 1


class KnownSides:
    """Which documents of which queries were met, and on which side; some 60 bytes each.

    Queries and documents are one when `loose_key` makes them so. What is kept of a document is its side, and as much of
    a hash of the exact texts as fits beside it: it tells which rule found a contradiction.
    """

    def __init__(self) -> None:
        self._numbers = DigestMap()

    def take(self, record: Record) -> Fault | None:
        """Note the documents of a record, or return the fault of one that is on the other side too."""
        if isinstance(record, RankingGroup):
            # a document may answer a query under one instruction and not under another
            query = record.query if record.prompt is None else f"{record.query} \0{record.prompt}"
        elif isinstance(record, LabelledGroup | ScoredPair):
            query = record.split_text
        else:
            return None
        loose = digest((loose_key(query),))
        row: dict[bytes, int] = {}
        judged: Iterable[tuple[str, float]]
        if isinstance(record, ScoredPair):
            judged = [(record.text2, record.score)]
        else:
            judged = zip(record.documents, record.labels, strict=True)
        for text, label in judged:
            key = blake2b(loose_key(text).encode(), digest_size=DIGEST_BYTES, key=loose).digest()
            number = (hash((query, text)) << 1 | is_relevant(label)) & _BITS
            known = row.setdefault(key, number)
            if (known ^ number) & 1:
                code = "conflicting-labels" if isinstance(record, LabelledGroup) else "positive-among-negatives"
                return build_fault(
                    code, f"the document {quote(text)} is a positive and a negative{_name_rule(known, number)}"
                )
            known = self._numbers.put(key, number)
            if (known ^ number) & 1:
                here, there = _SIDES[number & 1], _SIDES[known & 1]
                message = f"the document {quote(text)} is a {here} here, and a {there} in an earlier row of this query"
                return build_fault("conflicting-labels", message + _name_rule(known, number))
        return None


def _name_rule(known: int, number: int) -> str:
    """Return what to say of the rule by which two mentions of a document are one: nothing where their texts agree."""
    return "" if known == number ^ 1 else f" ({NORMALISED})"


class EarlierRows:
    """Finds rows that were said before, and documents that a query has on both sides.

    Only a query that comes again makes its rows comparable: of its first row nothing is kept but where it stands, and
    it is read again when the second one comes. That takes 36 to 72 bytes, where digests of all its documents would take
    that much each, and most of the pass's time.
    """

    def __init__(self) -> None:
        self._positions = DigestMap()  # of each query that one row has so far, where that stands; 0: its rows are known
        self._rows = DigestSet()
        self._labels, self._sides = KnownLabels(), KnownSides()

    def take(
        self, record: Record, position: int | None, reread: Callable[[int], Record | None]
    ) -> Record | Fault | None:
        """Return the record, None where an earlier row said the same, or the fault of a document on both sides.

        Of a labelled record what is new is returned. `position` is from where `reread` reads the record again; None: it
        cannot be, or must be compared with itself.
        """
        if isinstance(record, LabelledGroup):
            new = self._labels.take(record)
            return (self._sides.take(new) or new) if isinstance(new, LabelledGroup) else new
        if isinstance(record, records.ClassText):
            own = hash(record.label) & _BITS
            if self._positions.put(digest((loose_key(record.text),)), own) != own:
                message = f"the text {quote(record.text)} has the class {record.label}, and another in an earlier row"
                return build_fault("conflicting-labels", message)
        if not isinstance(record, RankingGroup | ScoredPair):
            return record if self._rows.add(digest(record.identity)) else None
        key = digest((loose_key(record.split_text),))
        earlier = self._positions.get(key)
        if earlier is None:
            self._positions.put(key, position or 0)
            if position:
                return record
        elif earlier:
            self._positions.change(key, 0)
            if first := reread(earlier):
                self._note(first)
        return self._note(record)

    def _note(self, record: Record) -> Record | Fault | None:
        if not self._rows.add(digest(record.identity)):
            return None
        return self._sides.take(record) or record
