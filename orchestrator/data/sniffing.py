"""The shape of a file's first row: a guess at what the file holds; what is wrong with it is for others to say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.data.reading.readers import Source
from orchestrator.data.reasons import Fault
from orchestrator.data.rows.records import Kind
from orchestrator.data.rows.shapes import Shape, find_shape, normalise


def sniff_shape(
    path: Path, columns: Mapping[str, str] | None = None, wanted: Kind | None = None, encoding: str | None = None
) -> Shape | None:
    """Return the shape of a file's first row, or None where it has none or cannot be read. Reads one row."""
    row = sniff_row(path, columns, wanted, encoding)
    return None if row is None else find_shape(row, wanted)


def sniff_row(
    path: Path, columns: Mapping[str, str] | None = None, wanted: Kind | None = None, encoding: str | None = None
) -> dict[str, Any] | None:
    """Return a file's first row, its columns renamed, or None where it cannot be read. Never raises."""
    try:
        rows = Source(path, encoding=encoding).rows()
        row = next(rows, None)
        rows.close()  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - whatever is wrong with the file is for the prepare stage to say
        return None
    if row is None or row.fault:
        return None
    value = normalise(row.value, columns or {}, wanted)
    return None if isinstance(value, Fault) else value


def sniff_kind(path: Path, columns: Mapping[str, str] | None = None, encoding: str | None = None) -> Kind | None:
    """Return the kind of a file's first row; a query and its response alone are a group. Never raises."""
    shape = sniff_shape(path, columns, encoding=encoding)
    return shape.kind if shape else None
