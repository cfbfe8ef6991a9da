"""The prepare stage: users' files become the backend's training file, the eval set, the ledger and the statistics.

    python -m orchestrator.data.prepare --train FILE… [--eval FILE… | --eval-ratio R] --form flagembedding --out DIR

Exit codes: 0; 3 when the data must not be used (then nothing that could be trained on is there); 4 when it cannot be
written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.data.describe import describe_problem, describe_sums, describe_warnings
from orchestrator.data.gather import Request, gather
from orchestrator.data.groups import RankingGroup, build_eval_row
from orchestrator.data.reasons import REASONS, refuse
from orchestrator.data.tokens import DEFAULT_PROMPT, LengthBudget
from orchestrator.data.verdict import Gathered, require_usable
from orchestrator.data.writers import TRAIN_FORMS, FileSet, format_line, remove_files
from orchestrator.errors import DataError, OrchError, PreflightError
from orchestrator.rundir import RunDir, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

_NAMES = RunDir(Path())
# In this order they get their names: what could be trained on comes last.
OUTPUT_NAMES = tuple(
    path.name for path in (_NAMES.stats_json, _NAMES.ledger_json, _NAMES.eval_jsonl, _NAMES.train_jsonl)
)
FAILED_LEDGER_NAME = "ledger.failed.json"


@dataclass(frozen=True)
class Outputs:
    """Where the prepared data goes, and in which backend's form."""

    folder: Path
    form: str
    max_dropped: int = 0
    full_batch_rows: int = 1


def prepare(request: Request, outputs: Outputs, *, on_progress: Callable[[int, int], None] | None = None) -> Gathered:
    """Write train.jsonl, eval.jsonl (where the request has an eval side), ledger.json and stats.json, or none of them.

    The files of an earlier call are removed first. Raises DataError when the data must not be used, and then leaves
    only ledger.failed.json; PreflightError when the folder cannot be written.
    """
    paths = [outputs.folder / name for name in OUTPUT_NAMES]
    failed = outputs.folder / FAILED_LEDGER_NAME
    _refuse_input_as_output(request, [*paths, failed])
    try:
        remove_files([*paths, failed])
        gathered = _attempt(request, outputs, None, on_progress)
        if gathered.mended_cut is not None:
            gathered = _attempt(request, outputs, gathered.mended_cut, on_progress)
    except OSError as error:
        message = f"the prepared data cannot be written: {error.strerror or error}"
        raise PreflightError(message, hint=f"see to the disk and the permissions of {outputs.folder}") from error
    return gathered


def _attempt(
    request: Request, outputs: Outputs, cut: int | None, on_progress: Callable[[int, int], None] | None
) -> Gathered:
    """Make one pass and write its files, unless the cut must be mended first."""
    with FileSet() as files:
        has_eval = bool(request.eval_files) or request.eval_ratio is not None
        names = [name for name in OUTPUT_NAMES if has_eval or name != _NAMES.eval_jsonl.name]
        streams = {name: files.open(outputs.folder / name) for name in names}
        gathered = gather(
            request,
            cut=cut,
            on_train=_train_sink(streams[_NAMES.train_jsonl.name], outputs.form),
            on_eval=_eval_sink(streams[_NAMES.eval_jsonl.name], request.seed) if has_eval else None,
            on_progress=on_progress,
        )
        if gathered.mended_cut is not None:
            return gathered
        try:
            require_usable(gathered, outputs.max_dropped)
            _require_full_batch(gathered, outputs.full_batch_rows)
        except OrchError:
            write_json(outputs.folder / FAILED_LEDGER_NAME, gathered.ledger.to_json())
            raise
        streams[_NAMES.stats_json.name].write(_format_json(gathered.stats))
        streams[_NAMES.ledger_json.name].write(_format_json(gathered.ledger.to_json()))
        files.commit()
    return gathered


def _require_full_batch(gathered: Gathered, rows: int) -> None:
    """Raise DataError when the trainer, which drops an incomplete last batch, would have nothing to train on."""
    kept = gathered.ledger.sides["train"].kept
    if kept < rows:
        raise DataError(
            f"too-few-rows: {kept} training rows are left, and one step of the trainer takes {rows}",
            hint=REASONS["too-few-rows"].remedy,
        )


