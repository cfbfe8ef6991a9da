"""Teacher scores: the distinct (query, document) pairs of raw training rows, and the same rows with a score each.

    python -m orchestrator.data.teacher pairs --rows FILE… --out DIR            DIR/pairs.jsonl, to be scored
    python -m orchestrator.data.teacher join --rows FILE… --scores FILE --out FILE.jsonl

A pair's id is a digest of its texts, so that nothing but digests is in memory. Exit codes: 0; 3 when the rows or the
scores cannot be used; 4 when a file cannot be written.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.data.check import describe_problem
from orchestrator.data.digests import DIGEST_BYTES, DigestMap, DigestSet, digest
from orchestrator.data.judged import Judged, Opened, add_scores, find_unread_keys, open_row, require_judged
from orchestrator.data.ledger import BadRows, describe_counts
from orchestrator.data.reading.json_rows import Row as Line
from orchestrator.data.reading.readers import Source
from orchestrator.data.reasons import RepeatedProblems, refuse
from orchestrator.data.request import RowFiles, add_reading, positive, read_row_files
from orchestrator.data.rows.texts import BadRowError, bad_row, is_finite_number
from orchestrator.data.rows.unread import note_unread
from orchestrator.data.writers import FileSet, format_line, refuse_input_as_output
from orchestrator.errors import DataError, OrchError, PreflightError, Where
from orchestrator.machine.terminal import say, say_lines

PAIRS_NAME = "pairs.jsonl"
_FLOAT, _BITS = struct.Struct("<d"), struct.Struct("<Q")


@dataclass
class Counts:
    """What a pass over the rows found."""

    rows: int = 0
    documents: int = 0
    pairs: int = 0
    bad: BadRows = field(default_factory=BadRows)
    unread: RepeatedProblems = field(default_factory=RepeatedProblems)

    def describe_bad(self) -> str:
        """Return "" or how many rows are bad and why, for the end of a sentence."""
        count = self.bad.counts.total()
        return f"; {count} bad ones left as they are ({describe_counts(self.bad.counts)})" if count else ""


def write_pairs(rows: RowFiles, out: Path) -> Counts:
    """Write every distinct pair of the rows to `out` / pairs.jsonl: {"pid", "query", "document"}, in their order.

    Bad rows are skipped and counted. Raises DataError when a row has scores already, or no row can be scored.
    """
    counts, seen = Counts(), DigestSet()
    with FileSet() as files:
        stream = files.open(out / PAIRS_NAME)
        for row in _read_rows(rows, counts):
            for query, document in row.pairs:
                counts.documents += 1
                key = digest((query, document))
                if seen.add(key):
                    stream.write(format_line({"pid": key.hex(), "query": query, "document": document}))
        counts.pairs = len(seen)
        if unread := counts.unread.problems():
            raise DataError.from_problems(unread)
        if not counts.pairs:
            raise _nothing_to_score(counts)
        files.commit()
    return counts


def join_scores(rows: RowFiles, scores: Path, out: Path) -> Counts:
    """Write the rows to the file `out`, as they were, with their teacher scores; bad rows stay where and as they are.

    Raises DataError when a score is missing or no finite number, or a row has scores already; then nothing is written.
    """
    refuse_input_as_output((*rows.files, scores), [out])
    table, counts = _load_scores(scores), Counts()
    with FileSet() as files:
        stream = files.open(out)
        for row in _read_rows(rows, counts):
            if row.opened is None or row.found is None:
                stream.write(_format_bad(row.line))
                continue
            known = [table.get(digest(pair)) for pair in row.pairs]
            if None in known:
                hint = "the scores are those of other rows: write the pairs of these rows, and score them"
                where = Where(str(row.path), row.line.line)
                raise DataError("a document of this row has no teacher score", hint=hint, where=where)
            given = [float(_FLOAT.unpack(_BITS.pack(bits))[0]) for bits in known]
            counts.documents += len(given)
            stream.write(format_line(add_scores(row.opened, row.found, given)))
        if not counts.documents:
            raise _nothing_to_score(counts)
        files.commit()
    return counts


@dataclass(frozen=True)
class _TeacherRow:
    """A row of `path`, as it stands there and as it is read, with what it says; None twice for a bad one."""

    path: Path
    line: Line
    opened: Opened | None = None
    found: Judged | None = None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The query with each document."""
        return [(self.found.query, text) for text in self.found.texts] if self.found else []


