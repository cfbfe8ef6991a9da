"""Any readable files become one file of JSON Lines: columns renamed, other tools' rows rewritten, rows reshaped."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.data.judged import bring_to_form
from orchestrator.data.ledger import BadRows
from orchestrator.data.reading.json_rows import Row as Line
from orchestrator.data.reading.readers import Source
from orchestrator.data.reading.tabular import parse_cell
from orchestrator.data.reasons import Fault, RepeatedProblems, refuse
from orchestrator.data.reshape import Regrouped, Regrouping, Reshaping
from orchestrator.data.rows.foreign_rows import FOREIGN_FORMS, FOREIGN_OPTIONAL, convert_row
from orchestrator.data.rows.shapes import Row, find_shape, name_values, read_fields
from orchestrator.data.rows.texts import (
    NAMES,
    BadRowError,
    bad_row,
    build_fault,
    is_finite_number,
    plain_name,
    read_number,
)
from orchestrator.data.rows.unread import ANSWERS, find_strings, find_unread, note_unread
from orchestrator.data.writers import FileSet, format_line, require_new_rows
from orchestrator.errors import DataError

FILE_FORMS = ("csv", "tsv", "parquet", "json", "jsonl")
FORMS = (*FILE_FORMS, *FOREIGN_FORMS)
SCORE_KEYS = ("score", "label", "similarity_score")
_KEYS_LISTED = 30
_CHAT_KEYS = frozenset({"messages", "conversations", "instruction"})


@dataclass(frozen=True)
class Conversion:
    """What becomes of each row, in this order: columns renamed, constants added, form read, scores divided, split up.

    With `reshaping`, these rows then become rows of another form of ranking data, those of one query together.

    `form` is one of FORMS, or None to go by each file's ending. `columns` are (new name, old name); the others are kept
    unless `only_mapped`. A text that the new row's form does not read is refused, unless its key is in `ignore`.
    `names` are those of the values of rows that are lists, and `rows_key` is where the rows of a file stand that is one
    object. `keep_reasoning`: what an answer's author thought stands in front of it, in <think>. `encoding` is as
    in Source.
    """

    form: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    only_mapped: bool = False
    constants: tuple[tuple[str, str], ...] = ()
    divide_score: float | None = None
    one_positive: bool = False
    reshaping: Reshaping | None = None
    ignore: tuple[str, ...] = ()
    keep_reasoning: bool = False
    names: tuple[str, ...] = ()
    rows_key: str | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class ConvertReport:
    """Rows read, rows written, and bad rows left out by their reason; `regrouped` where rows were reshaped."""

    out: Path
    rows_in: int
    rows_out: int
    dropped: dict[str, int]
    regrouped: Regrouped | None = None


def convert_files(paths: Sequence[Path], out: Path, conversion: Conversion, *, max_dropped: int = 0) -> ConvertReport:
    """Write the rows of all `paths` to the new file `out`, streamed.

    Up to `max_dropped` bad rows are left out; one more, an unknown column, an existing `out`, or anything that
    reshaping would lose raises DataError, and nothing is written.
    """
    require_new_rows([out])
    with FileSet() as files, contextlib.ExitStack() as stack:
        stream = files.open(out)
        regrouping: Regrouping | None = None
        if conversion.reshaping:
            spool = stack.enter_context(tempfile.TemporaryFile(dir=out.parent))  # beside `out`: /tmp may be memory
            regrouping = Regrouping(conversion.reshaping, spool)
        run = _Run(conversion, stream, regrouping)
        for path in paths:
            run.take_file(path)
        run.bad.require_few(max_dropped)
        if unread := run.unread.problems():
            raise DataError.from_problems(unread)
        regrouped = regrouping.write(stream) if regrouping else None
        rows_out = regrouped.rows if regrouped else run.rows_out
        if not rows_out:
            raise refuse("no-rows-kept", f"no row is left of {run.rows_in}", out)
        files.commit()
    return ConvertReport(out, run.rows_in, rows_out, dict(sorted(run.bad.counts.items())), regrouped)


@dataclass
class _Run:
    """State of one conversion."""

    conversion: Conversion
    stream: BinaryIO
    regrouping: Regrouping | None
    rows_in: int = 0
    rows_out: int = 0
    bad: BadRows = field(default_factory=BadRows)
    unread: RepeatedProblems = field(default_factory=RepeatedProblems)

    def take_file(self, path: Path) -> None:
        """Convert one file. Raises DataError when it cannot be read or lacks a column."""
        form = self.conversion.form
        ending = f".{form}" if form in FILE_FORMS else None
        source = Source(path, ending=ending, rows_key=self.conversion.rows_key, encoding=self.conversion.encoding)
        missing = {old for _, old in self.conversion.columns}
        seen: dict[str, None] = {}
        for found in source.rows():
            row = self._name(found)
            self.rows_in += 1
            if isinstance(row.value, dict):
                missing.difference_update(row.value)
                if len(seen) < _KEYS_LISTED:
                    seen.update(dict.fromkeys(row.value))
            self._take_row(source, row)
        if missing:
            names = ", ".join(f'"{name}"' for name in sorted(missing))
            known = ", ".join(f'"{name}"' for name in seen)
            raise refuse("unknown-column", f"no row has {names}", path, hint=f"the columns are {known}")

    def _take_row(self, source: Source, row: Line) -> None:
        try:
            rows = self._convert(source, row)
            if self.conversion.form in FOREIGN_FORMS or self.regrouping:  # rows that keep their form keep all they say
                self._note_unread(rows, str(source.path), row.line)
            if self.regrouping:
                self.regrouping.take(rows, source.path, row.line)
            else:
                lines = list(map(format_line, rows))
                self.stream.writelines(lines)
                self.rows_out += len(lines)
        except BadRowError as error:
            self.bad.add(error.fault, source.path, row.line)
        except ValueError:  # half of a UTF-16 pair cannot be written as UTF-8
            self.bad.add(build_fault("lone-surrogate", "a text holds half of a UTF-16 pair"), source.path, row.line)
        except RecursionError:  # a few levels more than could be read
            self.bad.add(build_fault("not-json", "a value is nested too deeply"), source.path, row.line)

    def _note_unread(self, rows: list[Row], path: str, line: int) -> None:
        reshaping = self.conversion.reshaping
        if reshaping and reshaping.drop_keys:
            return
        for row in rows:
            shape = find_shape(row, "labelled" if reshaping else "group") or find_shape(row, "chat")
            if shape is None:
                continue
            try:
                fields = read_fields(row, shape)
            except BadRowError:
                continue  # its fault is reported where it is read
            texts = [text for key in (*shape.needs, *shape.optional) for text in find_strings(row.get(key))]
            optional = FOREIGN_OPTIONAL.get(self.conversion.form or "", shape.optional)
            ignore = self.conversion.ignore
            unread = find_unread(row, fields.unknown_keys, texts, shape=shape, optional=optional, ignore=ignore)
            note_unread(self.unread, unread, path, line)

    def _convert(self, source: Source, row: Line) -> list[Row]:
        """Return the rows that one row becomes. Raises BadRowError, and DataError where two columns get one name."""
        if row.fault:
            raise BadRowError(row.fault)
        if not isinstance(row.value, dict):
            raise bad_row("not-an-object", "the row is not a JSON object")
        value = self._rename(source, row)
        if self.conversion.keep_reasoning:
            value = keep_reasoning(value)
        if self.conversion.form in FOREIGN_FORMS:
            value = convert_row(self.conversion.form, value)
        elif self.conversion.reshaping:
            value = bring_to_form(value, numeric_text=True)
        if self.conversion.divide_score is not None:
            _divide(value, self.conversion.divide_score)
        return _split_positives(value) if self.conversion.one_positive else [value]

    def _name(self, row: Line) -> Line:
        """Return a row that is a list as an object, its values under the names given or those of ranking data."""
        names, value = self.conversion.names, row.value
        if self.conversion.reshaping and not names:
            return replace(row, value=name_values(value, "labelled") or value) if isinstance(value, list) else row
        if not names or not isinstance(value, list):
            return row
        if len(names) == 1 and all(isinstance(one, dict) for one in value):  # one conversation a row
            value = [value]
        if len(names) != len(value):
            message = f"the row has {len(value)} values, and {len(names)} names were given"
            return replace(row, fault=Fault("wrong-field-count", message, "give one name a value: --names a,b,c"))
        return replace(row, value=dict(zip(names, value, strict=True)))

    def _rename(self, source: Source, row: Line) -> Row:
        conversion = self.conversion
        olds = {old for _, old in conversion.columns}
        found = {new: row.value[old] for new, old in conversion.columns if old in row.value}
        kept = {} if conversion.only_mapped else {key: value for key, value in row.value.items() if key not in olds}
        for new in [*found, *(key for key, _ in conversion.constants)]:
            if new in kept:
                hint = f'rename that one too (--map OTHER="{new}"), or keep the named ones only (--only-mapped)'
                raise refuse("column-exists", f'the row has a "{new}" already', source.path, line=row.line, hint=hint)
        value = found | kept | dict(conversion.constants)
        if source.is_text_table:
            value = {key: _read_cell(key, cell) for key, cell in value.items()}
        if not value.keys().isdisjoint(_CHAT_KEYS) and "positive_messages" not in value:
            return value  # false as the label of a conversation says that it is not wanted, and 0 would be a class
        return {key: _read_numbers(key, part) for key, part in value.items()}


def _read_cell(key: str, cell: Any) -> Any:
    """Return a cell of a text table as JSON has it: a list where the column may hold one, a score as a number."""
    if not isinstance(cell, str):
        return cell
    return read_number(cell) if key in SCORE_KEYS else parse_cell(key, cell)


def _read_numbers(key: str, value: Any) -> Any:
    """Return a value with its labels and scores as numbers, where they stand there as text or as true and false."""
    if key in SCORE_KEYS:
        return read_number(value)
    if key in {"pos_scores", "neg_scores"} and isinstance(value, list):
        return [_read_numbers("score", one) for one in value]
    if key == "hits" and isinstance(value, list):
        return [
            {name: _read_numbers(name, part) for name, part in hit.items()} if isinstance(hit, dict) else hit
            for hit in value
        ]
    return value


def _divide(row: Row, divisor: float) -> None:
    """Divide the row's scores in place. Raises BadRowError where that gives no similarity between -1 and 1."""
    given = [key for key in SCORE_KEYS if key in row]
    if not given:
        message = f"there is no score to divide: the row has none of {', '.join(SCORE_KEYS)}"
        raise bad_row("missing-key", message, "name the column: --map score=OLD")
    for key in given:
        number = row[key] if isinstance(row[key], bool) else read_number(row[key])
        if not is_finite_number(number):
            raise bad_row("wrong-type", f'"{key}" is not a finite number', "write a number")
        divided = number / divisor
        if not -1 <= divided <= 1:
            message = f'"{key}" is {number:g}, and {number:g} / {divisor:g} is not between -1 and 1'
            raise bad_row("score-out-of-range", message, f"divide by the largest score: --divide-score {abs(number):g}")
        row[key] = divided


