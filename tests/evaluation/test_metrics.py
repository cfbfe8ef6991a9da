from __future__ import annotations

import json

import pytest

from orchestrator.errors import RecipeError
from orchestrator.evaluation.metrics import build_metrics
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Plan, Stage

KINDS = {"02-native": "baseline-native", "03-format": "baseline-trained-format", "07-evaluate": "evaluate"}
PARTS = {"04-sparse": "baseline-sparse", "08-sparse": "baseline-tuned-sparse"}
QUERIES = 12


@pytest.fixture
def measured(tmp_path):
    """Build metrics.json of a small run: {stage: score of the relevant document}; the wrong one has 0.5."""

    def build(relevant: dict[str, float], kinds=KINDS, **recipe):
        run = RunDir(tmp_path)
        run.data.mkdir(exist_ok=True)
        groups = [
            {
                "qid": f"q{n}",
                "query": "?",
                "documents": [{"docid": f"q{n}.{place}", "text": "t", "label": place} for place in (0, 1)],
            }
            for n in range(QUERIES)
        ]
        run.eval_jsonl.write_text("".join(json.dumps(group) + "\n" for group in groups))
        for stage, score in relevant.items():
            output = run.stage(stage).output
            output.mkdir(parents=True)
            rows = [
                {"qid": group["qid"], "docid": f"{group['qid']}.{place}", "score": (0.5, score)[place]}
                for group in groups
                for place in (0, 1)
            ]
            (output / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            spec = {"label": f"label of {stage}"}
            (output / "scoring.json").write_text(json.dumps({"version": 1, "spec": spec, "head": "new"}))
        stages = tuple(Stage(name, kind, kind, Command(("true",))) for name, kind in kinds.items())
        return build_metrics(run, Plan("run", str(tmp_path), "reranker", "flagembedding", False, recipe, stages, ()))

    return build


def test_the_first_baseline_of_the_plan_is_the_headline(measured):
    metrics = measured({"02-native": 0.1, "03-format": 0.2, "07-evaluate": 0.9})
    assert (metrics["headline"], metrics["comparisons"][0]["baseline"]) == (
        {"metric": "ndcg@10", "baseline": "native"},
        "native",
    )


def test_the_tuned_model_is_compared_with_each_baseline_on_each_metric(measured):
    metrics = measured(
        {"02-native": 0.1, "03-format": 0.2, "07-evaluate": 0.9}, evaluate={"metrics": ["mrr@10", "map"]}
    )
    pairs = [(row["baseline"], row["metric"]) for row in metrics["comparisons"]]
    assert pairs == [(name, metric) for name in ("native", "trained-format") for metric in ("mrr@10", "map")]


def test_another_way_of_the_model_is_compared_with_itself_before_the_training(measured):
    scores = {"02-native": 0.1, "04-sparse": 0.2, "07-evaluate": 0.9, "08-sparse": 0.3}
    metrics = measured(scores, kinds=KINDS | PARTS, evaluate={"metrics": ["mrr@10"]})
    roles = {system["id"]: system["role"] for system in metrics["systems"]}
    assert (roles["sparse"], roles["tuned-sparse"], roles["tuned"]) == ("baseline", "tuned-part", "tuned")
    found = {row["baseline"]: (row["before"], row["after"]) for row in metrics["comparisons"]}
    assert found == {"native": (0.5, 1.0), "sparse": (0.5, 0.5)}


def test_the_verdict_is_that_of_the_headline_comparison(measured):
    assert measured({"02-native": 0.1, "07-evaluate": 0.9})["verdict"] == "better"


def test_means_and_values_of_each_query_are_given(measured):
    metrics = measured({"02-native": 0.1, "07-evaluate": 0.9}, evaluate={"metrics": ["mrr@10"]})
    assert [system["means"]["mrr@10"] for system in metrics["systems"]] == [0.5, 1.0]
    assert metrics["rows"][0] == {"id": "q0", "values": {"native": {"mrr@10": 0.5}, "tuned": {"mrr@10": 1.0}}}


def test_label_and_head_come_from_scoring_json(measured):
    (system, _) = measured({"02-native": 0.1, "07-evaluate": 0.9})["systems"]
    assert (system["label"], system["head"]) == ("label of 02-native", "new")


def test_without_a_baseline_nothing_is_compared(measured):
    metrics = measured({"07-evaluate": 0.9})
    assert (metrics["verdict"], metrics["comparisons"], len(metrics["gaps"])) == ("not compared", [], 2)


def test_without_the_tuned_model_nothing_is_compared(measured):
    metrics = measured({"02-native": 0.1})
    assert (metrics["verdict"], [system["id"] for system in metrics["systems"]]) == ("not compared", ["native"])


def test_a_constant_scorer_is_named(measured):
    systems = measured({"02-native": 0.5, "07-evaluate": 0.9})["systems"]
    assert [system["constant"] for system in systems] == [True, False]


def test_a_metric_that_only_the_gate_names_is_measured(measured):
    metrics = measured(
        {"02-native": 0.1, "07-evaluate": 0.9}, evaluate={"metrics": ["map"]}, gate={"hit@1": "> baseline"}
    )
    assert (metrics["metrics"], metrics["gate"]["passed"]) == (["map", "hit@1"], True)


def test_one_missed_rule_misses_the_gate(measured):
    metrics = measured({"02-native": 0.1, "07-evaluate": 0.9}, gate={"map": "> baseline", "hit@1": "> 1"})
    assert (metrics["gate"]["passed"], [rule["passed"] for rule in metrics["gate"]["rules"]]) == (False, [True, False])


def test_without_a_gate_nothing_is_passed_or_missed(measured):
    assert measured({"07-evaluate": 0.9})["gate"] == {"passed": None, "rules": []}


def test_a_gate_that_cannot_be_read_is_an_error_of_the_recipe(measured):
    with pytest.raises(RecipeError, match="not a gate"):
        measured({"07-evaluate": 0.9}, gate={"map": "much"})


def test_the_evaluation_set_is_identified_by_its_hash(measured):
    evaluation = measured({"07-evaluate": 0.9})["eval"]
    assert (evaluation["queries"], evaluation["documents"], len(evaluation["sha256"])) == (QUERIES, 2 * QUERIES, 64)
