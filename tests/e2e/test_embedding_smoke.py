"""Every recipe of an embedding model with sentence-transformers, end to end on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import EMBEDDING_RUNS

pytestmark = pytest.mark.smoke


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EMBEDDING_RUNS)
def test_a_run_ends_with_a_verdict_and_a_verified_package(embedding_runs, name):
    folder = embedding_runs[name]
    report = load(folder / "report.json")
    assert report["verdict"] in {"better", "worse", "no measurable difference"}
    assert [system["role"] for system in report["metrics"]["systems"]].count("tuned") == 1
    stages = {stage["kind"]: stage for stage in load(folder / "plan.json")["stages"]}
    assert "train_embedding" in stages["train"]["command"]["argv"]
    assert ("merge" in stages) == ("lora" in load(folder / "files" / "train.json"))
    verification = load(folder / stages["package"]["outputs"][-1])
    assert verification["passed"]
    assert not [path for path in (folder / "model").rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]


@pytest.mark.parametrize("name", EMBEDDING_RUNS)
def test_a_plain_sentence_transformer_gives_the_vectors_that_were_measured(embedding_runs, name):
    from sentence_transformers import SentenceTransformer

    folder = embedding_runs[name]
    scoring = load(folder / "model" / "scoring.json")
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    assert len(scoring["probes"]) == 4
    for probe in scoring["probes"]:
        encode = model.encode_query if probe["kind"] == "query" else model.encode_document
        assert encode(probe["text"]).tolist() == pytest.approx(probe["vector"], abs=1e-4)
