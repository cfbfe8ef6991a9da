"""Reads the JSON Lines of a run folder; a line that is not JSON is named by its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError, Where
from orchestrator.machine.files import open_regular
from orchestrator.machine.json_files import parse_json


def read_lines(path: Path) -> Iterator[tuple[Where, Any]]:
    """Yield (place, parsed value) of each line that is not blank. Raises RunFolderError for one that is not JSON."""
    with open_regular(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = Where(str(path), number)
            try:
                yield where, parse_json(line, constants=True, surrogates=True)
            except ValueError as error:
                raise RunFolderError(f"not a line of JSON: {error}", where=where) from error
