"""The prepare stage of evaluation data alone: users' files become an eval set, its ledger and its statistics.

    python -m orchestrator.data.prepare_eval --eval FILE… --kind group|labelled|pair --out DIR

Exit codes as of the prepare stage: 0; 3 when the data must not be used; 4 when it cannot be written.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from orchestrator.data.gather import gather
from orchestrator.data.prepare import report, report_progress
from orchestrator.data.request import Request, check_label_range, finite, not_negative, positive
from orchestrator.data.rows.checks import RowRules
from orchestrator.data.rows.records import Kind
from orchestrator.data.rows.shapes import parse_columns, require_kind
from orchestrator.data.verdict import Gathered, require_usable
from orchestrator.data.writing.eval_rows import open_eval
from orchestrator.data.writing.writers import (
    CORPUS,
    EVAL,
    FAILED_LEDGER,
    LEDGER,
    STATS,
    FileSet,
    format_json,
    refuse_input_as_output,
    remove_files,
)
from orchestrator.errors import OrchError, PreflightError
from orchestrator.machine.files import write_json

EVAL_KINDS = ("group", "labelled", "pair")


@dataclass(frozen=True)
class EvalRequest:
    """What to read as evaluation data; `columns` are {new: old}, labels from `min_label` to `max_label` become 0 to 1.

    `corpus`: groups and labelled rows become queries over one corpus. Groups need no negatives. `scores_as_labels` and
    `ignore` are as in RowRules.
    """

    files: tuple[Path, ...]
    kind: Kind = "group"
    columns: Mapping[str, str] = field(default_factory=dict)
    min_label: float | None = None
    max_label: float | None = None
    corpus: bool = False
    seed: int = 42
    limit: int | None = None
    max_dropped: int = 0
    scores_as_labels: bool | None = None
    ignore: tuple[str, ...] = ()


def prepare_eval(request: EvalRequest, out: Path, *, on_progress: Callable[[int, int], None] | None = None) -> Gathered:
    """Write eval.jsonl (corpus.jsonl), stats.json and ledger.json into `out`, or none of them.

    The files of an earlier call are removed first. Raises DataError when the data must not be used, and then leaves
    only ledger.failed.json; PreflightError when the folder cannot be written.
    """
    paths = [out / name for name in (STATS, LEDGER, CORPUS, EVAL)]
    refuse_input_as_output(request.files, [*paths, out / FAILED_LEDGER])
    try:
        remove_files([*paths, out / FAILED_LEDGER])
        out.mkdir(parents=True, exist_ok=True)
        return _write(request, out, on_progress)
    except OSError as error:
        message = f"the prepared data cannot be written: {error.strerror or error}"
        raise PreflightError(message, hint=f"see to the disk and the permissions of {out}") from error


def _write(request: EvalRequest, out: Path, on_progress: Callable[[int, int], None] | None) -> Gathered:
    with FileSet() as files, contextlib.ExitStack() as spools:

        def open_spool() -> BinaryIO:
            return spools.enter_context(tempfile.TemporaryFile(dir=out))

        stats, ledger = (files.open(out / name) for name in (STATS, LEDGER))
        writer = open_eval(out, files, seed=request.seed, spool=open_spool if request.corpus else None)
        gathered = gather(_build_request(request, out), on_eval=writer.add, on_progress=on_progress)
        try:
            require_usable(gathered, request.max_dropped)
        except OrchError:
            write_json(out / FAILED_LEDGER, gathered.ledger.to_json())
            raise
        writer.close()
        stats.write(format_json(gathered.stats))
        ledger.write(format_json(gathered.ledger.to_json()))
        files.commit()
    return gathered


def build_rules(request: EvalRequest) -> RowRules:
    """Return what a row of the evaluation data must be."""
    return RowRules(
        request.kind,
        needs_negatives=False,
        columns=request.columns,
        min_label=request.min_label or 0.0,
        max_label=1.0 if request.max_label is None else request.max_label,
        scores_as_labels=request.scores_as_labels,
        ignore=request.ignore,
    )


def _build_request(request: EvalRequest, out: Path) -> Request:
    return Request(
        train_files=(),
        eval_files=request.files,
        seed=request.seed,
        limit_eval=request.limit,
        rules=build_rules(request),
        corpus=request.corpus,
        spool_folder=str(out),
    )


def parse_arguments(argv: Sequence[str] | None) -> tuple[EvalRequest, Path]:
    """Return what the command line asks for. Exits with code 2 when it makes no sense."""
    parser = argparse.ArgumentParser(prog="orchestrator.data.prepare_eval", allow_abbrev=False)
    add = parser.add_argument
    add("--eval", nargs="+", type=Path, required=True, metavar="FILE", help="eval rows")
    add("--kind", choices=EVAL_KINDS, default="group", help="what the rows are (default group)")
    add("--columns", nargs="+", default=[], metavar="NEW=OLD", help="columns to rename, in every file")
    add("--ignore", nargs="+", default=[], metavar="KEY", help="keys whose texts are not needed")
    add("--min-label", type=finite, metavar="X", help="labelled: the label that becomes 0 (default 0)")
    add("--max-label", type=finite, metavar="Y", help="labelled: the label that becomes 1 (default 1)")
    add("--scores-as-labels", action=argparse.BooleanOptionalAction, help="labelled: what the scores of a row are")
    add("--corpus", action="store_true", help="evaluate over a corpus of all documents")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the prepared files")
    add("--max-dropped", type=not_negative, default=0, metavar="N", help="bad rows that may be dropped (default 0)")
    add("--seed", type=int, default=42, help="of the documents' order (default 42)")
    add("--limit-eval", type=positive, metavar="N", help="keep the first N eval rows")
    given = parser.parse_args(argv)
    if given.corpus and given.kind == "pair":
        parser.error("--corpus goes with --kind group or labelled")
    check_label_range(parser, given)
    try:
        columns = parse_columns(given.columns)
    except ValueError as error:
        parser.error(f"--columns {error}: write NEW=OLD, each name once")
    request = EvalRequest(
        tuple(given.eval),
        require_kind(given.kind),
        columns,
        given.min_label,
        given.max_label,
        given.corpus,
        given.seed,
        given.limit_eval,
        given.max_dropped,
        given.scores_as_labels,
        tuple(given.ignore),
    )
    return request, given.out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; progress, sums and labels go to stdout, warnings and problems to stderr."""
    request, out = parse_arguments(argv)
    return report(lambda: prepare_eval(request, out, on_progress=report_progress))


if __name__ == "__main__":
    raise SystemExit(main())
