"""Ask a packaged model as its scoring.json says: a score a pair, cosines or vectors of texts, or an answer."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring import Pair, choose_device, load_scorer
from orchestrator.workers.reranker.scoring_spec import load_raw_spec, parse_spec


def read_objects(stream: TextIO, shape: str) -> list[tuple[int, dict[str, Any]]]:
    """Return number and object of every line. Raises WorkerError, which names `shape`, for a line without one."""
    rows = []
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise WorkerError(f"line {number} is not {shape}")
        rows.append((number, row))
    return rows


def read_pairs(stream: TextIO) -> list[Pair]:
    """Return the pairs of `{"query", "document"}` lines. Raises WorkerError for any other line."""
    shape = '{"query": …, "document": …}'
    pairs = []
    for number, row in read_objects(stream, shape):
        if "query" not in row or "document" not in row:
            raise WorkerError(f"line {number} is not {shape}")
        query, document = row["query"], row["document"]
        if not isinstance(query, str) or not isinstance(document, str):
            raise WorkerError(f"line {number}: query and document must be strings")
        pairs.append((query, document))
    return pairs


def read_texts(stream: TextIO) -> list[tuple[str, str]]:
    """Return (kind, text) of `{"query": …}` and `{"document": …}` lines. Raises WorkerError for any other line."""
    texts: list[tuple[str, str]] = []
    for number, row in read_objects(stream, '{"query": …} or {"document": …}'):
        kinds = [kind for kind in ("query", "document") if kind in row]
        if len(kinds) != 1 or not isinstance(row[kinds[0]], str):
            raise WorkerError(f'line {number} is not {{"query": …}} or {{"document": …}}, one text a line')
        texts.append((kinds[0], row[kinds[0]]))
    return texts


def predict_pairs(stream: TextIO, model: Path, raw: dict[str, Any], device: str | None) -> list[dict[str, Any]]:
    """Return one score a pair of standard input."""
    spec = parse_spec(raw, str(model / "scoring.json"))
    pairs = read_pairs(stream)
    scores: list[float] = []
    if pairs:
        # standard output is for scores: what libraries print while they load goes to standard error
        with contextlib.redirect_stdout(sys.stderr):
            scorer = load_scorer(str(model), spec, choose_device(device))
            scores = scorer.score(pairs, None)
        if stream is not sys.stdin:  # for orch, which says what was cut; a pipe gets scores alone
            sys.stdout.write(f"orch-facts {json.dumps(scorer.facts)}\n")
    if not all(map(math.isfinite, scores)):
        raise WorkerError("the model gives NaN or infinity: its weights or its precision are broken")
    return [{"score": score} for score in scores]


def predict_vectors(
    stream: TextIO, model: Path, raw: dict[str, Any], device: str | None
) -> tuple[list[tuple[str, str]], Any]:
    """Return the texts of standard input and their unit vectors."""
    embedding = importlib.import_module("orchestrator.workers.embedding.score")
    spec = importlib.import_module("orchestrator.workers.embedding.spec").parse_spec(raw, str(model / "scoring.json"))
    texts = read_texts(stream)
    if not texts:
        return [], []
    with contextlib.redirect_stdout(sys.stderr):
        return texts, embedding.embed_rows(model, spec, texts, device)


def compare_all(texts: Sequence[tuple[str, str]], vectors: Any) -> list[dict[str, Any]]:
    """Return the cosine of every query with every document, query by query."""
    numbered: dict[str, list[int]] = {"query": [], "document": []}
    for index, (kind, _) in enumerate(texts):
        numbered[kind].append(index)
    return [
        {"query": texts[query][1], "document": texts[document][1], "score": float(vectors[query] @ vectors[document])}
        for query in numbered["query"]
        for document in numbered["document"]
    ]


def predict_answers(stream: TextIO, model: Path, raw: dict[str, Any], device: str | None) -> list[dict[str, Any]]:
    """Return what the chat model answers to each line of standard input."""
    chat = importlib.import_module("orchestrator.workers.chat.generate")
    rows = [row for _, row in read_objects(stream, '{"messages": […]}')]
    with contextlib.redirect_stdout(sys.stderr):
        answers: list[dict[str, Any]] = chat.predict(model, raw, rows, choose_device(device))
    return answers


def main(argv: list[str]) -> int:
    """Read rows from standard input and write to standard output, one JSON line a row; cosines as one JSON array."""
    parser = argparse.ArgumentParser(prog="workers predict", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="a packaged folder, which holds scoring.json")
    parser.add_argument("--rows", type=Path, help="the rows, JSON Lines (default: standard input)")
    parser.add_argument("--device", help="cpu or cuda; the GPU when there is one")
    parser.add_argument("--vectors", action="store_true", help="an embedding model's vectors instead of cosines")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that the folder brings along")
    options = parser.parse_args(argv)
    # the folder says how its model is asked, and never what it may do
    raw = {**load_raw_spec(options.model / "scoring.json"), "trust_remote_code": options.trust_remote_code}
    stream = options.rows.open(encoding="utf-8") if options.rows else sys.stdin
    scorer = raw.get("scorer")
    if options.vectors and scorer != "embedding":
        raise WorkerError(f"--vectors: {options.model} is no embedding model (its scorer is {scorer})")
    if scorer == "chat":
        rows = predict_answers(stream, options.model, raw, options.device)
    elif scorer == "embedding":
        texts, vectors = predict_vectors(stream, options.model, raw, options.device)
        if not options.vectors:
            json.dump(compare_all(texts, vectors), sys.stdout, ensure_ascii=False)
            sys.stdout.write("\n")
            return 0
        rows = [{"text": text, "vector": vector.tolist()} for (_, text), vector in zip(texts, vectors, strict=True)]
    else:
        rows = predict_pairs(stream, options.model, raw, options.device)
    sys.stdout.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return 0
