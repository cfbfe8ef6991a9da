"""Asks a packaged model rows, as a service would, in its own Python: scores, similarities, vectors or answers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from orchestrator.errors import DataError, StageFailedError, Where
from orchestrator.evaluation.metrics import describe_cut
from orchestrator.machine.json_files import DamagedJsonError, parse_json
from orchestrator.recipe.plan import Command
from orchestrator.serving.artefact import Artefact
from orchestrator.serving.worker import Words, run_worker

_FACTS = "orch-facts "  # workers/score.py writes them
# By what the model does: what a line of JSON Lines looks like, the keys of which it has one set, and what the worker's
# answer to it holds.
_SHAPES = {
    "reranker": '{"query": "…", "document": "…"}',
    "embedding": '{"query": "…"} or {"document": "…"}',
    "chat": '{"prompt": "…"} or {"messages": […]}',
}
_KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "reranker": (("document", "query"),),
    "embedding": (("query",), ("document",)),
    "chat": (("prompt",), ("messages",)),
}
_ANSWERS = {
    "reranker": {"score"},
    "embedding": {"query", "document", "score"},
    "vectors": {"vector"},
    "chat": {"answer"},
}


def read_rows(kind: str, lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows of JSON Lines from stdin for a kind of model. Raises DataError for another row, or for none."""
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except DamagedJsonError:
            row = None
        if not isinstance(row, dict) or not any(row.keys() >= set(keys) for keys in _KEYS[kind]):
            raise DataError("not such a row", hint=f"a line reads {_SHAPES[kind]}", where=Where("<stdin>", number))
        rows.append({key: row[key] for keys in _KEYS[kind] for key in keys if key in row})
    if not rows:
        raise DataError("no rows on stdin", hint=f"write lines such as {_SHAPES[kind]}, or give options")
    return rows


def ask_model(
    artefact: Artefact, rows: list[dict[str, Any]], *, vectors: bool, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return the model's answers; `tell` hears which texts were cut. Raises what `run_worker` does.

    A reranker gives {"query", "document", "score"} of each row, an embedding model the same of each query with each
    document, or with `vectors` {"vector", …} of each row, an LLM {"answer"}.
    """
    with tempfile.TemporaryDirectory(prefix="orch-predict-") as folder:
        asked = Path(folder, "rows.jsonl")
        asked.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        argv = [artefact.python, artefact.workers, "predict", "--model", str(artefact.folder), "--rows", str(asked)]
        argv += ["--vectors"] if vectors else []
        argv += ["--trust-remote-code"] if artefact.trusts_remote_code else []
        command = Command(tuple(argv), env=tuple(artefact.env.items()), cwd=str(Path.cwd()))
        said = run_worker(command, Words("the model cannot be asked", "the model was not asked to the end"))
    for line in said.splitlines():
        if line.startswith(_FACTS) and (cut := describe_cut(parse_json(line.removeprefix(_FACTS)))):
            tell(cut)
    answers = parse_answers(said, rows, "vectors" if vectors else artefact.kind)
    if artefact.kind == "reranker":
        return [{**row, **answer} for row, answer in zip(rows, answers, strict=True)]
    return answers


def parse_answers(text: str, rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the worker's answers. Raises StageFailedError where they are not answers to the rows."""
    answers: list[dict[str, Any]] = []
    hint = "ask fewer rows at once; if it stays so, package the model again"
    try:
        for line in text.splitlines():
            if line.startswith("["):
                answers += parse_json(line, constants=True)
            elif line.startswith("{"):
                answers.append(parse_json(line, constants=True))
    except DamagedJsonError as error:
        raise StageFailedError(f"the model's answers cannot be read: {error}", hint=hint) from None
    whole = all(isinstance(answer, dict) and _ANSWERS[kind] <= answer.keys() for answer in answers)
    if kind == "embedding":  # each query with each document
        asked = {row["query"] for row in rows if "query" in row}
        whole = whole and all(answer["query"] in asked for answer in answers)
    elif len(answers) != len(rows):
        whole = False
    if not whole:
        raise StageFailedError(f"the model gave {len(answers)} answers to {len(rows)} rows", hint=hint)
    return answers
