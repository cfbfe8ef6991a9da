"""Make a trained model a folder that describes itself and is proved to be the model that was trained."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import fresh_folder
from orchestrator.workers.packaging import Request
from orchestrator.workers.reranker.scoring import choose_device
from orchestrator.workers.reranker.scoring_spec import load_raw_spec

# scorer → the module of this folder that packages its models
PACKAGERS = {
    "flag-llm-reranker": "reranker.package",
    "cross-encoder": "reranker.package",
    "formatted-head": "reranker.cross_encoder_package",
    "qwen3-native": "reranker.swift_package",
    "qwen3-score-head": "reranker.swift_package",
    "embedding": "embedding.package",
    "chat": "chat.package",
}

# an encoder by another tool is proved in FlagEmbedding, which trained it
TRAINED_BY = {("cross-encoder", "sentence-transformers"): "reranker.cross_encoder_package"}


def package(request: Request, out: Path) -> None:
    """Write the packaged model to `out`. Raises WorkerError for a scorer whose models cannot be packaged."""
    scorer = request.raw_spec.get("scorer")
    if scorer not in PACKAGERS:
        raise WorkerError(f"the scoring spec: a {scorer} model cannot be packaged; known are {', '.join(PACKAGERS)}")
    # by name: only this kind's imports are paid for
    module = TRAINED_BY.get((scorer, str(request.raw_spec.get("tool"))), PACKAGERS[scorer])
    packager = importlib.import_module(f"orchestrator.workers.{module}")
    request.report.unlink(missing_ok=True)
    with fresh_folder(out) as folder:
        packager.package(request, folder)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


def main(argv: list[str]) -> int:
    """Write the packaged model to `--out`, which appears whole and verified or not at all."""
    parser = argparse.ArgumentParser(prog="workers package", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="the merged or fully trained folder")
    parser.add_argument("--base", required=True, help="the model that training started from, a folder or a hub id")
    parser.add_argument("--adapter", type=Path, help="the LoRA adapter that was merged")
    parser.add_argument("--scoring", type=Path, required=True, help="the scoring spec, JSON")
    parser.add_argument("--probes", type=Path, required=True, help="the canonical eval file, JSONL")
    parser.add_argument("--corpus", type=Path, help="the documents that the eval file searches, JSONL")
    parser.add_argument("--test-prompt", metavar="TEXT", help="a prompt of the user's own to try the model with")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True, help="where the verification goes, JSON")
    parser.add_argument("--device", help="cpu or cuda; the GPU when there is one")
    options = parser.parse_args(argv)
    # the folder must load without a network, and the base model was fetched when it was trained
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    request = Request(
        model=options.model,
        base=options.base,
        adapter=options.adapter,
        raw_spec=load_raw_spec(options.scoring),
        probes=options.probes,
        report=options.report,
        device=choose_device(options.device),
        test_prompt=options.test_prompt,
        corpus=options.corpus,
    )
    package(request, options.out)
    return 0
