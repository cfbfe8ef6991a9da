"""A table becomes rows with line numbers, streamed: comma- or tab-separated text, an Excel sheet, Parquet or Arrow.

The first line of a text table or sheet names the columns, and every cell is a string. A row's line in a sheet is as
Excel shows it, in Parquet and Arrow its number.
"""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import json
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.data.reading.json_rows import LONGEST_ROW, WHITESPACE, Row, decode_text, refuse_large
from orchestrator.data.reasons import REASONS, Fault, refuse
from orchestrator.data.rows.shapes import list_columns

_LARGEST_SHEET = 1 << 30  # bytes, unpacked: a sheet is held in memory
_SEPARATOR_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_LONGEST_FIELD = LONGEST_ROW  # characters; the csv module's own limit of 131,072 is shorter than long documents
_LONGEST_NAME = 200  # characters of a column's name: a longer one is a text, and the header is missing
_PARQUET_MAGIC = b"PAR1"
_ARROW_MAGIC = b"ARROW1"
_BATCH_ROWS = 1024


def read_delimited(path: Path, lines: Iterator[bytes], delimiter: str) -> Iterator[Row]:
    """Yield the rows below the header of a text table; a row's line is the one on which it begins.

    Empty lines are skipped. Raises DataError for an unusable header, a broken quote, or bytes that are not UTF-8.
    """
    csv.field_size_limit(_LONGEST_FIELD)  # the module has one limit for the whole process
    taken: list[bytes] = []
    reader = csv.reader(_decode(lines, taken), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        taken.clear()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            message = next((said for part, said in _CSV_ERRORS.items() if part in str(error)), str(error))
            raise refuse("broken-csv", message, path, line=line) from error
        if fields is None:
            return
        if not fields or (len(fields) == 1 and not fields[0].strip(WHITESPACE)):
            continue
        if header is None:
            header = [name.strip(WHITESPACE) for name in fields]
            _require_header(path, header, line, delimiter)
        elif len(fields) != len(header):
            message = f"the row has {len(fields)} fields and the header {len(header)}"
            fault = Fault("wrong-field-count", message, REASONS["wrong-field-count"].remedy)
            yield Row(line, b"\n".join(taken), fault=fault)
        else:
            yield Row(line, b"\n".join(taken), _build_cells(header, fields))


def _build_cells(header: list[str], fields: list[str]) -> dict[str, Any]:
    return {name: parse_cell(name, text) for name, text in zip(header, fields, strict=True)}


def parse_cell(name: str, text: str) -> Any:
    """Return what a cell of the column `name` holds: its text, or a list where lists may stand and JSON stands."""
    if name not in list_columns() or not text.lstrip(WHITESPACE).startswith("["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _decode(lines: Iterator[bytes], taken: list[bytes]) -> Iterator[str]:
    """Yield each line as text, and keep its bytes in `taken`, which is emptied where a row begins."""
    for line, raw in enumerate(lines, 1):
        taken.append(raw)
        yield decode_text(raw, line) + "\n"


_CSV_ERRORS = {  # by a part of what the csv module says
    "end of data": "a quote that opens in this row is not closed before the file ends",
    "expected after": 'text follows a closing quote in this row; a quote inside a field is written twice ("")',
    "field limit": f"a field is longer than {_LONGEST_FIELD:,} characters: a quote is probably not closed",
    "new-line": "a lone carriage return stands in this row; lines end with LF or CRLF",
}


def _require_header(path: Path, names: list[str], line: int, delimiter: str) -> None:
    """Raise DataError when the first row cannot be the columns' names."""

    def refuse_header(message: str, hint: str | None = None) -> Exception:
        return refuse("bad-header", message, path, line=line, hint=hint)

    if names[0][:1] in {"{", "["}:
        raise refuse_header("the first line looks like JSON", "rename the file to .jsonl (one row a line) or .json")
    others = [separator for separator in _SEPARATOR_NAMES if separator != delimiter and separator in names[0]]
    if len(names) == 1 and others:
        message = f"the header holds {_SEPARATOR_NAMES[others[0]]} and no {_SEPARATOR_NAMES[delimiter]}"
        hint = "save .csv with commas and .tsv with tabs" + (", or rename it to .tsv" if others[0] == "\t" else "")
        raise refuse("wrong-separator", message, path, line=line, hint=hint)
    for place, name in enumerate(names):
        if not name:
            hint = "name every column; pandas leaves its index out with to_csv(…, index=False)"
            raise refuse_header(f"column {place + 1} has no name", hint)
        if name in names[:place]:
            raise refuse_header(f'two columns have the name "{name}"', "rename or remove one of them")
        if len(name) > _LONGEST_NAME or "\n" in name or _is_number(name):
            shown = name[:40].replace("\n", " ")
            raise refuse_header(f'the header row seems to be missing: column {place + 1} would be "{shown}"')


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_sheet(path: Path, stream: BinaryIO) -> Iterator[Row]:
    """Yield the rows below the header of an Excel file's one sheet, each cell as the text that it shows.

    Raises DataError for a file that is no such, that is too large, or that has several sheets with rows.
    """
    import python_calamine as calamine

    try:
        with zipfile.ZipFile(stream) as archive:
            size = sum(part.file_size for part in archive.infolist())
        if size > _LARGEST_SHEET:
            raise refuse_large(path, 1)
        stream.seek(0)
        book = calamine.CalamineWorkbook.from_filelike(stream)
        sheets = {name: book.get_sheet_by_name(name).to_python(skip_empty_area=False) for name in book.sheet_names}
    except (calamine.CalamineError, zipfile.BadZipFile, EOFError) as error:
        raise refuse("broken-sheet", f"it cannot be read: {error}", path) from error
    filled = [name for name, rows in sheets.items() if any(any(cell != "" for cell in row) for row in rows)]
    if len(filled) > 1:
        shown = ", ".join(json.dumps(name, ensure_ascii=False) for name in filled[:5])
        raise refuse("broken-sheet", f"several of its sheets have rows: {shown}", path)
    header: list[str] | None = None
    for line, cells in enumerate(sheets[filled[0]] if filled else [], 1):
        fields = [_show_cell(cell) for cell in cells]
        if not any(fields):
            continue
        if header is None:
            header = [name.strip(WHITESPACE) for name in fields]
            while header and not header[-1]:
                header.pop()
            _require_header(path, header, line, "")
        elif any(fields[len(header) :]):
            message = f"the row has a cell in column {len(fields)}, and the header {len(header)} names"
            yield Row(line, b"", fault=Fault("wrong-field-count", message, "name the column, or empty the cell"))
        else:
            yield Row(line, b"", _build_cells(header, fields[: len(header)]))


def _show_cell(cell: Any) -> str:
    """Return a cell as text, whole numbers whole."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return cell.isoformat() if isinstance(cell, dt.date | dt.time) else str(cell)


def read_parquet(path: Path, stream: BinaryIO) -> Iterator[Row]:
    """Yield the rows of a Parquet file, numbered from 1; nulls and NaN are left out, as absent keys are.

    Raises DataError when pyarrow cannot read the file, or a row is larger than one may be.
    """
    if stream.read(len(_PARQUET_MAGIC)) != _PARQUET_MAGIC:
        raise refuse("broken-parquet", "the file does not begin as Parquet files do", path)

    def open_batches() -> tuple[Any, Iterator[Any]]:
        import pyarrow.parquet as pq

        stream.seek(0)
        table = pq.ParquetFile(stream)
        groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
        if any(group.num_rows and group.total_byte_size // group.num_rows > LONGEST_ROW for group in groups):
            raise refuse_large(path, 1)  # before a small file is unpacked into more than the memory
        return table.schema_arrow, table.iter_batches(batch_size=_BATCH_ROWS, use_threads=False)

    return _read_batches(path, open_batches)


def read_arrow(path: Path, stream: BinaryIO) -> Iterator[Row]:
    """Yield the rows of an Arrow file (or stream, as the datasets library writes it); otherwise as `read_parquet`."""

    def open_batches() -> tuple[Any, Iterator[Any]]:
        from pyarrow import ipc

        is_file = stream.read(len(_ARROW_MAGIC)) == _ARROW_MAGIC
        stream.seek(0)
        if not is_file:
            reader = ipc.open_stream(stream)
            return reader.schema, iter(reader)
        table = ipc.open_file(stream)
        return table.schema, (table.get_batch(number) for number in range(table.num_record_batches))

    return _read_batches(path, open_batches)


def _read_batches(path: Path, open_batches: Callable[[], tuple[Any, Iterator[Any]]]) -> Iterator[Row]:
    import pyarrow as pa

    number = 0
    try:
        schema, batches = open_batches()
        repeated = {name for name in schema.names if schema.names.count(name) > 1}
        if repeated:
            raise refuse("bad-header", f'two columns have the name "{min(repeated)}"', path)
        for batch in batches:
            for part in _cut(batch, path, number):
                for row in part.to_pylist():
                    number += 1
                    yield _build_row(number, row)
    except pa.ArrowMemoryError as error:
        raise MemoryError from error
    except (pa.ArrowException, OSError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise refuse("broken-parquet", f"pyarrow cannot read it: {what}", path) from error


def _cut(batch: Any, path: Path, before: int) -> Iterator[Any]:
    """Yield a batch in parts that as Python's objects fit into memory. Raises DataError for a row that does not."""
    if batch.nbytes <= LONGEST_ROW or not batch.num_rows:
        yield batch
    elif batch.num_rows == 1:
        raise refuse_large(path, before + 1)
    else:
        half = batch.num_rows // 2
        yield from _cut(batch.slice(0, half), path, before)
        yield from _cut(batch.slice(half), path, before + half)


def _build_row(number: int, row: dict[str, Any]) -> Row:
    try:
        return Row(number, b"", _to_json(row))
    except TypeError as error:
        hint = "leave the column out, or write it as text"
        return Row(number, b"", fault=Fault("wrong-type", str(error), hint))


def _to_json(value: Any) -> Any:
    """Return a value of pyarrow's as the JSON value it stands for. Raises TypeError when there is none."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        found = {key: _to_json(part) for key, part in value.items()}
        return {key: part for key, part in found.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_to_json(part) for part in value]
    if isinstance(value, bytes):  # older writers mark text columns as bytes
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise TypeError("a cell holds bytes that are no text") from None
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, dt.date | dt.time):  # a datetime is a date
        return value.isoformat()
    raise TypeError(f"a cell holds {type(value).__name__}, which JSON has not")
