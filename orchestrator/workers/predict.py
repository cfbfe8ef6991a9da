"""Ask a packaged model as its scoring.json says: a score a pair, cosines or vectors of texts, or an answer."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import parse_rows
from orchestrator.workers.score import import_scorer
from orchestrator.workers.specs import load_raw_spec


def compare_all(texts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cosine of every query with every document, query by query."""
    sides: dict[str, list[dict[str, Any]]] = {"query": [], "document": []}
    for one in texts:
        sides[one["kind"]].append(one)
    return [
        {"query": query["text"], "document": document["text"], "score": float(query["vector"] @ document["vector"])}
        for query in sides["query"]
        for document in sides["document"]
    ]


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
    embeds = raw.get("scorer") == "embedding"
    if options.vectors and not embeds:
        raise WorkerError(f"--vectors: {options.model} is not an embedding model (its scorer is {raw.get('scorer')})")
    stream = options.rows.open(encoding="utf-8") if options.rows else sys.stdin
    rows = list(parse_rows(stream, "line ", "a JSON object"))
    # standard output is for answers: what libraries print while they load goes to standard error
    with contextlib.redirect_stdout(sys.stderr):
        found, facts = import_scorer(raw).predict(options.model, raw, rows, options.device)
    if facts and options.rows:  # for orch, which says what was cut; a pipe gets scores alone
        sys.stdout.write(f"orch-facts {json.dumps(facts)}\n")
    if embeds and not options.vectors:
        sys.stdout.write(json.dumps(compare_all(found), ensure_ascii=False) + "\n")
        return 0
    if embeds:
        found = [{"text": one["text"], "vector": one["vector"].tolist()} for one in found]
    sys.stdout.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    return 0