def _read_rows(rows: RowFiles, counts: Counts) -> Iterator[_TeacherRow]:
    """Yield every row. Raises DataError for a row with scores."""
    for path in rows.files:
        source = Source(path, encoding=rows.rules.encoding)
        for line in source.rows():
            if rows.limit is not None and counts.rows >= rows.limit:
                return
            counts.rows += 1
            try:
                _require_writable(line.value)
                opened = open_row(line, rows.rules.columns, is_table=source.is_text_table)
                found = require_judged(opened.row)
            except BadRowError as error:
                counts.bad.add(error.fault, path, line.line)
                yield _TeacherRow(path, line)
                continue
            if found.has_scores and not rows.replace:
                hint = "keep them, or replace all with --replace"
                raise DataError("the row has teacher scores already", hint=hint, where=Where(str(path), line.line))
            note_unread(counts.unread, find_unread_keys(opened.row, found, rows.rules.ignore), str(path), line.line)
            yield _TeacherRow(path, line, opened, found)


def _require_writable(value: Any) -> None:
    """Raise BadRowError for a row that no line of JSON in UTF-8 can hold."""
    try:
        format_line(value)
    except UnicodeEncodeError:
        raise bad_row("lone-surrogate", "a text holds half of a UTF-16 pair") from None
    except ValueError:  # from a Parquet file
        raise bad_row("not-json", "a number is infinite, which JSON cannot hold") from None


def _format_bad(row: Line) -> bytes:
    """Return one line that is as bad as the row was: its own bytes, or its value where it comes from a table."""
    if row.raw.strip() and (row.fault or not isinstance(row.value, dict)):
        return b" ".join(row.raw.splitlines()) + b"\n"
    if row.fault:  # a row of a Parquet file that JSON cannot hold
        return format_line({row.fault.code: row.fault.message})
    return json.dumps(row.value).encode() + b"\n"  # in ASCII: it may hold half of a UTF-16 pair


def _load_scores(path: Path) -> DigestMap:
    """Return the scores of a file of {"pid", "score"} lines, as bits. Raises DataError for any other line."""
    table = DigestMap()
    try:
        with path.open("rb") as stream:
            for line, raw in enumerate(stream, 1):
                if not raw.strip():
                    continue
                try:
                    row = json.loads(raw)
                    key, score = bytes.fromhex(row["pid"]), row["score"]
                except (ValueError, TypeError, KeyError):
                    key, score = b"", None
                if len(key) != DIGEST_BYTES or not is_finite_number(score):
                    hint = "score the pairs that `pairs` wrote, again"
                    message = 'this is not {"pid", "score"} with a finite score'
                    raise DataError(message, hint=hint, where=Where(str(path), line))
                table.put(key, *_BITS.unpack(_FLOAT.pack(score)))
    except OSError as error:
        raise refuse("not-readable", f"the scores cannot be read: {error.strerror}", path) from error
    return table


def _nothing_to_score(counts: Counts) -> OrchError:
    if counts.bad.counts:
        return DataError.from_problems(counts.bad.sum_up())
    return DataError("no-rows-kept: there is no row to score", hint="give rows with a query and documents")


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, RowFiles]:
    """Return what the command line asks for. Exits with code 2 when it makes no sense."""
    parser = argparse.ArgumentParser(prog="orchestrator.data.teacher", allow_abbrev=False)
    steps = parser.add_subparsers(dest="step", required=True)
    for name, text in (("pairs", "write the pairs to score"), ("join", "write the rows with their scores")):
        step = steps.add_parser(name, help=text, allow_abbrev=False)
        step.add_argument("--rows", nargs="+", type=Path, required=True, metavar="FILE", help="training rows")
        add_reading(step)
        step.add_argument("--limit", type=positive, metavar="N", help="the first N rows of all files together")
        step.add_argument("--replace", action="store_true", help="rows may have teacher scores: they get new ones")
        step.add_argument("--out", type=Path, required=True, metavar="DIR" if name == "pairs" else "FILE")
    steps.choices["join"].add_argument("--scores", type=Path, required=True, metavar="FILE", help='{"pid", "score"}')
    given = parser.parse_args(argv)
    return given, read_row_files(parser, given, given.rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one step; the sums go to stdout, bad rows and problems to stderr."""
    given, rows = parse_arguments(argv)
    try:
        counts = write_pairs(rows, given.out) if given.step == "pairs" else join_scores(rows, given.scores, given.out)
    except (OrchError, OSError) as error:
        if isinstance(error, OSError):
            message = f"{given.out} cannot be written: {error.strerror or error}"
            error = PreflightError(message, hint="see to the disk and the permissions")
        say_lines(map(describe_problem, error.problems), err=True)
        return error.exit_code
    say_lines((f"bad: {describe_problem(problem)}" for problem in counts.bad.sum_up()), err=True)
    what = f"{counts.pairs} distinct pairs" if given.step == "pairs" else f"{counts.documents} documents with scores"
    say(f"{counts.rows} rows, {what}{counts.describe_bad()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
