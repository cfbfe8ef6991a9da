"""The prepare stage of evaluation data alone: users' files become an eval set, its ledger and its statistics.

    python -m orchestrator.data.prepare_eval --eval FILE… --kind group|labelled|pair --out DIR

Exit codes as of the prepare stage: 0; 3 when the data must not be used; 4 when it cannot be written.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.data.ledger import PassResult
from orchestrator.data.prepare import prepare, report, report_progress
from orchestrator.data.request import Outputs, Request, add_shared, check_label_range, read_columns
from orchestrator.data.rows.checks import RowRules
from orchestrator.data.rows.records import Kind
from orchestrator.data.rows.shapes import require_kind

EVAL_KINDS = ("group", "labelled", "pair")


@dataclass(frozen=True)
class EvalRequest:
    """What to read as evaluation data; `columns` are {new: old}, labels from `min_label` to `max_label` become 0 to 1.

    `corpus`: groups and labelled rows become queries over one corpus. Groups need no negatives. `scores_as_labels` and
    `ignore` are as in RowRules, `encoding` as in Source.
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
    encoding: str | None = None


def prepare_eval(
    request: EvalRequest, out: Path, *, on_progress: Callable[[int, int], None] | None = None
) -> PassResult:
    """Write eval.jsonl (corpus.jsonl), stats.json and ledger.json into `out`, or none of them; else as `prepare`."""
    whole = Request(
        train_files=(),
        eval_files=request.files,
        seed=request.seed,
        limit_eval=request.limit,
        rules=build_rules(request),
        corpus=request.corpus,
        encoding=request.encoding,
    )
    return prepare(whole, Outputs(out, max_dropped=request.max_dropped), on_progress=on_progress)


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


def parse_arguments(argv: Sequence[str] | None) -> tuple[EvalRequest, Path]:
    """Return what the command line asks for. Exits with code 2 when it makes no sense."""
    parser = argparse.ArgumentParser(prog="orchestrator.data.prepare_eval", allow_abbrev=False)
    add = parser.add_argument
    add("--eval", nargs="+", type=Path, required=True, metavar="FILE", help="eval rows")
    add("--kind", choices=EVAL_KINDS, default="group", help="what the rows are (default group)")
    add("--corpus", action="store_true", help="evaluate over a corpus of all documents")
    add_shared(parser)
    given = parser.parse_args(argv)
    if given.corpus and given.kind == "pair":
        parser.error("--corpus goes with --kind group or labelled")
    check_label_range(parser, given)
    columns = read_columns(parser, given)
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
        given.encoding,
    )
    return request, given.out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; progress, sums and labels go to stdout, warnings and problems to stderr."""
    request, out = parse_arguments(argv)
    return report(lambda: prepare_eval(request, out, on_progress=report_progress))


if __name__ == "__main__":
    raise SystemExit(main())
