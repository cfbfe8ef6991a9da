"""What a run will read is counted by the data pass: steps, sequences and tokens of every stage that runs a model."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner

from orchestrator.checks import workload
from orchestrator.cli import orch
from orchestrator.errors import DataError, PreflightError

ROWS, NEGATIVES = 12, 3
QUERY, DOCUMENT = "what is it?", "it is a long document of words"  # 11 and 30 bytes: 3 and 8 tokens by the estimate
RERANKER = {
    "name": "case", "task": "reranker", "backend": "flagembedding", "model": "Qwen/Qwen3-Reranker-0.6B",
    "data": {"train": "train.jsonl", "eval": "eval.jsonl"},
    "train": {"train_group_size": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
              "num_train_epochs": 2, "query_max_len": 64, "passage_max_len": 128, "learning_rate": 1e-4},
    "evaluate": {"baselines": ["native"]},
}  # fmt: skip


def write_rows(path, count, mark):
    rows = []
    for number in range(count):
        texts = [f"{DOCUMENT[:-5]}{mark}{number:02d}{place}{'.'}" for place in range(1 + NEGATIVES)]
        rows.append({"query": f"{QUERY[:-4]}{mark}{number:02d}?", "pos": texts[:1], "neg": texts[1:]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Return `orch check --json` of a recipe with changes: its `cost`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_rows(tmp_path / "train.jsonl", ROWS, "t")
    write_rows(tmp_path / "eval.jsonl", 4, "e")

    def ask(*words, **changes):
        (tmp_path / "recipe.yaml").write_text(json.dumps({**RERANKER, **changes}))
        argv = ["check", "recipe.yaml", "--hardware", "gpu", "--json", *words]
        done = CliRunner().invoke(orch, argv, catch_exceptions=False)
        return json.loads(done.stdout)["data"]["cost"]

    return ask


def stages_of(cost):
    return {stage["stage"].split("-", 1)[1]: stage for stage in cost["stages"]}


def test_steps_sequences_and_tokens_follow_the_batch_and_the_group_size(ask):
    cost = ask("--gpu", "a100")
    train = stages_of(cost)["train"]
    assert train["steps"] == math.ceil(ROWS / 2 / 2) * 2
    assert train["sequences"] == ROWS * 2 * 3
    # query 3, document 8, FlagEmbedding's prompt (37 x 4 bytes) and two line feeds of a byte
    prompt = train["tokens"] / train["sequences"] - 11 - 2
    assert 30 < prompt < 50
    assert stages_of(cost)["evaluate"]["sequences"] == 4 * (1 + NEGATIVES)
    assert stages_of(cost)["baseline-native"]["tokens"] == stages_of(cost)["evaluate"]["tokens"]
    assert cost["counted"].startswith("by all rows, about one token for 4 bytes")


def test_flops_and_hours_follow_the_weights_that_pass_and_the_checkpointing(ask):
    cost = ask("--gpu", "a100")
    train = stages_of(cost)["train"]
    assert 4 < train["flops"] / train["tokens"] / 0.44e9 < 6  # its card: 0.44B without embeddings; they are frozen
    again = stages_of(ask("--gpu", "a100", "--set", "train.gradient_checkpointing=true"))["train"]
    assert again["flops"] / train["flops"] == pytest.approx(6 / 4, rel=0.05)
    low, high = train["hours"]
    assert 0 < low < high
    assert "published" in cost["efficiency"]["source"]
    assert any("validation during the training" in gap for gap in cost["gaps"])


def test_of_a_model_that_nobody_knows_steps_and_tokens_are_counted_and_its_flops_said_to_be_left_out(ask):
    unknown = {"path": "someone/reranker-0.6b", "family": "decoder", "native": "qwen3-native"}
    cost = ask("--gpu", "a100", model=unknown)
    train = stages_of(cost)["train"]
    assert (train["flops"], train["hours"]) == (None, None)
    assert train["steps"] > 0
    assert train["tokens"] > 0
    assert any("reranker-0.6b: FLOPs" in gap for gap in cost["gaps"])


def test_gpus_divide_the_hours_and_the_steps(ask):
    one, two = (stages_of(ask("--gpu", "a100", "--hardware", f"gpu:{count}"))["train"] for count in (1, 2))
    assert (one["steps"], two["steps"]) == (6, 4)  # three whole steps an epoch; one and a half
    assert two["hours"][0] == pytest.approx(one["hours"][0] / 2)


def test_max_steps_decides_what_is_trained(ask):
    train = stages_of(ask("--cost", "--set", "train.max_steps=5"))["train"]
    assert (train["steps"], train["sequences"]) == (5, 5 * 2 * 2 * 3)


def test_a_loss_that_caches_goes_through_the_model_once_more(ask):
    embedding = {
        "task": "embedding", "backend": "sentence-transformers", "model": "Qwen/Qwen3-Embedding-0.6B",
        "loss": {"type": "mnrl", "hard_negatives": 2}, "train": {"learning_rate": 1e-4, "per_device_train_batch_size": 4},
    }  # fmt: skip
    plain = stages_of(ask("--gpu", "a100", **embedding))["train"]
    cached = stages_of(ask("--gpu", "a100", **{**embedding, "loss": {"type": "cached_mnrl", "hard_negatives": 2}}))[
        "train"
    ]
    assert plain["sequences"] == cached["sequences"]
    assert cached["flops"] / plain["flops"] == pytest.approx(4 / 3, rel=0.01)


def test_a_corpus_is_read_once_and_not_once_a_query(ask):
    embedding = {
        "task": "embedding", "backend": "sentence-transformers", "model": "Qwen/Qwen3-Embedding-0.6B",
        "loss": {"type": "mnrl"}, "train": {"learning_rate": 1e-4, "per_device_train_batch_size": 4},
    }  # fmt: skip
    cost = ask("--gpu", "a100", **embedding)
    assert stages_of(cost)["evaluate"]["sequences"] == 4 + 4 * (1 + NEGATIVES)
    assert stages_of(cost)["train"]["sequences"] == 3 * ROWS * (2 + NEGATIVES)  # three epochs, all negatives of a row


def test_a_teacher_s_pairs_count_though_its_scores_are_not_there_yet(ask):
    taught = {
        "task": "embedding", "backend": "sentence-transformers", "model": "Qwen/Qwen3-Embedding-0.6B",
        "teacher": "Qwen/Qwen3-Reranker-4B", "loss": {"type": "distill_kl", "hard_negatives": 2},
        "train": {"learning_rate": 1e-4, "per_device_train_batch_size": 4},
    }  # fmt: skip
    stages = stages_of(ask("--gpu", "a100", **taught))
    assert stages["teacher-scores"]["sequences"] == ROWS * (1 + NEGATIVES)
    assert stages["teacher-scores"]["flops"] == pytest.approx(stages["teacher-scores"]["tokens"] * 2 * 3.6e9, rel=0.05)
    assert stages["train"]["steps"] > 0


def test_a_guard_has_a_cost_before_and_after(ask, tmp_path):
    write_rows(tmp_path / "guard.jsonl", 5, "g")
    guarded = {
        "evaluate": {
            "baselines": ["native"],
            "guard": {"old": {"data": "guard.jsonl", "gate": {"ndcg@10": ">= baseline - 0.02"}}},
        }
    }
    stages = stages_of(ask("--gpu", "a100", **guarded))
    assert stages["guard-old-before"]["sequences"] == stages["guard-old-after"]["sequences"] == 5 * (1 + NEGATIVES)


def test_of_large_files_the_first_rows_stand_for_all(ask, monkeypatch):
    whole = stages_of(ask("--cost"))["train"]
    monkeypatch.setattr(workload, "are_small", lambda _: False)
    monkeypatch.setattr(workload, "FIRST_ROWS", 4)
    cost = ask("--cost")
    assert cost["counted"].startswith("by the first 4 rows of each large file")
    assert stages_of(cost)["train"] == pytest.approx(whole)


def test_files_that_the_run_fetches_are_named_as_not_counted(ask):
    cost = ask("--cost", data={"train": "someone/rows", "eval": "eval.jsonl"})
    assert cost["stages"] == []
    assert any("is not here before the run" in gap for gap in cost["gaps"])


def test_without_a_known_gpu_the_hours_are_missing_and_said_to_be(ask):
    cost = ask("--cost", "--hardware", "cpu")
    assert cost["stages"][0]["hours"] is None
    assert any("name a GPU with --gpu" in gap for gap in cost["gaps"])


def test_earlier_runs_on_the_same_hardware_say_how_fast_it_is(ask, tmp_path):
    for name, device, rate in (("one", "cpu", 1e10), ("two", "cpu", 4e10), ("other", "NVIDIA H100", 9e14)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        report = {"cost": {"device": device, "flops_per_s": rate}}
        (tmp_path / "runs" / name / "report.json").write_text(json.dumps(report))
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "report.json").write_text("{")
    (tmp_path / "runs" / "gone").mkdir()
    (tmp_path / "runs" / "gone" / "report.json").symlink_to(tmp_path / "nowhere")
    cost = ask("--cost", "--hardware", "cpu")
    train = stages_of(cost)["train"]
    assert train["hours"] == pytest.approx([train["flops"] / 5e10 / 3600, train["flops"] / 0.8e10 / 3600])
    assert "2 earlier runs" in cost["efficiency"]["source"]


def test_a_gpu_that_nobody_knows_is_refused(ask):
    with pytest.raises(PreflightError, match="no peak rate is known of a GPU 'h1000'"):
        ask("--gpu", "h1000")


def test_bad_data_is_refused_as_without_the_cost(ask, tmp_path):
    ask("--cost")
    write_rows(tmp_path / "eval.jsonl", 0, "e")
    with pytest.raises(DataError):
        ask("--cost")
