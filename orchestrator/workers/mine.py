"""Mine hard negatives with sentence-transformers' own `mine_hard_negatives`, and say of each its rank and score.

Reads queries.jsonl, {"query", "positives"} with numbers of documents, and corpus.jsonl, {"text"}; writes mined.jsonl, a
line a query, and mining.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestrator.workers.embedding.model import Encoder, build_text_reader, encode_texts, load_encoder
from orchestrator.workers.environment import read_versions
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_object, read_rows, write_json, write_text
from orchestrator.workers.pool import DEVICE, choose_devices, open_reader
from orchestrator.workers.reranker.scoring import Scorer, build_scorer, parse_scorer
from orchestrator.workers.specs import load_raw_spec, parse_embedding_spec
from orchestrator.workers.weights import identify_model

# what the settings hold, by mine_hard_negatives' own names
SETTINGS = (
    "range_min", "range_max", "max_score", "min_score", "absolute_margin", "relative_margin", "num_negatives",
    "sampling_strategy", "batch_size",
)  # fmt: skip
QUERIES_AT_ONCE = 64
# sentence_transformers/util/hard_negatives.py prints these counts and returns them nowhere
SKIPPED = re.compile(r"Skipped ([\d,]+) potential negatives .* due to the (\w+) of")


@dataclass(frozen=True)
class Question:
    """A query and the numbers of its relevant documents."""

    text: str
    positives: list[int]


@dataclass(frozen=True)
class Found:
    """What the library found for one query, best first; no `negatives` where it left the query out."""

    positive_scores: list[float]
    negatives: list[int]
    scores: list[float]


def read_questions(path: Path, documents: int) -> list[Question]:
    """Return the queries. Raises WorkerError for a line that is none."""
    shape = '{"query", "positives"} with numbers of documents'
    questions = []
    for where, row in read_rows(path, shape):
        text, positives = row.get("query"), row.get("positives")
        numbered = isinstance(positives, list) and all(type(one) is int and 0 <= one < documents for one in positives)
        if not isinstance(text, str) or not positives or not numbered:
            raise WorkerError(f"{where}: not {shape}")
        questions.append(Question(text, positives))
    if not questions:
        raise WorkerError(f"{path}: there is no query to mine for")
    return questions


def read_corpus(path: Path) -> list[str]:
    """Return the documents. Raises WorkerError for a line without a text."""
    texts = [row.get("text") for _, row in read_rows(path, '{"text"}')]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise WorkerError(f'{path}: not lines of {{"text"}}')
    return [str(text) for text in texts]


def mine(
    encoder: Encoder,
    questions: Sequence[Question],
    corpus: list[str],
    settings: dict[str, Any],
    *,
    scorer: Scorer | None,
    cache: Path,
) -> tuple[list[Found], dict[str, int]]:
    """Return what the library finds for each query, and how many candidates it says that each limit excludes.

    The limits go by the scores of the `scorer`, where there is one.
    The library leaves the vectors in `cache`. It draws with Python's `random`, which is seeded here. Raises WorkerError
    where it refuses the settings.
    """
    import torch
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    rescorer = None
    if scorer is not None:  # by the one method of a CrossEncoder that the library calls
        rescorer = SimpleNamespace(predict=lambda pairs, **_: torch.tensor(scorer.score(list(pairs))))
    pairs = [(question.text, corpus[place]) for question in questions for place in question.positives]
    dataset = Dataset.from_dict({"query": [query for query, _ in pairs], "positive": [text for _, text in pairs]})
    said = io.StringIO()
    random.seed(settings["seed"])
    try:
        with contextlib.redirect_stdout(said):
            mined = mine_hard_negatives(
                dataset,
                encoder.model,
                "query",
                "positive",
                corpus=corpus,
                cross_encoder=rescorer,
                query_prompt=encoder.spec.query_prompt,
                corpus_prompt=encoder.spec.document_prompt,
                output_format="labeled-list",
                output_scores=True,
                cache_folder=str(cache),
                **{name: settings[name] for name in SETTINGS},
            )
    except ValueError as error:
        raise WorkerError(f"mine_hard_negatives: {error}") from error
    finally:
        sys.stderr.write(said.getvalue())
    skipped = {name: int(count.replace(",", "")) for count, name in SKIPPED.findall(said.getvalue())}
    return collect(questions, corpus, mined), skipped


def collect(questions: Sequence[Question], corpus: Sequence[str], mined: Any) -> list[Found]:
    """Return what was found for each query: the library gives one row a positive, each with the same negatives."""
    numbers = {text: number for number, text in enumerate(corpus)}
    found: dict[str, Found] = {}
    for query, texts, scores in zip(mined["query"], mined["positive"], mined["scores"], strict=True):
        known = found.setdefault(query, Found([], [numbers[text] for text in texts[1:]], scores[1:]))
        known.positive_scores.append(scores[0])
    return [found.get(question.text, Found([], [], [])) for question in questions]


def rank(encoder: Encoder, cache: Path, found: Sequence[Found]) -> list[list[int]]:
    """Return the rank of each negative among all documents of the corpus, by the embedder's similarity, from 1."""
    import numpy as np
    import torch

    queries, documents = (
        torch.from_numpy(np.load(next(cache.glob(f"{name}_embeddings_*.npy")))) for name in ("query", "corpus")
    )
    ranks: list[list[int]] = []
    for start in range(0, len(found), QUERIES_AT_ONCE):
        similarities = encoder.model.similarity(queries[start : start + QUERIES_AT_ONCE], documents)
        for row, one in zip(similarities, found[start : start + QUERIES_AT_ONCE], strict=True):
            ranks.append([1 + int((row > row[number]).sum()) for number in one.negatives])
    return ranks


