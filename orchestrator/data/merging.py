"""Labelled rows of one query become one group, however far apart they stand.

Records wait in a temporary file; memory holds a digest of each query, and two numbers of each record (about 80 bytes a
query and 16 a record).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import IO

from orchestrator.data.chains import Chains
from orchestrator.data.digests import DigestMap, digest, document_key, query_key
from orchestrator.data.reasons import Fault
from orchestrator.data.rows.labelled import LabelledGroup, merge_groups
from orchestrator.data.rows.texts import build_fault, quote


class Merger:
    """Gathers labelled records, and hands on one group a query, in the order in which the queries were met."""

    def __init__(self, spool: IO[bytes]) -> None:
        """Start empty; `spool` is a temporary file."""
        self._chains = Chains(spool)
        self._paths: dict[str, int] = {}
        self._queries = DigestMap()

    def add(self, path: str, record: LabelledGroup) -> None:
        """Take in one record of the file `path`."""
        query = self._queries.put(digest((query_key(record.query),)), len(self._chains))
        place = self._paths.setdefault(path, len(self._paths))
        row = (place, record.source, record.line, record.query, record.documents, record.labels, record.scores)
        self._chains.add(query, json.dumps(row).encode() + b"\n")

    def groups(self) -> Iterator[tuple[str, LabelledGroup, int]]:
        """Yield each group with the path of its first row, and how many records it is made of."""
        paths = list(self._paths)
        for lines in self._chains.read():
            found = [_parse(line) for line in lines]
            yield paths[found[0][0]], merge_groups([group for _, group in found]), len(found)


def _parse(line: bytes) -> tuple[int, LabelledGroup]:
    place, source, number, query, documents, labels, scores = json.loads(line)
    scored = None if scores is None else tuple(scores)
    return place, LabelledGroup(query, tuple(documents), tuple(labels), scored, source, number)


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
