"""What a run took: when stages began to work, how fast the training was, and what it reached of the peak."""

from __future__ import annotations

import json

import pytest

from orchestrator.checks.cost import Passes, count_training
from orchestrator.checks.model_size import load_model_size
from orchestrator.logs.events import Progress, StageStarted, Step, append_event
from orchestrator.report.publish import write_report
from orchestrator.report.record import find_paces

CONFIG = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 8, "intermediate_size": 16,
    "max_position_embeddings": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 50,
}  # fmt: skip
RECIPE = {
    "name": "spent", "task": "reranker", "backend": "flagembedding", "model": "BAAI/bge-reranker-base",
    "data": {"train": ["train.jsonl"], "eval": ["eval.jsonl"]}, "train": {"learning_rate": 1e-5, "train_group_size": 4},
}  # fmt: skip


def started(stage, t):
    return StageStarted(stage, 1, 1, t=t)


def test_a_stage_begins_when_its_first_unit_is_done():
    events = [started("a", 10.0), Progress(0, 8, "a", 11.0), Progress(1, 8, "a", 14.0), Progress(5, 8, "a", 16.0)]
    pace = find_paces(events)["a"]
    assert (pace.start_s, pace.units_per_s) == (4.0, 2.0)


def test_only_the_newest_attempt_counts_and_what_is_told_twice_counts_once():
    events = [started("a", 0.0), Progress(9, 10, "a", 5.0), started("a", 20.0)]
    events += [Step(4, 10, 0.4, stage="a", t=22.0), Progress(4, 10, "a", 22.5), Step(10, 10, 1.0, stage="a", t=25.0)]
    pace = find_paces(events)["a"]
    assert (pace.start_s, pace.units_per_s, pace.epoch) == (2.0, 2.0, 1.0)


@pytest.mark.parametrize("rest", [[], [Progress(3, 3, "a", 2.0)], [Progress(1, 3, "a", 2.0), Progress(3, 3, "a", 2.0)]])
def test_without_two_reports_there_is_no_speed(rest):
    assert find_paces([started("a", 1.0), *rest])["a"].units_per_s is None


def test_events_of_a_stage_that_never_started_are_no_pace():
    assert find_paces([Progress(3, 3, "a", 2.0)]) == {}


@pytest.fixture
def trained(run):
    """A finished run whose events, tokens and model say how fast its training was: 10 steps in 20 s, after 5."""
    plan = json.loads(run.plan_json.read_text())
    plan["recipe"] = {**RECIPE, **{key: plan["recipe"][key] for key in ("evaluate", "gate")}}
    note = {"stage": "train", "argument": "train_group_size", "value": "4", "origin": "recipe", "why": ""}
    run.plan_json.write_text(json.dumps({**plan, "notes": [note]}))
    for event in (
        started("04-train", 100.0), Step(2, 12, 0.25, loss=1.0, stage="04-train", t=105.0),
        Step(12, 12, 1.5, loss=0.5, stage="04-train", t=125.0),
    ):  # fmt: skip
        append_event(run.events_jsonl, event)
    run.train_jsonl.write_text('{"query": "q"}\n' * 8)
    stats = json.loads(run.stats_json.read_text())
    stats["train"]["tokens"] |= {"pair_mean": 25.0}
    run.stats_json.write_text(json.dumps(stats))
    (run.model / "config.json").write_text(json.dumps(CONFIG))
    return run


def test_the_report_says_tokens_a_second_and_the_share_of_the_peak(trained):
    summary = write_report(trained)
    # 12 steps are 1.5 epochs of 8 rows: one row a step, 4 pairs of 25 tokens each, half a step a second
    assert summary["cost"]["tokens_per_s"] == 0.5 * 4 * 25
    size = load_model_size(trained.model)
    flops = count_training(size, Passes(), 50.0, 25.0)
    assert summary["cost"]["flops_per_s"] == pytest.approx(flops)
    assert summary["cost"]["share_of_peak"] == pytest.approx(flops / 66.9e12, rel=0.01)  # float32 of an H100
    assert summary["cost"]["device"] == "NVIDIA H100 80GB HBM3"
    assert summary["timings"][3] == {"stage": "04-train", "kind": "train", "seconds": 412.6, "start_s": 5.0}
    page = trained.report_html.read_text()
    assert "50 tokens a second, without padding" in page
    assert "5.0 s to begin" in page


def test_a_trainer_s_own_figure_of_memory_is_shown(trained):
    lines = [{"loss": 1.0, "memory(GiB)": size, "global_step/max_steps": f"{n}/2"} for n, size in ((1, 3.5), (2, 4.25))]
    output = trained.stage("04-train").output
    (output / "logging.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert write_report(trained)["cost"]["peak_memory_gib"] == 4.25
    assert "4.2 GiB of GPU memory at most" in trained.report_html.read_text()


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: run.events_jsonl.unlink(),
        lambda run: run.train_jsonl.unlink(),
        lambda run: run.stats_json.write_text("{"),
        lambda run: run.provenance_json.unlink(),
        lambda run: (run.model / "config.json").write_text('{"model_type": "x"}'),
    ],
)
def test_what_is_not_known_is_left_out(trained, damage):
    damage(trained)
    assert "share_of_peak" not in write_report(trained).get("cost", {})
