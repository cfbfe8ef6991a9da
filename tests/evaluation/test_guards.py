"""Guards and the teacher in metrics.json: other data that is measured before and after, and another model beside."""

from __future__ import annotations

import json

import pytest

from orchestrator.errors import RecipeError
from orchestrator.evaluation.metrics import build_metrics
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Plan, Stage

QUERIES = 12
STAGES = {
    "baseline-native": "02",
    "baseline-teacher": "03",
    "evaluate": "07",
    "guard-old-news-data": "08",
    "guard-old-news-before": "09",
    "guard-old-news-after": "10",
}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_groups(path):
    labels = enumerate((0, 1))
    documents = [{"docid": f"d{place}", "text": "t", "label": label} for place, label in labels]
    write(path, [{"qid": f"q{n}", "query": "?", "documents": documents} for n in range(QUERIES)])


def write_pairs(path):
    write(path, [{"pid": f"p{n}", "text1": "a", "text2": "b", "score": n / QUERIES} for n in range(QUERIES)])


@pytest.fixture
def build(tmp_path):
    """Build metrics.json of a run: {stage kind: score of the relevant document}; the other document has 0.5."""

    def build(relevant, *, guard=None, write_guard=write_groups, pair_scores=None, **recipe):
        run = RunDir(tmp_path)
        write_groups(run.eval_jsonl)
        if write_guard:
            write_guard(run.guard("old-news") / "eval.jsonl")
        for kind, score in relevant.items():
            rows = [
                {"qid": f"q{n}", "docid": f"d{place}", "score": (0.5, score)[place]}
                for n in range(QUERIES)
                for place in (0, 1)
            ]
            if pair_scores and kind in pair_scores:
                rows = [{"pid": f"p{n}", "score": pair_scores[kind](n)} for n in range(QUERIES)]
            write(run.stage(f"{STAGES[kind]}-{kind}").output / "scores.jsonl", rows)
        recipe["evaluate"] = {"guard": {"old-news": guard or {"data": ["old.jsonl"]}}, **recipe.get("evaluate", {})}
        stages = tuple(Stage(f"{number}-{kind}", kind, kind, Command(("true",))) for kind, number in STAGES.items())
        return build_metrics(run, Plan("run", str(tmp_path), "reranker", "swift", False, recipe, stages, ()))

    return build


ALL = {"baseline-native": 0.1, "evaluate": 0.9, "guard-old-news-before": 0.9, "guard-old-news-after": 0.1}


def test_a_guard_compares_the_tuned_model_with_the_base_on_its_own_data(build):
    (guard,) = build(ALL)["guards"]
    assert (guard["name"], guard["kind"], guard["verdict"]) == ("old-news", "group", "worse")
    assert (guard["comparisons"][0]["before"], guard["comparisons"][0]["units"]) == (1.0, QUERIES)
    assert guard["means"]["after"]["mrr@10"] == 0.5
    assert guard["eval"]["path"] == "data/guard/old-news/eval.jsonl"


def test_the_stages_of_a_guard_are_no_systems_of_the_run(build):
    assert [system["id"] for system in build(ALL)["systems"]] == ["native", "tuned"]


def test_a_guard_that_holds_leaves_the_gate_passed(build):
    relevant = {**ALL, "guard-old-news-after": 0.9}
    metrics = build(relevant, guard={"data": ["x"], "gate": {"ndcg@10": ">= baseline - 0.02"}})
    assert (metrics["gate"]["passed"], metrics["guards"][0]["gate"]["passed"]) == (True, True)


def test_a_missed_guard_misses_the_gate_and_its_sentence_names_the_guard(build):
    metrics = build(ALL, guard={"data": ["x"], "gate": {"mrr@10": ">= baseline"}}, gate={"map": "> baseline"})
    assert (metrics["gate"]["passed"], [rule["passed"] for rule in metrics["gate"]["rules"]]) == (False, [True, False])
    assert metrics["gate"]["rules"][1]["guard"] == "old-news"
    assert metrics["gate"]["rules"][1]["sentence"] == "guard old-news: MRR@10 0.5000 is not >= 1.0000 (baseline)"


def test_a_guard_without_a_gate_decides_nothing(build):
    metrics = build(ALL)
    assert (metrics["gate"]["passed"], metrics["guards"][0]["gate"]) == (None, {"passed": None, "rules": []})


def test_a_guard_has_the_metrics_of_the_recipe_and_those_of_its_gate(build):
    metrics = build(ALL, guard={"data": ["x"], "gate": {"hit@1": ">= 0"}}, evaluate={"metrics": ["map"]})
    assert metrics["guards"][0]["metrics"] == ["map", "hit@1"]


def test_a_guard_of_another_kind_has_that_kinds_own_metrics(build):
    agree = {"guard-old-news-before": lambda n: -n, "guard-old-news-after": lambda n: n}
    metrics = build(ALL, write_guard=write_pairs, pair_scores=agree, evaluate={"metrics": ["map"]})
    guard = metrics["guards"][0]
    assert (guard["kind"], guard["unit"], guard["metrics"]) == ("pair", "pair", ["spearman", "pearson"])
    assert guard["means"]["after"]["spearman"] == pytest.approx(1.0)


def test_a_guard_that_was_not_scored_is_a_gap_and_misses_its_gate(build):
    relevant = {"baseline-native": 0.1, "evaluate": 0.9, "guard-old-news-before": 0.9}
    metrics = build(relevant, guard={"data": ["x"], "gate": {"mrr@10": ">= baseline"}})
    guard = metrics["guards"][0]
    assert metrics["gaps"] == [
        "Teacher: the stage 03-baseline-teacher left no scores.",
        "Guard old-news: the tuned model was not scored on it.",
    ]
    assert (guard["verdict"], guard["comparisons"], guard["means"]["after"]) == ("not compared", [], None)
    assert metrics["gate"]["passed"] is False


def test_a_guard_without_data_is_a_gap(build):
    metrics = build(ALL, write_guard=None, guard={"data": ["x"], "gate": {"spearman": ">= baseline"}})
    assert metrics["guards"][0]["eval"] is None
    assert metrics["gaps"][-1] == "Guard old-news: its data was not prepared, so nothing was measured on it."


@pytest.mark.parametrize("gate", [{"spearman": ">= baseline"}, {"map": "much"}])
def test_a_gate_that_does_not_fit_the_guards_data_is_an_error_that_names_it(build, gate):
    with pytest.raises(RecipeError, match="guard old-news"):
        build(ALL, guard={"data": ["x"], "gate": gate})


def test_without_guards_there_are_none(build):
    metrics = build({"baseline-native": 0.1, "evaluate": 0.9}, evaluate={"guard": {}})
    assert metrics["guards"] == []


def test_the_teacher_is_a_system_beside_base_and_tuned(build):
    metrics = build({**ALL, "baseline-teacher": 0.9})
    assert [(system["id"], system["role"], system["label"]) for system in metrics["systems"]][1] == (
        "teacher",
        "teacher",
        "Teacher",
    )
    assert [row["baseline"] for row in metrics["comparisons"] if row["metric"] == "map"] == ["native", "teacher"]


def test_the_teacher_is_never_the_reference_baseline(build):
    metrics = build({"baseline-teacher": 0.1, "evaluate": 0.9}, gate={"map": "> baseline"})
    assert (metrics["headline"]["baseline"], metrics["verdict"], metrics["gate"]["passed"]) == (
        None,
        "not compared",
        False,
    )
