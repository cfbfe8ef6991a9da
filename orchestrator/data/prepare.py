"""The prepare stage: users' files become the backend's training files, the eval set, the ledger and the statistics.

    python -m orchestrator.data.prepare --train FILE… [--eval FILE… | --eval-ratio R] --form flagembedding --out DIR

Exit codes: 0; 3 when the data must not be used (then nothing that could be trained on is there); 4 when it cannot be
written.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.data.describe import describe_problem, describe_sums, describe_warnings
from orchestrator.data.gather import Request, gather
from orchestrator.data.prepare_arguments import Outputs, parse_arguments
from orchestrator.data.reasons import REASONS, refuse
from orchestrator.data.verdict import Gathered, require_usable
from orchestrator.data.writing.corpus import RetrievalWriter
from orchestrator.data.writing.eval_rows import EvalWriter
from orchestrator.data.writing.train_rows import TrainWriter
from orchestrator.data.writing.writers import FileSet, remove_files
from orchestrator.errors import DataError, OrchError, PreflightError
from orchestrator.rundir import RunDir, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from orchestrator.data.rows.records import Record
    from orchestrator.data.sides import Cuts

_NAMES = RunDir(Path())
_STATS, _LEDGER = _NAMES.stats_json.name, _NAMES.ledger_json.name
_EVAL, _CORPUS = _NAMES.eval_jsonl.name, _NAMES.corpus_jsonl.name
_VALIDATION, _TRAIN = _NAMES.validation_jsonl.name, _NAMES.train_jsonl.name
# In this order they get their names: what could be trained on comes last.
OUTPUT_NAMES = (_STATS, _LEDGER, _EVAL, _CORPUS, _VALIDATION, _TRAIN)
FAILED_LEDGER_NAME = "ledger.failed.json"


class _Writer(Protocol):
    def add(self, record: Record) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class _Writers:
    """Where the records of each side go."""

    train: _Writer
    eval: _Writer | None
    validation: _Writer | None

    def close(self) -> None:
        for writer in (self.train, self.eval, self.validation):
            if writer:
                writer.close()


def prepare(request: Request, outputs: Outputs, *, on_progress: Callable[[int, int], None] | None = None) -> Gathered:
    """Write the files of OUTPUT_NAMES that the request asks for, or none of them.

    There are always stats.json, ledger.json and train.jsonl; eval.jsonl where the request has an eval side, with
    corpus.jsonl where it asks for one; validation.jsonl with a validation ratio.

    The files of an earlier call are removed first. Raises DataError when the data must not be used, and then leaves
    only ledger.failed.json; PreflightError when the folder cannot be written.
    """
    paths = [outputs.folder / name for name in OUTPUT_NAMES]
    failed = outputs.folder / FAILED_LEDGER_NAME
    _refuse_input_as_output(request, [*paths, failed])
    try:
        remove_files([*paths, failed])
        gathered = _attempt(request, outputs, None, on_progress)
        while gathered.mended_cuts is not None:  # twice at most: the eval side's, then the validation side's
            gathered = _attempt(request, outputs, gathered.mended_cuts, on_progress)
    except OSError as error:
        message = f"the prepared data cannot be written: {error.strerror or error}"
        raise PreflightError(message, hint=f"see to the disk and the permissions of {outputs.folder}") from error
    return gathered


def _attempt(
    request: Request, outputs: Outputs, cuts: Cuts | None, on_progress: Callable[[int, int], None] | None
) -> Gathered:
    """Make one pass and write its files, unless a cut must be mended first."""
    with FileSet() as files, contextlib.ExitStack() as spools:
        stats, ledger = (files.open(outputs.folder / name) for name in (_STATS, _LEDGER))
        writers = _open_writers(request, outputs, files, spools)
        gathered = gather(
            request,
            cuts=cuts,
            on_train=writers.train.add,
            on_eval=writers.eval.add if writers.eval else None,
            on_validation=writers.validation.add if writers.validation else None,
            on_progress=on_progress,
        )
        if gathered.mended_cuts is not None:
            return gathered
        try:
            require_usable(gathered, outputs.max_dropped)
            _require_rows(gathered, outputs, request)
        except OrchError:
            write_json(outputs.folder / FAILED_LEDGER_NAME, gathered.ledger.to_json())
            raise
        writers.close()
        stats.write(_format_json(gathered.stats))
        ledger.write(_format_json(gathered.ledger.to_json()))
        files.commit()
    return gathered


def _open_writers(request: Request, outputs: Outputs, files: FileSet, spools: contextlib.ExitStack) -> _Writers:
    """Open the files of every side, in the order of their names in OUTPUT_NAMES."""

    def open_spool() -> BinaryIO:
        outputs.folder.mkdir(parents=True, exist_ok=True)
        return spools.enter_context(tempfile.TemporaryFile(dir=outputs.folder))

    eval_writer: _Writer | None = None
    validation: _Writer | None = None
    if request.eval_files or request.eval_ratio is not None:
        eval_stream = files.open(outputs.folder / _EVAL)
        if request.corpus:
            corpus = files.open(outputs.folder / _CORPUS)
            eval_writer = RetrievalWriter(eval_stream, corpus, open_spool(), request.seed)
        else:
            eval_writer = EvalWriter(eval_stream, request.seed)
    if request.validation_ratio is not None:
        stream = files.open(outputs.folder / _VALIDATION)
        validation = TrainWriter(stream, open_spool(), outputs.form, outputs.options)
    train = TrainWriter(files.open(outputs.folder / _TRAIN), open_spool(), outputs.form, outputs.options)
    return _Writers(train, eval_writer, validation)


def _require_rows(gathered: Gathered, outputs: Outputs, request: Request) -> None:
    """Raise DataError when the trainer, which drops an incomplete last batch, would have nothing to train on."""
    kept = gathered.ledger.sides["train"].kept
    if kept < outputs.full_batch_rows:
        raise DataError(
            f"too-few-rows: {kept} training rows are left, and one step of the trainer takes {outputs.full_batch_rows}",
            hint=REASONS["too-few-rows"].remedy,
        )
    side = gathered.ledger.sides.get("validation")
    if side and side.kept < request.min_validation:
        raise DataError(
            f"too-few-validation-rows: {side.kept} validation rows are left, and the trainer takes "
            f"{request.min_validation} an evaluation batch; with fewer ms-swift dies of KeyError eval_loss",
            hint=REASONS["too-few-validation-rows"].remedy,
        )


def _format_json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()


def _refuse_input_as_output(request: Request, outputs: Sequence[Path]) -> None:
    written = {os.path.realpath(path) for path in outputs}
    for path in (*request.train_files, *request.eval_files):
        if os.path.realpath(path) in written:
            raise refuse("input-is-output", "this file would be overwritten by the prepared one", path)


def _report_progress(done: int, total: int) -> None:
    sys.stdout.write(f"orch-progress {done}/{total}\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; progress and the sums go to stdout, warnings and problems to stderr."""
    request, outputs = parse_arguments(argv)
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
