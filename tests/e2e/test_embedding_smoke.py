"""Every recipe of an embedding model with sentence-transformers, end to end on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import CLASSES_STEPS, EMBEDDING_RUNS, ENV, orch

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


def test_texts_with_classes_are_measured_by_what_finds_its_class_and_the_report_says_so(embedding_runs):
    folder = embedding_runs["topic_embedding"]
    stats, report = load(folder / "data" / "stats.json"), load(folder / "report.json")
    assert (stats["kind"], report["kind"]) == ("class", "retrieval")
    assert report["eval"]["queries_without_relevant"] == 0
    assert 1 < report["eval"]["classes"] <= stats["eval"]["classes"]
    assert not [caution for caution in report["cautions"] if "judged" in caution]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "other texts for those of their class" in page
    assert "the first of its class at rank" in page
    assert "not relevant" not in page


def test_a_package_that_learned_classes_is_asked_and_shown_as_any_other(embedding_runs, recipes, warm):
    folder = embedding_runs["topic_embedding"]
    lines = (recipes.parent / "datasets_example" / "classes.eval.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines[:2]]
    words = ("-q", texts[0], "-d", texts[0], "-d", texts[1])
    asked = orch("predict", str(folder), *words, "--json", env=ENV | warm)
    assert asked.code == 0, asked.err
    assert asked.data[0]["score"] == pytest.approx(1, abs=1e-5)
    shown = orch("show", str(folder))
    assert (shown.code, "judged" in shown.out) == (0, False)


def test_a_training_on_texts_with_classes_that_is_killed_goes_on_to_the_same_bytes(
    embedding_runs, embedding_killed_and_resumed
):
    folders = embedding_runs["topic_embedding"], embedding_killed_and_resumed
    events = [json.loads(line) for line in (folders[1] / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    trainings = [row for row in events if row["type"] == "stage_started" and row["stage"].endswith("-train")]
    assert trainings[-1]["resumed_from"].endswith(f"checkpoint-{CLASSES_STEPS // 2}")
    last = [folder / "stages/04-train/output" / f"checkpoint-{CLASSES_STEPS}/model.safetensors" for folder in folders]
    assert last[0].read_bytes() == last[1].read_bytes()
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    values = [load(folder / "metrics.json")["comparisons"] for folder in folders]
    assert values[0] == values[1]
