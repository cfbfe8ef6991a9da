"""The files of prepared data: their names, the eval side's writer, and that no input is overwritten."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from orchestrator.data.reasons import refuse
from orchestrator.data.writing.corpus import RetrievalWriter
from orchestrator.data.writing.eval_rows import EvalWriter
from orchestrator.data.writing.writers import FileSet
from orchestrator.machine.rundir import RunDir

_NAMES = RunDir(Path())
STATS, LEDGER = _NAMES.stats_json.name, _NAMES.ledger_json.name
EVAL, CORPUS = _NAMES.eval_jsonl.name, _NAMES.corpus_jsonl.name
VALIDATION, TRAIN = _NAMES.validation_jsonl.name, _NAMES.train_jsonl.name
FAILED_LEDGER = "ledger.failed.json"


def open_eval(
    folder: Path, files: FileSet, *, seed: int, spool: Callable[[], BinaryIO] | None
) -> EvalWriter | RetrievalWriter:
    """Open eval.jsonl; with a `spool`, which opens a temporary file, as queries over a corpus.jsonl."""
    stream = files.open(folder / EVAL)
    if spool is None:
        return EvalWriter(stream, seed)
    return RetrievalWriter(stream, files.open(folder / CORPUS), spool(), seed)


def format_json(value: object) -> bytes:
    """Return a JSON file's bytes, the same for the same value."""
    return (json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()


def refuse_input_as_output(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raise DataError where a file to read would be overwritten."""
    written = {os.path.realpath(path) for path in outputs}
    for path in inputs:
        if os.path.realpath(path) in written:
            raise refuse("input-is-output", "this file would be overwritten by the prepared one", path)