def _split_positives(row: Row) -> list[Row]:
    """Return one row a positive, teacher scores with their documents; a row without a list of them stays as it is.

    Raises BadRowError.
    """
    key = next((key for key in ("pos", "positive_messages") if isinstance(row.get(key), list)), None)
    if key is None:
        return [row]
    positives, scores = row[key], row.get("pos_scores") if key == "pos" else None
    if not positives:
        raise bad_row("no-positive", f'"{key}" is an empty list')
    if not isinstance(scores, list):
        return [row | {key: [text]} for text in positives]
    if len(scores) != len(positives):
        raise bad_row("scores-length", f'"pos_scores" holds {len(scores)} and "pos" {len(positives)}')
    return [row | {key: [text], "pos_scores": [score]} for text, score in zip(positives, scores, strict=True)]


def keep_reasoning(row: Row) -> Row:
    """Return the row with all reasoning that stands beside an answer, in a message or in the row, in front of it."""
    answer = next((key for key in ANSWERS if isinstance(row.get(key), str)), None)
    if answer:
        row = _join_reasoning(row, answer)
    return row | {
        key: list(map(_join_reasoning, row[key]))
        for key in ("messages", "conversations")
        if isinstance(row.get(key), list)
    }


def _join_reasoning(message: Any, content: str | None = None) -> Any:
    """Return a message, or a row, with one text for reasoning and answer, as Qwen3's and DeepSeek-R1's answers have it.

    The answer stands under `content`, None: under "content" or "value".
    """
    thoughts = [key for key in message if plain_name(key) in NAMES.reasoning] if isinstance(message, dict) else []
    if len(thoughts) > 1:
        thoughts = [key for key in thoughts if message[key] not in (None, "")]
    content = content or ("content" if thoughts and "content" in message else "value")
    if len(thoughts) != 1 or not isinstance(message.get(content), str):
        return message
    [key] = thoughts
    rest = {name: value for name, value in message.items() if name != key}
    if not isinstance(message[key], str) or not message[key].strip():
        return rest if message[key] in (None, "") else message
    return rest | {content: f"<think>\n{message[key].strip()}\n</think>\n\n{message[content]}"}
