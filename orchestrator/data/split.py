"""What `orch data split` does: a user's own file becomes two, by query, its rows byte for byte as they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orchestrator.data.digests import DigestSet, digest, loose_key
from orchestrator.data.fit import find_lone_texts
from orchestrator.data.ledger import BadRows
from orchestrator.data.reading.file_sets import ARROW, DELIMITERS, PARQUET, SHEET, find_ending
from orchestrator.data.reading.json_rows import Row
from orchestrator.data.reading.readers import Source
from orchestrator.data.reasons import REASONS, Fault, refuse
from orchestrator.data.rows.checks import find_split_text
from orchestrator.data.sides import SplitDraw, find_threshold
from orchestrator.data.writers import FileSet, refuse_existing
from orchestrator.errors import DataError, Where

_MORE_TEXTS = "add texts to such classes, leave them out, or split with another --seed or a smaller --eval-ratio"


@dataclass(frozen=True)
class SplitReport:
    """Two files that were written, with their rows and their different queries; `warning` is what to know of them."""

    train: Path
    eval: Path
    train_rows: int
    eval_rows: int
    train_queries: int
    eval_queries: int
    warning: str | None = None


def split_file(
    path: Path,
    out_train: Path,
    out_eval: Path,
    eval_ratio: float,
    seed: int = 42,
    *,
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
) -> SplitReport:
    """Write the rows of `path` to two new files, all rows of one query to the same one.

    JSON Lines stay JSON Lines (each line's bytes kept, empty lines and the byte order mark left out), a JSON list
    becomes two lists of the same text, row by row. Only the query of a row is looked at: its first text, or what comes
    before its last answer. `encoding` is as in Source, and what is written is UTF-8. Raises DataError, with nothing
    written, when an output exists, a row has no usable query, or there is only one query.
    """
    refuse_existing((out_train, out_eval))
    if out_train.resolve() == out_eval.resolve():
        raise refuse("output-exists", "both sides would be written here", out_train)
    if find_ending(path) in {*DELIMITERS, SHEET, PARQUET, *ARROW}:
        raise _refuse_table(path)
    draw = SplitDraw(find_threshold(eval_ratio), seed)
    bad = BadRows()
    source = Source(path, encoding=encoding)
    for row in source.rows():
        if source.text_files and not row.raw:  # several judgements of one query
            raise _refuse_table(path)
        found = row.fault or find_split_text(row.value, columns or {})
        if isinstance(found, Fault):
            bad.add(found, path, row.line)
        else:
            draw.takes(found[0])
    bad.require_few()
    if draw.has_one_query:
        raise DataError(
            "too-few-queries: all rows have one query, so that they cannot be split",
            hint=REASONS["too-few-queries"].remedy,
            where=Where(str(path)),
        )
    draw.threshold = draw.threshold if draw.adjusted is None else draw.adjusted
    return _write(Source(path, encoding=encoding), (out_train, out_eval), draw, columns or {})


def _refuse_table(path: Path) -> DataError:
    hint = f"orch data convert {path} -o {path.with_suffix('.jsonl')}, then split that"
    return refuse("unknown-ending", "only JSON Lines and JSON lists can be split", path, hint=hint)


def _write(source: Source, outs: tuple[Path, Path], draw: SplitDraw, columns: Mapping[str, str]) -> SplitReport:
    rows = [0, 0]
    queries = (DigestSet(), DigestSet())
    learnt = Counter[str]()  # of each class how many different texts it has for training
    with FileSet() as files:
        streams = (files.open(outs[0]), files.open(outs[1]))
        for row in source.rows():
            found = find_split_text(row.value, columns)
            if isinstance(found, Fault):  # the first pass has refused all such
                continue
            text, class_name = found
            side = int(draw.takes(text))  # 0 for train, 1 for eval
            _append(streams[side], row, is_first=not rows[side], in_list=source.holds_list)
            rows[side] += 1
            is_new = queries[side].add(digest((loose_key(text),)))
            if class_name is not None and is_new and side == 0:
                learnt[class_name] += 1
        if source.holds_list:
            for stream in streams:
                stream.write(b"\n]\n")
        files.commit()
    lone = find_lone_texts(learnt)
    warning = f"{lone}; a training on classes refuses {outs[0].name}: {_MORE_TEXTS}" if lone else None
    return SplitReport(*outs, rows[0], rows[1], len(queries[0]), len(queries[1]), warning)


def _append(stream: BinaryIO, row: Row, *, is_first: bool, in_list: bool) -> None:
    if in_list:
        stream.write(b"[\n" if is_first else b",\n")
        stream.write(row.raw)
    else:
        # a row may span lines, and none of them ends inside a string
        stream.write((row.raw.replace(b"\n", b" ") if b"\n" in row.raw else row.raw) + b"\n")
