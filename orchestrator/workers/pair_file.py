"""A file of pairs as places and digests: its texts stay on disk until they are scored."""

from __future__ import annotations

import json
from array import array
from collections.abc import Container, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.workers.failure import WorkerError

DIGEST_BYTES = 16


@dataclass(frozen=True)
class PairFile:
    """The pairs of an open file: of each line its place and the digest of its texts; `digests`: of each its first line.

    A pair's index counts the lines that hold one, from 0.
    """

    path: Path
    stream: BinaryIO
    offsets: array[int]
    lines: array[int]
    lengths: array[int]
    keys: bytes
    digests: dict[bytes, int]

    def digest(self, index: int) -> bytes:
        """Return the digest of a pair's texts."""
        return self.keys[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def read(self, index: int) -> tuple[str, str]:
        """Return query and document of a pair."""
        row = self._row(index)
        return row["query"], row["document"]

    def where(self, index: int) -> str:
        """Return a pair's place and id, for a message."""
        return f"{self.path}:{self.lines[index]}: pair {self._row(index)['pid']}"

    def order_longest_first(self, known: Container[bytes]) -> list[int]:
        """Return the first place of each pair that is not known: memory runs out early or never."""
        missing = [index for key, index in self.digests.items() if key not in known]
        return sorted(missing, key=lambda index: (-self.lengths[index], index))

    def identified(self) -> Iterator[tuple[str, bytes]]:
        """Yield id and digest of every pair, in the order of the file."""
        for index in range(len(self.offsets)):
            yield self._row(index)["pid"], self.digest(index)

    def _row(self, index: int) -> dict[str, Any]:
        self.stream.seek(self.offsets[index])
        row: dict[str, Any] = json.loads(self.stream.readline())
        return row


def read_pair_file(path: Path) -> PairFile:
    """Return the pairs of a file. Raises WorkerError for a line that holds none, or a file without any."""
    offsets, lines, lengths, keys = array("Q"), array("Q"), array("Q"), bytearray()
    digests: dict[bytes, int] = {}
    try:
        stream = path.open("rb")
    except OSError as error:
        raise WorkerError(f"{path}: the pairs cannot be read: {error.strerror}") from error
    offset = 0
    for number, raw in enumerate(stream, start=1):
        if raw.strip():
            query, document = parse_pair(raw, f"{path}:{number}")
            key = digest_pair(query, document)
            digests.setdefault(key, len(offsets))
            offsets.append(offset)
            lines.append(number)
            lengths.append(len(query) + len(document))
            keys += key
        offset += len(raw)
    if not offsets:
        raise WorkerError(f"{path}: nothing to score")
    return PairFile(path, stream, offsets, lines, lengths, bytes(keys), digests)


def parse_pair(raw: bytes, where: str) -> tuple[str, str]:
    """Return query and document of one line. Raises WorkerError for any other line."""
    try:
        row = json.loads(raw)
    except ValueError:
        row = None
    values = [row.get(name) for name in ("pid", "query", "document")] if isinstance(row, dict) else []
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) != 3:  # noqa: PLR2004
        raise WorkerError(f'{where}: not {{"pid", "query", "document"}} with three texts; write the pairs again')
    return texts[1], texts[2]


def digest_pair(query: str, document: str) -> bytes:
    """Return what a pair's score is kept under: its texts decide, not the id that a file gives it."""
    state = blake2b(digest_size=DIGEST_BYTES)
    for text in (query, document):
        data = text.encode(errors="surrogatepass")
        state.update(len(data).to_bytes(8, "little") + data)
    return state.digest()
