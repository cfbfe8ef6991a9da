"""A report of a distillation on graded labels: teacher, guards, labels, negatives in doubt, determinism."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from orchestrator.evaluation.eval_sets import RankingEval
from orchestrator.evaluation.metrics import Scored
from orchestrator.machine.files import write_json, write_text
from orchestrator.recipe.plan import Command, Stage
from orchestrator.report.examples import build_audit
from orchestrator.report.figures import LABELS_WIDTH, build_label_figure
from orchestrator.report.publish import write_report
from orchestrator.report.wording import build_lines, describe_teacher
from orchestrator.run.folder import load_plan
from tests.report.conftest import HOSTILE, build_groups, write_lines, write_scores

LABELS = {
    "lowest": 0.0, "mean": 0.31, "highest": 1.0,
    "counts": [{"label": 0.0, "count": 1029}, {"label": 0.5, "count": 600}, {"label": 1.0, "count": 300}],
}  # fmt: skip
DOUBTFUL = {
    "query": HOSTILE, "positive": "It takes two days.", "positive_score": 1.25, "negative": "Two days.",
    "negative_score": 3.5, "source": "train.jsonl", "line": 7,
}  # fmt: skip
TEACHER = {
    "lowest": -4.0, "mean": 0.5, "highest": 6.0,
    "false_negatives": {"rows": 3, "negatives": 4, "of_negatives": 2000, "examples": [DOUBTFUL]},
}  # fmt: skip


def distil(run):
    """Give a finished run a teacher, one guard that got worse, graded labels and `deterministic: true`."""
    plan = load_plan(run)
    groups = build_groups()
    added = [("03-baseline-teacher", "baseline-teacher", "teacher: Qwen3-Reranker-4B", 4.0, groups)]
    guard = groups[:40]
    write_lines(run.guard("general") / "eval.jsonl", guard)
    added += [
        ("08-guard-general-before", "guard-general-before", "base", 3.0, guard),
        ("09-guard-general-after", "guard-general-after", "tuned", 0.2, guard),
    ]
    for number, (name, _, label, stands_out, rows) in enumerate(added):
        scoring = {"scorer": "cross-encoder", "label": label}
        write_scores(run.stage(name).output, rows, stands_out, scoring, seed=50 + number)
    stages = tuple(Stage(name, kind, label, Command(("true",))) for name, kind, label, _, _ in added)
    evaluate = {**plan.recipe["evaluate"], "guard": {"general": {"data": ["g.jsonl"], "gate": {"map": ">= baseline"}}}}
    recipe = {**plan.recipe, "evaluate": evaluate, "deterministic": True}
    write_text(run.plan_json, replace(plan, stages=(*plan.stages, *stages), recipe=recipe).to_json())
    stats = json.loads(run.stats_json.read_text())
    groups_of = {"count": 300, "documents": {"lowest": 5, "mean": 6.43, "highest": 8}, "one_label": 2, "too_small": 0}
    stats["train"] |= {"labels": LABELS, "groups": groups_of, "teacher": TEACHER}
    stats["eval"] |= {"labels": LABELS}
    write_json(run.stats_json, stats)
    return run


@pytest.fixture
def distilled(run):
    return distil(run)


@pytest.fixture
def summary(distilled):
    return write_report(distilled)


def test_the_page_shows_guards_labels_and_doubtful_negatives_escaped(distilled, summary):
    page = distilled.report_html.read_text(encoding="utf-8")
    for words in ("Guards", "Negatives in doubt", "1,929 labelled documents", "teacher: Qwen3-Reranker-4B"):
        assert words in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "train.jsonl:7" in page


def test_a_guard_that_got_worse_misses_its_gate_and_the_run_s(summary):
    [guard] = summary["guards"]
    assert guard["verdict"] == "worse"
    assert summary["gate"]["passed"] is False
    lines = "\n".join(build_lines(summary))
    assert "guard general: nDCG@10" in lines
    assert "MISSED" in lines


def test_the_share_of_the_way_to_the_teacher_is_said(summary):
    assert "% of the way to the teacher" in summary["teacher"]
    assert summary["teacher"] in build_lines(summary)


def test_a_teacher_that_is_no_better_is_said_to_teach_nothing():
    systems = [
        {"id": name, "means": {"map": value}} for name, value in (("native", 0.7), ("teacher", 0.7), ("tuned", 0.8))
    ]
    metrics = {"systems": systems, "headline": {"metric": "map", "baseline": "native"}}
    assert "nothing to learn" in describe_teacher(metrics)


def test_a_run_without_a_teacher_says_nothing_of_one():
    metrics = {
        "systems": [{"id": "native", "means": {"map": 0.7}}],
        "headline": {"metric": "map", "baseline": "native"},
    }
    assert describe_teacher(metrics) is None


def test_the_report_says_that_the_run_was_deterministic(distilled, summary):
    assert summary["deterministic"] is True
    assert "bit for bit" in distilled.report_html.read_text(encoding="utf-8")


def test_teacher_and_base_judge_the_negatives_and_the_tuned_model_does_not(summary):
    judges = [(found["judge"], found["side"]) for found in summary["false_negatives"]]
    assert judges == [
        ("the teacher", "train"),
        ("Qwen3-Reranker-0.6B, its own chat prompt", "eval"),
        ("teacher: Qwen3-Reranker-4B", "eval"),
    ]
    assert "4 negatives of 2,000" in summary["false_negatives"][0]["sentence"]


def test_a_random_head_judges_nothing():
    metrics = {
        "kind": "group", "headline": {"metric": "map"},
        "systems": [{"id": "trained-format", "head": "new", "constant": False, "means": {"map": 0.3}, "label": "base"}],
    }  # fmt: skip

    scored = Scored(RankingEval(()), {"trained-format": {}}, ())
    assert build_audit(metrics, scored, {}) == []


def test_every_label_has_a_bar_inside_the_figure_and_the_upper_half_counts_as_relevant():
    figure = build_label_figure({"train": {"labels": LABELS}, "eval": {"labels": LABELS}})
    assert [len(panel["bars"]) for panel in figure["panels"]] == [3, 3]
    for panel in figure["panels"]:
        assert [bar["relevant"] for bar in panel["bars"]] == [False, True, True]
        assert all(
            panel["left"] <= bar["x"] and bar["x"] + bar["width"] <= min(panel["right"], LABELS_WIDTH)
            for bar in panel["bars"]
        )
        assert panel["bars"][0]["height"] > panel["bars"][1]["height"] > panel["bars"][2]["height"] > 0


def test_continuous_labels_are_drawn_as_bins():
    bins = [{"from": n / 10, "to": (n + 1) / 10, "count": n} for n in range(10)]
    figure = build_label_figure({"train": {"labels": {"lowest": 0, "mean": 0.6, "highest": 1, "bins": bins}}})
    [panel] = figure["panels"]
    assert [bar["relevant"] for bar in panel["bars"]] == [False] * 5 + [True] * 5
    assert panel["bars"][0]["height"] == 0


def test_data_without_labels_has_no_figure():
    assert build_label_figure({"train": {"rows": 3}, "eval": {}}) is None
