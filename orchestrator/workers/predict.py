"""Score pairs with a packaged model as its scoring.json says: JSONL in, JSONL out."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from pathlib import Path
from typing import TextIO

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.scoring import Pair, choose_device, load_scorer
from orchestrator.workers.scoring_spec import load_spec


def read_pairs(stream: TextIO) -> list[Pair]:
    """Return the pairs of `{"query", "document"}` lines. Raises WorkerError for any other line."""
    pairs = []
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            query, document = row["query"], row["document"]
        except (ValueError, KeyError, TypeError) as error:
            raise WorkerError(f'line {number} is not {{"query": …, "document": …}}') from error
        if not isinstance(query, str) or not isinstance(document, str):
            raise WorkerError(f"line {number}: query and document must be strings")
        pairs.append((query, document))
    return pairs


def main(argv: list[str]) -> int:
    """Read pairs from standard input and write one score a line to standard output."""
    parser = argparse.ArgumentParser(prog="workers predict", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="a packaged folder, which holds scoring.json")
    parser.add_argument("--device", help="cpu or cuda; the GPU when there is one")
    options = parser.parse_args(argv)
    spec = load_spec(options.model / "scoring.json")
    pairs = read_pairs(sys.stdin)
    scores: list[float] = []
    if pairs:
        # standard output is for scores: what libraries print while they load goes to standard error
        with contextlib.redirect_stdout(sys.stderr):
            scores = load_scorer(str(options.model), spec, choose_device(options.device)).score(pairs, None)
    if not all(map(math.isfinite, scores)):
        raise WorkerError("the model gives NaN or infinity: its weights or its precision are broken")
    sys.stdout.writelines(json.dumps({"score": score}) + "\n" for score in scores)
    return 0
