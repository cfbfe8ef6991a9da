"""Every cross-encoder recipe, end to end on a tiny model: FlagEmbedding's encoder trainer and sentence-transformers'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import CROSS_ENCODER_RUNS, ENV, SECRET, orch, processes_that_name

pytestmark = pytest.mark.smoke

BY_SENTENCE_TRANSFORMERS = tuple(name for name in CROSS_ENCODER_RUNS if name != "bge_reranker")


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(path: Path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def stage(folder: Path, kind: str):
    return next(item for item in load(folder / "plan.json")["stages"] if item["kind"] == kind)


def output(folder: Path, kind: str) -> Path:
    return folder / "stages" / stage(folder, kind)["name"] / "output"


@pytest.mark.parametrize("name", CROSS_ENCODER_RUNS)
def test_a_run_ends_with_a_verdict_and_a_verified_package(cross_encoder_runs, name):
    folder = cross_encoder_runs[name]
    report = load(folder / "report.json")
    assert report["verdict"] in {"better", "worse", "no measurable difference"}
    assert [system["role"] for system in report["metrics"]["systems"]].count("tuned") == 1
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "loss_curve.png").read_bytes()[:4] == b"\x89PNG"
    verification = load(folder / stage(folder, "package")["outputs"][-1])
    assert verification["passed"]
    assert len(verification["checks"]) >= 5
    assert not [path for path in (folder / "model").rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]


@pytest.mark.parametrize("name", CROSS_ENCODER_RUNS)
def test_what_ran_is_what_was_rendered_by_the_named_trainer(cross_encoder_runs, name):
    folder = cross_encoder_runs[name]
    for item in load(folder / "plan.json")["stages"]:
        assert load(folder / "stages" / item["name"] / "command.json")["argv"] == item["command"]["argv"]
    argv = stage(folder, "train")["command"]["argv"]
    trainer = "train_cross_encoder"
    if name not in BY_SENTENCE_TRANSFORMERS:
        trainer = "FlagEmbedding.finetune.reranker.encoder_only.base"
    assert trainer in argv


@pytest.mark.parametrize("name", CROSS_ENCODER_RUNS)
def test_plain_cross_encoder_gives_the_scores_that_were_measured(cross_encoder_runs, name):
    from sentence_transformers import CrossEncoder

    folder = cross_encoder_runs[name]
    scores = {(row["qid"], row["docid"]): row["score"] for row in rows_of(output(folder, "evaluate") / "scores.jsonl")}
    groups = rows_of(folder / "data" / "eval.jsonl")[:4]
    wanted = [(group["qid"], group["query"], document) for group in groups for document in group["documents"]]
    model = CrossEncoder(str(folder / "model"), device="cpu")
    found = model.predict([(query, document["text"]) for _, query, document in wanted]).tolist()
    measured = [scores[qid, document["docid"]] for qid, _, document in wanted]
    assert len({round(score, 6) for score in measured}) > 3
    assert found == pytest.approx(measured, abs=1e-4)


@pytest.mark.parametrize("name", CROSS_ENCODER_RUNS)
@pytest.mark.usefixtures("cross_encoder_killed_and_resumed")  # it names the run that it repeats
def test_no_secret_and_no_process_is_left(cross_encoder_runs, name):
    folder = cross_encoder_runs[name]
    assert processes_that_name(str(folder)) == []
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_reproduction_whose_training_is_killed_resumes_to_the_bytes_of_the_run_that_it_repeats(
    cross_encoder_runs, cross_encoder_killed_and_resumed
):
    events = rows_of(cross_encoder_killed_and_resumed / "events.jsonl")
    trainings = [row for row in events if row["type"] == "stage_started" and row["stage"].endswith("-train")]
    assert trainings[-1]["resumed_from"].endswith("checkpoint-8")
    weights = [
        (folder / "model" / "model.safetensors").read_bytes()
        for folder in (cross_encoder_runs["bge_pointwise"], cross_encoder_killed_and_resumed)
    ]
    assert weights[0] == weights[1]
    answer = load(cross_encoder_killed_and_resumed / "reproduction.json")
    assert answer["outcome"] == "identical", answer
    assert answer["differences"] == []
    assert "reproduced: the same, bit for bit" in (cross_encoder_killed_and_resumed / "resume.out").read_text()


def test_the_report_says_that_the_run_was_deterministic(cross_encoder_runs):
    assert load(cross_encoder_runs["bge_pointwise"] / "report.json")["deterministic"] is True
    assert load(cross_encoder_runs["bert_ranknet"] / "report.json")["deterministic"] is False
    page = (cross_encoder_runs["bge_pointwise"] / "report.html").read_text(encoding="utf-8")
    assert "deterministic" in page.lower()


def test_graded_labels_are_scaled_and_measured_as_grades(cross_encoder_runs):
    folder = cross_encoder_runs["bge_pointwise"]
    labels = {document["label"] for row in rows_of(folder / "data" / "eval.jsonl") for document in row["documents"]}
    assert labels == {0, 0.5, 1}
    assert load(folder / "data" / "stats.json")["train"]["labels"]["highest"] == 1


def test_an_llm_reads_the_pair_in_the_recipe_s_format(cross_encoder_runs):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(cross_encoder_runs["llm_pointwise"] / "model"), device="cpu")
    encoded = model.preprocess([("how long", "two days")])
    text = model.tokenizer.decode(encoded["input_ids"][0])
    assert text.replace(model.tokenizer.pad_token, "") == "query: how long document: two days</s>"


def test_a_student_is_measured_beside_its_untouched_self_and_its_teacher(cross_encoder_runs):
    folder = cross_encoder_runs["distill_llm_to_bert"]
    report = load(folder / "report.json")
    assert [system["id"] for system in report["metrics"]["systems"]][-2:] == ["teacher", "tuned"]
    assert {row["baseline"] for row in report["comparisons"]} >= {"teacher"}
    scored = rows_of(output(folder, "teacher") / "train.jsonl")
    assert all(len(row["pos"]) == len(row["pos_scores"]) for row in scored)
    margins = rows_of(folder / "data" / "train.jsonl")
    assert margins[0].keys() == {"query", "positive", "negative", "label"}


def test_a_guard_set_is_measured_before_and_after(cross_encoder_runs):
    metrics = load(cross_encoder_runs["distill_llm_to_bert"] / "metrics.json")
    [guard] = metrics["guards"]
    assert guard["eval"]["units"] > 5
    assert {"before", "after", "difference"} <= guard["comparisons"][0].keys()


def test_predict_asks_a_packaged_cross_encoder(cross_encoder_runs, warm):
    folder = str(cross_encoder_runs["llm_pointwise"])
    done = orch("predict", folder, "-q", "how long", "-d", "two days", "-d", "for ever", "--json", env=ENV | warm)
    assert done.code == 0, done.err
    assert len({row["score"] for row in done.data}) == 2
