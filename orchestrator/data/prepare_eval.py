"""The prepare stage of evaluation data alone: users' files become an eval set, its ledger and its statistics.

    python -m orchestrator.data.prepare_eval --eval FILE… --kind group|labelled|pair|class --out DIR

Exit codes as of the prepare stage: 0; 3 when the data must not be used; 4 when it cannot be written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.data.ledger import PassResult
from orchestrator.data.prepare import prepare, run_stage
from orchestrator.data.request import Outputs, Request, RowFiles, add_shared, check_shared, read_row_files

EVAL_KINDS = ("group", "labelled", "pair", "class")


def prepare_eval(rows: RowFiles, out: Path, *, corpus: bool = False, seed: int = 42) -> PassResult:
    """Write eval.jsonl (corpus.jsonl), stats.json and ledger.json into `out`, or none of them; else as `prepare`.

    With `corpus` groups and labelled rows become queries over one corpus, as texts with classes always do.
    """
    return prepare(*_build_request(rows, out, corpus=corpus, seed=seed))


def _build_request(rows: RowFiles, out: Path, *, corpus: bool, seed: int) -> tuple[Request, Outputs]:
    rules = replace(rows.rules, needs_negatives=False)
    request = Request(
        train_files=(), eval_files=rows.files, seed=seed, limit_eval=rows.limit, rules=rules,
        corpus=corpus or rules.kind == "class",
    )  # fmt: skip
    return request, Outputs(out, max_dropped=rows.max_dropped)


def parse_arguments(argv: Sequence[str] | None) -> tuple[Request, Outputs]:
    """Return what the command line asks for. Exits with code 2 when it makes no sense."""
    parser = argparse.ArgumentParser(prog="orchestrator.data.prepare_eval", allow_abbrev=False)
    add = parser.add_argument
    add("--eval", nargs="+", type=Path, required=True, metavar="FILE", help="eval rows")
    add("--kind", choices=EVAL_KINDS, default="group", help="what the rows are (default group)")
    add_shared(parser)
    given = parser.parse_args(argv)
    check_shared(parser, given)
    rows = read_row_files(parser, given, given.eval)
    return _build_request(rows, given.out, corpus=given.corpus, seed=given.seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; progress, sums and labels go to stdout, warnings and problems to stderr."""
    return run_stage(*parse_arguments(argv))


if __name__ == "__main__":
    raise SystemExit(main())
