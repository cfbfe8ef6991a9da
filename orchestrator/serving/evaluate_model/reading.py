"""The user's files → the evaluation set, its ledger and its statistics, as a run's prepare stage writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.data.describe import describe_problem, describe_warnings
from orchestrator.data.prepare_eval import EVAL_KINDS, EvalRequest, prepare_eval
from orchestrator.data.rows.records import Kind
from orchestrator.data.rows.shapes import require_kind
from orchestrator.data.sniffing import sniff_kind
from orchestrator.errors import DataError
from orchestrator.machine.rundir import RunDir

_NAMES = RunDir(Path())


@dataclass(frozen=True)
class EvalRows:
    """An evaluation set on disk; `corpus` is what its queries search, where they search one."""

    path: Path
    corpus: Path | None


def sniff_data(files: Sequence[Path], columns: Mapping[str, str]) -> Kind:
    """Return the kind of the rows: group, labelled or pair; what cannot be told is read as groups, which says why.

    Raises DataError for rows that measure something else.
    """
    kind = sniff_kind(files[0], columns) or "group"
    if kind not in EVAL_KINDS:
        raise DataError(
            f"{files[0]} holds {kind} rows: an LLM's answers are measured by the run that trains it",
            hint="give ranking groups, labelled documents of a query, or scored pairs of texts",
        )
    return require_kind(kind)


def read_data(data: EvalRequest, folder: Path, *, searches: bool, tell: Callable[[str], None]) -> EvalRows:
    """Write the evaluation set into `folder`, with a corpus where queries search; `tell` hears what was left out.

    Raises DataError when the data must not be used.
    """
    gathered = prepare_eval(replace(data, corpus=searches), folder)
    for problem in gathered.bad_rows:
        tell(f"dropped: {describe_problem(problem)}")
    for line in describe_warnings(gathered.ledger):
        tell(line)
    corpus = folder / _NAMES.corpus_jsonl.name
    return EvalRows(folder / _NAMES.eval_jsonl.name, corpus if searches else None)