def _train_sink(stream: BinaryIO, form: str) -> Callable[[RankingGroup], None]:
    build_row = TRAIN_FORMS[form]

    def write(group: RankingGroup) -> None:
        stream.write(format_line(build_row(group)))

    return write


def _eval_sink(stream: BinaryIO, seed: int) -> Callable[[RankingGroup], None]:
    number = 0

    def write(group: RankingGroup) -> None:
        nonlocal number
        number += 1
        stream.write(format_line(build_eval_row(group, number, seed)))

    return write


def _format_json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()


def _refuse_input_as_output(request: Request, outputs: Sequence[Path]) -> None:
    written = {os.path.realpath(path) for path in outputs}
    for path in (*request.train_files, *request.eval_files):
        if os.path.realpath(path) in written:
            raise refuse("input-is-output", "this file would be overwritten by the prepared one", path)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return number


def _not_negative(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def _ratio(text: str) -> float:
    if not 0 < (number := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="orchestrator.data.prepare", allow_abbrev=False, description=__doc__)
    add = parser.add_argument
    add("--train", nargs="+", type=Path, required=True, metavar="FILE", help="training rows, .jsonl or .json")
    side = parser.add_mutually_exclusive_group()
    side.add_argument("--eval", nargs="+", type=Path, default=[], metavar="FILE", help="eval rows")
    side.add_argument("--eval-ratio", type=_ratio, metavar="R", help="share of the queries to hold out")
    add("--form", choices=sorted(TRAIN_FORMS), required=True, help="whose training rows to write")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the prepared files")
    add("--max-dropped", type=_not_negative, default=0, metavar="N", help="bad rows that may be dropped (default 0)")
    add("--allow-overlap", action="store_true", help="keep training rows whose query is in the eval set")
    add("--seed", type=int, default=42, help="of the split and of the documents' order (default 42)")
    add("--tokenizer", type=Path, metavar="PATH", help="tokenizer.json, or its folder: count tokens")
    add("--query-max-len", type=_positive, metavar="N", help="with --tokenizer: say what will be cut")
    add("--passage-max-len", type=_positive, metavar="N")
    add("--query-instruction", default="", metavar="TEXT", help="stands in front of every query")
    add("--passage-instruction", default="", metavar="TEXT", help="stands in front of every document")
    add("--prompt", default=DEFAULT_PROMPT, metavar="TEXT", help="stands behind every pair (FlagEmbedding's default)")
    add("--full-batch", type=_positive, default=1, metavar="N", help="rows that one step takes on all processes")
    add("--limit-train", type=_positive, metavar="N", help="keep the first N training rows")
    add("--limit-eval", type=_positive, metavar="N", help="keep the first N eval rows")
    return parser


def _parse(argv: Sequence[str] | None) -> tuple[Request, Outputs]:
    parser = _build_parser()
    given = parser.parse_args(argv)
    lengths = (given.query_max_len, given.passage_max_len)
    if lengths.count(None) == 1:
        parser.error("--query-max-len and --passage-max-len go together")
    budget = None
    if None not in lengths:
        budget = LengthBudget(*lengths, given.query_instruction, given.passage_instruction, given.prompt)
    request = Request(
        train_files=tuple(given.train),
        eval_files=tuple(given.eval),
        eval_ratio=given.eval_ratio,
        seed=given.seed,
        allow_overlap=given.allow_overlap,
        limit_train=given.limit_train,
        limit_eval=given.limit_eval,
        tokenizer=given.tokenizer,
        budget=budget,
    )
    return request, Outputs(given.out, given.form, given.max_dropped, given.full_batch)


def _report_progress(done: int, total: int) -> None:
    sys.stdout.write(f"orch-progress {done}/{total}\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; progress and the sums go to stdout, warnings and problems to stderr."""
    request, outputs = _parse(argv)
    try:
        gathered = prepare(request, outputs, on_progress=_report_progress)
    except OrchError as error:
        sys.stderr.writelines(f"{describe_problem(problem)}\n" for problem in error.problems)
        return error.exit_code
    sys.stderr.writelines(f"dropped: {describe_problem(problem)}\n" for problem in gathered.bad_rows)
    sys.stderr.writelines(f"{line}\n" for line in describe_warnings(gathered.ledger))
    sys.stdout.writelines(f"{line}\n" for line in describe_sums(gathered.ledger))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
