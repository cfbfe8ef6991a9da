"""Opens an eval.jsonl as the kind of evaluation set that its rows say it is, and describes it by counts and hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError
from orchestrator.evaluation.chats import load_chat_eval
from orchestrator.evaluation.groups import load_group_eval, load_retrieval_eval
from orchestrator.evaluation.lines import read_lines
from orchestrator.evaluation.measured import EvalSet
from orchestrator.evaluation.measures import RETRIEVAL
from orchestrator.evaluation.pairs import load_pair_eval
from orchestrator.machine.rundir import RunDir

CORPUS = RunDir(Path()).corpus_jsonl.name  # beside eval.jsonl


def load_eval(path: Path) -> EvalSet | None:
    """Return the evaluation set of a run; None where there is none, or it is empty.

    Raises RunFolderError for rows of no known kind, and for damaged ones.
    """
    first = next(iter(read_lines(path)), None) if path.is_file() else None
    if first is None:
        return None
    where, row = first
    keys = row if isinstance(row, dict) else {}
    if "relevant" in keys:
        return load_retrieval_eval(path, path.with_name(CORPUS))
    if "text1" in keys:
        return load_pair_eval(path)
    if "messages" in keys:
        return load_chat_eval(path)
    if "documents" in keys:
        return load_group_eval(path)
    raise RunFolderError(
        "not a row of an evaluation set: it has none of documents, relevant, text1, messages",
        hint="eval.jsonl is written by the prepare stage: remove that stage's result.json and run orch resume",
        where=where,
    )


def describe_eval(path: Path, evaluation: EvalSet, root: Path) -> dict[str, Any]:
    """Return what metrics.json says of an evaluation set; its paths start from `root`."""
    described: dict[str, Any] = {**_identify(path, root), "units": evaluation.size, **evaluation.describe()}
    if evaluation.kind == RETRIEVAL:
        described["corpus"] = _identify(path.with_name(CORPUS), root)
    return described


def _identify(path: Path, root: Path) -> dict[str, str]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"path": path.relative_to(root).as_posix(), "sha256": digest}
