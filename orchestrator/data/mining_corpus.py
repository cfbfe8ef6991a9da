"""The documents of a corpus file: {"text"} rows of any file that Orch reads, or the lines of a .txt file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.reading.json_rows import NotUtf8Error
from orchestrator.data.reading.readers import SAMPLE_BYTES, build_encoding_error, open_source, require_readable
from orchestrator.data.reasons import Fault, refuse
from orchestrator.data.rows.texts import build_fault, find_surrogate, is_blank, name_type

PLAIN = ".txt"
_BOM = b"\xef\xbb\xbf"


@dataclass
class CorpusFile:
    """One file of documents; `rows_in` and `sha256` are complete when `texts` has ended."""

    path: Path
    rows_in: int = 0
    sha256: str = ""

    def texts(self) -> Iterator[tuple[int, str | Fault]]:
        """Yield line and text, or why a row has none. Raises DataError when the file cannot be read."""
        if self.path.suffix.lower() == PLAIN:
            yield from self._plain_lines()
            return
        source = open_source(self.path)
        for row in source.rows():
            yield row.line, row.fault or _read_text(row.value)
        self.rows_in, self.sha256 = source.rows_in, source.sha256

    def _plain_lines(self) -> Iterator[tuple[int, str | Fault]]:
        """Yield the lines that are not empty; each is one document."""
        require_readable(self.path, ending=".jsonl")
        state = hashlib.sha256()
        try:
            with self.path.open("rb") as stream:
                for line, raw in enumerate(stream, 1):
                    state.update(raw)
                    text = self._decode(raw.removeprefix(_BOM), line).strip()
                    if not is_blank(text):
                        self.rows_in += 1
                        yield line, text
        except OSError as error:
            raise refuse("not-readable", f"the file cannot be read: {error.strerror}", self.path) from error
        self.sha256 = state.hexdigest()

    def _decode(self, raw: bytes, line: int) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            wrong = NotUtf8Error(line, f"byte {error.start + 1} of the line is not UTF-8", raw)
            raise build_encoding_error(self.path, wrong, raw[:SAMPLE_BYTES]) from error


def _read_text(value: Any) -> str | Fault:
    text = value.get("text") if isinstance(value, dict) else value
    if isinstance(value, dict) and "text" not in value:
        return build_fault("missing-key", 'the key "text" is missing', 'a row is {"text": "…"}')
    if not isinstance(text, str):
        return build_fault("wrong-type", f'"text" is {name_type(text)}, not a string', 'a row is {"text": "…"}')
    if fault := find_surrogate([('"text"', text)]):
        return fault
    return build_fault("empty-text", '"text" is empty or white space') if is_blank(text) else text
