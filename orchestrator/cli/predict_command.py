"""The command predict: a run's packaged model asked as a service would ask it."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import as_json, runs_option, trust_code_option, trust_run_option
from orchestrator.cli.output import print_json
from orchestrator.errors import DataError, StageFailedError, Where
from orchestrator.machine.json_files import DamagedJsonError, parse_json
from orchestrator.machine.terminal import hand_on, print_data, say
from orchestrator.serving.artefact import Artefact

_FACTS = "orch-facts "  # workers/predict.py writes them
# What a line of stdin looks like, by what the model does.
_SHAPES = {
    "reranker": '{"query": "…", "document": "…"}',
    "embedding": '{"query": "…"} or {"document": "…"}',
    "chat": '{"prompt": "…"} or {"messages": […]}',
}
_KEYS = {
    "reranker": ({"query", "document"},),
    "embedding": ({"query"}, {"document"}),
    "chat": ({"prompt"}, {"messages"}),
}
# What each answer of the worker holds.
_ANSWERS = {
    "reranker": {"score"},
    "embedding": {"query", "document", "score"},
    "vectors": {"vector"},
    "chat": {"answer"},
}


@dataclass(frozen=True)
class _Asked:
    """What the options give."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    prompts: tuple[str, ...]


@click.command("predict")
@click.argument("run", default="last")
@click.option("-q", "--query", "queries", multiple=True, help="A query; may be repeated.")
@click.option("-d", "--document", "documents", multiple=True, help="A document; may be repeated.")
@click.option("-p", "--prompt", "prompts", multiple=True, help="What an LLM is asked; may be repeated.")
@click.option("--vectors", is_flag=True, help="An embedding model's vectors instead of similarities.")
@trust_code_option
@trust_run_option
@runs_option
@as_json
def predict_command(
    run: str,
    queries: tuple[str, ...],
    documents: tuple[str, ...],
    prompts: tuple[str, ...],
    vectors: bool,
    trust_remote_code: bool,
    trust_run: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Ask RUN's packaged model: scores of a reranker, similarities of an embedding model, answers of an LLM.

    Without options, rows are read from stdin as JSON Lines: {"query": …, "document": …} for a reranker, {"query": …}
    and {"document": …} for an embedding model, {"prompt": …} for an LLM.
    """
    from orchestrator.cli.loadable import require_artefact_loads
    from orchestrator.serving.artefact import find_artefact, require_trusted_code

    artefact = find_artefact(run, runs, trust_remote_code=trust_remote_code, trust_run=trust_run)
    kind = artefact.kind
    if vectors and kind != "embedding":
        raise click.UsageError("--vectors is for embedding models")
    asked = _Asked(queries, documents, prompts)
    rows = _build_rows(kind, asked, vectors=vectors) if any((queries, documents, prompts)) else _read_rows(kind)
    require_trusted_code(artefact, is_run_anyway=False)
    require_artefact_loads(artefact)
    answers = _ask(artefact, rows, vectors=vectors)
    if kind == "reranker":
        answers = [{**row, **answer} for row, answer in zip(rows, answers, strict=True)]
    if kind != "chat" and queries and not vectors:
        order = {query: place for place, query in enumerate(dict.fromkeys(queries))}
        answers.sort(key=lambda row: (order[row["query"]], -float(row["score"])))
    if as_json:
        print_json("predict", answers)
        return
    _print(kind, rows, answers, vectors=vectors)


def _build_rows(kind: str, asked: _Asked, *, vectors: bool) -> list[dict[str, Any]]:
    if kind == "chat":
        if asked.queries or asked.documents or not asked.prompts:
            raise click.UsageError("an LLM is asked with --prompt")
        return [{"prompt": prompt} for prompt in asked.prompts]
    if asked.prompts:
        raise click.UsageError("--prompt is for LLMs; give --query and --document")
    if not vectors and not asked.documents:
        raise click.UsageError("give at least one --document")
    if not vectors and not asked.queries:
        raise click.UsageError("give at least one --query")
    if kind == "embedding":
        return [*({"query": text} for text in asked.queries), *({"document": text} for text in asked.documents)]
    return [{"query": query, "document": document} for query in asked.queries for document in asked.documents]


def _read_rows(kind: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(sys.stdin, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except DamagedJsonError:
            row = None
        if not isinstance(row, dict) or not any(keys <= row.keys() for keys in _KEYS[kind]):
            raise DataError("not such a row", hint=f"a line reads {_SHAPES[kind]}", where=Where("<stdin>", number))
        rows.append({key: row[key] for keys in _KEYS[kind] for key in sorted(keys) if key in row})
    if not rows:
        raise DataError("no rows on stdin", hint=f"write lines such as {_SHAPES[kind]}, or give options")
    return rows


def _ask(artefact: Artefact, rows: list[dict[str, Any]], *, vectors: bool) -> list[dict[str, Any]]:
    """Return the worker's answers. Raises what `run_worker` does."""
    from orchestrator.evaluation.metrics import describe_cut
    from orchestrator.recipe.plan import Command
    from orchestrator.serving.worker import Words, run_worker

    with tempfile.TemporaryDirectory(prefix="orch-predict-") as folder:
        asked = Path(folder, "rows.jsonl")
        asked.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        flags = [
            *(["--vectors"] if vectors else []),
            *(["--trust-remote-code"] if artefact.trusts_remote_code else []),
        ]
        argv = (artefact.python, artefact.workers, "predict", "--model", str(artefact.folder), "--rows", str(asked))
        command = Command((*argv, *flags), env=tuple(artefact.env.items()), cwd=str(Path.cwd()))
        said = run_worker(command, Words("the model cannot be asked", "the model was not asked to the end"))
    for line in said.splitlines():
        if line.startswith(_FACTS) and (cut := describe_cut(parse_json(line.removeprefix(_FACTS)))):
            say(f"caution: {cut}", err=True)
    return parse_answers(said, rows, "vectors" if vectors else artefact.kind)


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


def _print(kind: str, rows: list[dict[str, Any]], answers: list[dict[str, Any]], *, vectors: bool) -> None:
    if vectors:
        for answer in answers:
            print_data(answer, indent=None)
    elif kind == "chat":
        for row, answer in zip(rows, answers, strict=True):
            if len(rows) > 1:
                hand_on(row.get("prompt") or row["messages"][-1]["content"], bold=True)
            hand_on(answer["answer"])
    else:
        several = len({row["query"] for row in answers}) > 1
        for query, found in groupby(answers, key=lambda row: row["query"]):
            if several:
                hand_on(query, bold=True)
            for row in found:
                hand_on(f"{float(row['score']):10.4f}  {row['document']}")
