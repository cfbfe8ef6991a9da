"""Rows of one query come together, wherever they stand: texts wait on disk, digests and offsets in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.data.digests import digest
from orchestrator.data.earlier_rows import Chains
from orchestrator.data.judgements import (
    Judgements,
    Place,
    Reshaping,
    pack_judgements,
    read_judgements,
    unpack_judgements,
)
from orchestrator.data.reasons import Fault
from orchestrator.data.reshape import Finding, build_rows, is_beyond_ranking, merge_judgements
from orchestrator.data.sides import LabelSources
from orchestrator.data.verdict import BadRows, sum_up
from orchestrator.data.writing.writers import format_line
from orchestrator.errors import DataError


@dataclass(frozen=True)
class Regrouped:
    """What was written: rows, queries with rows; queries left out, and documents that were said twice."""

    rows: int
    queries: int
    queries_dropped: int
    repeated: int


class Regrouping:
    """Takes rows in any order, then writes them query by query.

    Queries keep the order of their first rows, and documents theirs. A query costs about 200 bytes of memory and a row
    16, whatever their length; the texts of one query at a time are in memory. Queries are one when their texts are
    equal, letter by letter.
    """

    def __init__(self, rules: Reshaping, spool: BinaryIO) -> None:
        """Prepare to take rows; `spool` is an empty file to write and read, for as long as this lives."""
        self._rules = rules
        self._chains = Chains(spool)
        self._paths: list[Path] = []
        self._queries: dict[bytes, int] = {}
        self._mixed: Place | None = None
        self._has_ranking = False
        self._sources = LabelSources()

    def take(self, rows: list[dict[str, Any]], path: Path, line: int) -> Fault | None:
        """Take the rows that one row of a file became, all or none of them, or return why one of them is none.

        Raises ValueError where UTF-8 cannot hold them.
        """
        if not self._paths or self._paths[-1] != path:
            self._paths.append(path)
        taken = []
        for row in rows:
            found = read_judgements(row, self._rules, (len(self._paths) - 1, line))
            if isinstance(found, Fault):
                return found
            data = json.dumps(pack_judgements(found), ensure_ascii=False, allow_nan=False).encode() + b"\n"
            taken.append((row, found, data))
        for row, found, data in taken:
            self._sources.note(row if found.form == "ranking" else {}, str(path), line)
            self._add(found, data)
        return None

    def _add(self, found: Judgements, data: bytes) -> None:
        self._chains.add(self._queries.setdefault(digest((found.query,)), len(self._chains)), data)
        self._has_ranking |= found.form == "ranking"
        if self._mixed is None and is_beyond_ranking(found, self._rules):
            self._mixed = found.place

    def write(self, stream: BinaryIO) -> Regrouped:
        """Write all rows. Raises DataError with the first findings where something would be lost or contradicts."""
        if self._rules.scores_as_labels is None and not self._rules.drop_scores:
            unclear = self._sources.problem(ranged=self._rules.max_label is not None)
            if unclear:
                raise DataError.from_problems(unclear)
        rows = queries = dropped = repeated = 0
        bad = BadRows()
        if self._mixed and self._has_ranking:
            message = "ranking rows say 1 and 0, and among them stands a label outside of that range"
            fault = Fault("would-be-lost", message, "scale the labels: --max-label, and --min-label if it is not 0")
            self._note(bad, Finding(self._mixed, fault))
        for packed in self._chains.read():
            found = self._build([unpack_judgements(json.loads(line)) for line in packed])
            if isinstance(found, Finding):
                self._note(bad, found)
                continue
            lines, more = found
            stream.writelines(format_line(line) for line in lines)
            rows += len(lines)
            queries += bool(lines)
            dropped += not lines
            repeated += more
        if bad.problems:
            raise DataError.from_problems(sum_up(bad.problems, bad.counts, "queries"))
        return Regrouped(rows, queries, dropped, repeated)

    def _build(self, parts: list[Judgements]) -> tuple[list[dict[str, Any]], int] | Finding:
        merged = merge_judgements(parts)
        if isinstance(merged, Finding):
            return merged
        rows = build_rows(merged[0], self._rules)
        return rows if isinstance(rows, Finding) else (rows, merged[1])

    def _note(self, bad: BadRows, found: Finding) -> None:
        file, line = found.place
        bad.add(found.fault, self._paths[file], line)
