"""The prepare stage: users' files become the backend's training files, the eval set, the ledger and the statistics.

    python -m orchestrator.data.prepare --train FILE… [--eval FILE… | --eval-ratio R] --form flagembedding --out DIR

Exit codes: 0; 3 when the data must not be used (then nothing that could be trained on is there); 4 when it cannot be
written.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import BinaryIO

from orchestrator.data import writers
from orchestrator.data.check import describe_problem, describe_sums, describe_supervision, describe_warnings
from orchestrator.data.data_pass import run_data_pass
from orchestrator.data.forms import TrainWriter
from orchestrator.data.ledger import PassResult, Warned, require_usable
from orchestrator.data.reasons import REASONS
from orchestrator.data.request import Outputs, Request, parse_arguments
from orchestrator.data.rows.records import Record
from orchestrator.data.writers import CORPUS, EVAL, LEDGER, SOURCES, STATS, TRAIN, VALIDATION, FileSet, format_json
from orchestrator.errors import DataError, OrchError, PreflightError
from orchestrator.machine.files import write_json
from orchestrator.machine.terminal import say, say_lines

# In this order they get their names: what could be trained on comes last.
OUTPUT_NAMES = (STATS, LEDGER, EVAL, CORPUS, VALIDATION, TRAIN)
EVAL_NAMES = (STATS, LEDGER, CORPUS, EVAL)  # of a request without training files
_Writer = TrainWriter | writers.EvalWriter | writers.RetrievalWriter


def prepare(request: Request, outputs: Outputs, *, on_progress: Callable[[int, int], None] | None = None) -> PassResult:
    """Write the files of OUTPUT_NAMES that the request asks for, or none of them.

    There are always stats.json and ledger.json; train.jsonl where the request has training files, eval.jsonl where it
    has an eval side, with corpus.jsonl where it asks for one; validation.jsonl with a validation ratio.
    The files of an earlier call are removed first. Raises DataError when the data must not be used, and then leaves
    only ledger.failed.json; PreflightError when the folder cannot be written.
    """
    names = OUTPUT_NAMES if request.train_files else EVAL_NAMES
    sources = [f"{SOURCES}/{name}" for name in outputs.sources]
    paths = [outputs.folder / name for name in (*names, *sources, writers.FAILED_LEDGER)]
    writers.refuse_input_as_output((*request.train_files, *request.eval_files), paths)
    try:
        writers.remove_files(paths)
        (outputs.folder / (SOURCES if sources else "")).mkdir(parents=True, exist_ok=True)
        request = replace(request, spool_folder=str(outputs.folder))
        gathered = _attempt(request, outputs, None, on_progress)
        while gathered.adjusted is not None:  # twice at most: the eval side's, then the validation side's
            gathered = _attempt(request, outputs, gathered.adjusted, on_progress)
    except OSError as error:
        message = f"the prepared data cannot be written: {error.strerror or error}"
        raise PreflightError(message, hint=f"see to the disk and the permissions of {outputs.folder}") from error
    return gathered


def _attempt(
    request: Request,
    outputs: Outputs,
    thresholds: dict[str, int] | None,
    on_progress: Callable[[int, int], None] | None,
) -> PassResult:
    """Make one pass and write its files, unless a cut must be adjusted first."""
    with FileSet() as files, contextlib.ExitStack() as spools:
        stats, ledger = (files.open(outputs.folder / name) for name in (STATS, LEDGER))
        sides = _open_writers(request, outputs, files, spools)
        sinks: dict[str, Callable[[Record], None]] = {f"on_{side}": writer.add for side, writer in sides.items()}
        named = zip(request.train_files, outputs.sources, strict=bool(outputs.sources))
        by_source = {path.name: _open_train(outputs, f"{SOURCES}/{name}", files, spools) for path, name in named}
        if by_source:  # the training rows a second time, those of each file in one of its own

            def add(record: Record) -> None:
                sides["train"].add(record)
                by_source[record.source].add(record)

            sinks["on_train"] = add
        gathered = run_data_pass(request, thresholds=thresholds, on_progress=on_progress, **sinks)
        if gathered.adjusted is not None:
            return gathered
        lines = {side: writer.lines for side, writer in sides.items() if isinstance(writer, TrainWriter)}
        try:
            require_usable(gathered, outputs.max_dropped)
            if request.train_files:
                parts = {source: writer.lines for source, writer in by_source.items()} or {"": lines["train"]}
                _require_rows(lines, parts, outputs, request)
                gathered = _warn_left_over(gathered, parts, outputs.full_batch_rows)
        except OrchError:
            write_json(outputs.folder / writers.FAILED_LEDGER, gathered.ledger.to_json())
            raise
        for writer in (*sides.values(), *by_source.values()):
            writer.close()
        if request.rules.kind == "labelled":
            for side, count in lines.items():
                gathered.stats[side]["lines"] = count
        stats.write(format_json(gathered.stats))
        ledger.write(format_json(gathered.ledger.to_json()))
        files.commit()
    return gathered


def _open_writers(
    request: Request, outputs: Outputs, files: FileSet, spools: contextlib.ExitStack
) -> dict[str, _Writer]:
    """Open the files of every side, in the order of their names in OUTPUT_NAMES; return side → writer."""
    sides: dict[str, _Writer] = {}
    if request.eval_files or request.eval_ratio is not None:
        rows = files.open(outputs.folder / EVAL)
        if request.corpus:
            corpus, spool = files.open(outputs.folder / CORPUS), _open_spool(outputs, spools)
            sides["eval"] = writers.RetrievalWriter(rows, corpus, spool, request.seed)
        else:
            sides["eval"] = writers.EvalWriter(rows, request.seed)
    trained = [("validation", VALIDATION)] if request.validation_ratio is not None else []
    trained += [("train", TRAIN)] if request.train_files else []
    for side, name in trained:
        sides[side] = _open_train(outputs, name, files, spools)
    return sides


def _open_train(outputs: Outputs, name: str, files: FileSet, spools: contextlib.ExitStack) -> TrainWriter:
    stream = files.open(outputs.folder / name)
    return TrainWriter(stream, _open_spool(outputs, spools), outputs.form, outputs.options)


def _open_spool(outputs: Outputs, spools: contextlib.ExitStack) -> BinaryIO:
    return spools.enter_context(tempfile.TemporaryFile(dir=outputs.folder))


def _require_rows(lines: dict[str, int], parts: dict[str, int], outputs: Outputs, request: Request) -> None:
    """Raise DataError when the trainer would have nothing to train on: it drops an incomplete last batch.

    Nor may a file of its own be empty: the datasets library reads none such.
    """
    if lines["train"] < outputs.full_batch_rows:
        raise DataError(
            f"too-few-rows: {lines['train']} training rows are left, "
            f"and one step of the trainer takes {outputs.full_batch_rows}",
            hint=REASONS["too-few-rows"].remedy,
        )
    if lines.get("validation", request.min_validation) < request.min_validation:
        raise DataError(
            f"too-few-validation-rows: {lines['validation']} validation rows are left, and the trainer takes "
            f"{request.min_validation} an evaluation batch; with fewer ms-swift dies of KeyError eval_loss",
            hint=REASONS["too-few-validation-rows"].remedy,
        )
    if empty := [source for source, count in parts.items() if not count]:
        message = f"no-rows-kept: no row is left of {', '.join(empty)}, and each file makes batches of its own"
        raise DataError(message, hint="remove the file from data.train, or same_dataset_within_batch")


def _warn_left_over(gathered: PassResult, parts: dict[str, int], batch: int) -> PassResult:
    """Add to the ledger that the last batch of each epoch is not full, and dropped; of each source, where there are."""
    lines = sum(parts.values())
    if not (left := sum(count % batch for count in parts.values())):
        return gathered
    message = f"{left} of {lines} training rows do not fill a batch of {batch}: each epoch leaves out others"
    if whole := [name for name, count in parts.items() if 0 < count < batch and len(parts) > 1]:
        message += f"; {', '.join(whole)} {'has' if len(whole) == 1 else 'have'} fewer rows than one, and none is used"
    ledger = gathered.ledger
    warned = (*ledger.warnings, Warned("rows-left-over", message, left))
    return replace(gathered, ledger=replace(ledger, warnings=warned))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; progress and the sums go to stdout, warnings and problems to stderr."""
    return run_stage(*parse_arguments(argv))


def run_stage(request: Request, outputs: Outputs) -> int:
    """Prepare, and print what was found, or the problems; return the exit code."""
    try:
        # the supervisor reads these lines; both numbers in bytes
        gathered = prepare(request, outputs, on_progress=lambda done, total: say(f"orch-progress {done}/{total}"))
    except OrchError as error:
        say_lines(map(describe_problem, error.problems), err=True)
        return error.exit_code
    say_lines((f"dropped: {describe_problem(problem)}" for problem in gathered.bad_rows), err=True)
    say_lines(describe_warnings(gathered.ledger), err=True)
    say_lines([*describe_sums(gathered.ledger), *describe_supervision(gathered.stats)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