def main(argv: list[str]) -> int:
    """Write mined.jsonl and mining.json into `--out`."""
    parser = argparse.ArgumentParser(prog="workers mine", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="the embedding model that searches: a folder or a hub id")
    parser.add_argument("--scoring", type=Path, required=True, help="its scoring spec, JSON")
    parser.add_argument("--cross-encoder", help="a reranker that scores what was found, for the limits")
    parser.add_argument("--cross-encoder-scoring", type=Path, help="its scoring spec, JSON")
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--settings", type=Path, required=True, help=f"JSON: seed, {', '.join(SETTINGS)}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", help=DEVICE)
    options = parser.parse_args(argv)
    if (options.cross_encoder is None) != (options.cross_encoder_scoring is None):
        parser.error("--cross-encoder and --cross-encoder-scoring go together")

    settings = read_object(options.settings, "the settings of mining")
    devices = choose_devices(options.device, options.queries, options.corpus)
    if missing := [name for name in ("seed", *SETTINGS) if name not in settings]:
        raise WorkerError(f"{options.settings}: {', '.join(missing)} must be there, null for no limit")
    corpus = read_corpus(options.corpus)
    questions = read_questions(options.queries, len(corpus))
    raw = load_raw_spec(options.scoring)
    spec = replace(parse_embedding_spec(raw, str(options.scoring)), batch_size=settings["batch_size"])
    # where several devices read, this process only searches
    shared = len(devices) > 1
    encoder = load_encoder(options.model, spec, "cpu" if shared else devices[0])
    encoder.model.truncate_dim = spec.truncate_dim
    reader = open_reader(options.model, spec, devices) if shared else build_text_reader(encoder, devices[0])
    encoder.model.encode = lambda inputs, prompt, **_: encode_texts(reader, [prompt + text for text in inputs])
    models = {"embedder": {"model": options.model, "scoring": raw, "files": identify_model(options.model)}}
    scorer = None
    if options.cross_encoder:
        other = load_raw_spec(options.cross_encoder_scoring)
        judge = parse_scorer(other, str(options.cross_encoder_scoring))
        scorer = build_scorer(open_reader(options.cross_encoder, judge, devices), judge)
        files = identify_model(options.cross_encoder)
        models["cross-encoder"] = {"model": options.cross_encoder, "scoring": other, "files": files}
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        cache = Path(folder)
        found, skipped = mine(encoder, questions, corpus, settings, scorer=scorer, cache=cache)
        ranks = rank(encoder, cache, found)
    lines = []
    for one, places in zip(found, ranks, strict=True):
        named = zip(one.negatives, places, one.scores, strict=True)
        negatives = [{"document": number, "rank": place, "score": score} for number, place, score in named]
        lines.append(json.dumps({"positive_scores": one.positive_scores, "negatives": negatives}) + "\n")
    write_text(options.out / "mined.jsonl", "".join(lines))
    asked = [reader, *([scorer.reader] if scorer else [])]
    shown = ("max_length", "texts", "texts_cut", "devices")
    facts: dict[str, Any] = {
        "device": devices[0],
        "excluded": skipped,
        "dims": int(spec.truncate_dim or encoder.model.get_embedding_dimension()),
        "reads_tokens": encoder.max_length,
        **{name: reader.facts[name] for name in shown if name in reader.facts},
        "cautions": [caution for one in asked for caution in one.facts.get("cautions", ())],
    }
    write_json(options.out / "mining.json", {"version": 1, "models": models, **facts, "versions": read_versions()})
    return 0
