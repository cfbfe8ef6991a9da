"""What `orch data check` reports: both sides' ledger, statistics and problems, with nothing written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.data_pass import run_data_pass
from orchestrator.data.ledger import Ledger, build_problems
from orchestrator.data.reading.readers import sniff_row, sniff_shape
from orchestrator.data.request import Request
from orchestrator.data.rows.checks import RowRules
from orchestrator.data.rows.nearest import find_nearest
from orchestrator.data.rows.records import Kind
from orchestrator.data.rows.shapes import require_kind
from orchestrator.data.tokens import LengthBudget, TokenLimit
from orchestrator.errors import Problem

REPORT_VERSION = 1


@dataclass(frozen=True)
class CheckReport:
    """The findings; the data may be used when `problems` is empty. `problems` shows the first 20 bad rows."""

    ledger: Ledger
    stats: dict[str, Any]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether the data may be used."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "version": REPORT_VERSION,
            "ok": self.ok,
            "problems": [
                {
                    "message": problem.message,
                    "hint": problem.hint,
                    "path": problem.where.path if problem.where else None,
                    "line": problem.where.line if problem.where else None,
                }
                for problem in self.problems
            ],
            "ledger": self.ledger.to_json(),
            "stats": self.stats,
        }


def _guess_kind(paths: Sequence[Path], columns: Mapping[str, str], encoding: str | None) -> Kind:
    """Return the kind that the first row would have with its keys renamed, so that its message is about that."""
    row = sniff_row(paths[0], columns, encoding=encoding) if paths else None
    nearest = find_nearest(row, "group") if row else None
    return nearest.shape.kind if nearest and not nearest.missing else "group"


def check_files(
    paths: Sequence[Path],
    *,
    eval_paths: Sequence[Path] = (),
    max_dropped: int = 0,
    tokenizer: Path | None = None,
    budget: LengthBudget | TokenLimit | None = None,
    kind: str | None = None,
    columns: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    min_label: float | None = None,
    max_label: float | None = None,
    scores_as_labels: bool | None = None,
    allow_overlap: bool = False,
    ignore: Sequence[str] = (),
    encoding: str | None = None,
    needs_negatives: bool | None = None,
) -> CheckReport:
    """Check `paths` as training data, and against `eval_paths` for leaks where given; `allow_overlap` keeps these.

    `kind` None is that of the first file's first row. Groups need negatives, as for rerankers, unless that row is one
    of swift's without any (embedding data), or `needs_negatives` says it. A FlagEmbedding budget is for groups only.
    `columns` are (new, old) names.
    Labels from `min_label` (None: 0) to `max_label` (None: 1) become 0 to 1; only labelled rows have them.
    `scores_as_labels` and `ignore` as in RowRules, `encoding` as in Source.

    Raises DataError when a file cannot be read at all; bad rows are in the report.
    """
    renamed = dict(columns or {})
    given = require_kind(kind) if kind else None
    shape = sniff_shape(paths[0], renamed, given, encoding) if paths else None
    wanted: Kind = given or (shape.kind if shape else _guess_kind(paths, renamed, encoding))
    if not given and wanted == "group" and (max_label is not None or scores_as_labels):
        wanted = "labelled"  # only these have labels
    rules = RowRules(
        wanted,
        needs_negatives=needs_negatives or not (shape and shape.without_negatives),
        columns=renamed,
        min_label=min_label,
        max_label=max_label,
        scores_as_labels=scores_as_labels,
        ignore=tuple(ignore),
    )
    if wanted != "group" and isinstance(budget, LengthBudget):
        budget = None
    request = Request(
        tuple(paths),
        tuple(eval_paths),
        allow_overlap=allow_overlap,
        tokenizer=tokenizer,
        budget=budget,
        rules=rules,
        merges=True,
        encoding=encoding,
    )
    gathered = run_data_pass(request)
    return CheckReport(gathered.ledger, gathered.stats, tuple(build_problems(gathered, max_dropped)))
