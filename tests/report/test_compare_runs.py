from __future__ import annotations

import json
import shutil

import pytest

from orchestrator.errors import RunFolderError
from orchestrator.evaluation.metrics import build_metrics
from orchestrator.machine.files import write_json
from orchestrator.machine.rundir import RunDir
from orchestrator.report.compare_runs import compare_runs, format_comparison
from orchestrator.run.folder import load_plan


@pytest.fixture
def two_runs(pristine_run, tmp_path):
    """Two measured copies of one run; the second's tuned model is the first's native baseline, so it is worse."""
    runs = []
    for name in ("first", "second"):
        shutil.copytree(pristine_run, tmp_path / name)
        runs.append(RunDir(tmp_path / name))
    second = runs[1]
    scores = second.stage("02-baseline-native").output / "scores.jsonl"
    shutil.copy(scores, second.stage("07-evaluate").output / "scores.jsonl")
    for run in runs:
        write_json(run.metrics_json, build_metrics(run, load_plan(run)))
    return runs


def by_metric(comparison):
    return {row["metric"]: row for row in comparison["comparisons"]}


def test_the_second_run_is_held_against_the_first(two_runs):
    comparison = compare_runs(*two_runs)
    assert (
        comparison["verdict"],
        comparison["eval"]["units"],
        [row["metric"] for row in comparison["comparisons"]],
    ) == (
        "worse",
        60,
        ["ndcg@10", "mrr@10", "map"],
    )


def test_a_run_shows_no_difference_from_itself(two_runs):
    comparison = compare_runs(two_runs[0], two_runs[0])
    assert (comparison["verdict"], by_metric(comparison)["map"]["p"]) == ("no measurable difference", 1.0)


def test_queries_are_paired_by_qid_and_not_by_place(two_runs):
    path = two_runs[0].metrics_json
    metrics = json.loads(path.read_text())
    other = RunDir(two_runs[0].root.parent / "shuffled")
    shutil.copytree(two_runs[0].root, other.root)
    metrics["rows"].reverse()
    write_json(other.metrics_json, metrics)
    assert by_metric(compare_runs(two_runs[0], other))["ndcg@10"]["ties"] == 60


def test_different_evaluation_sets_are_refused(two_runs):
    path = two_runs[1].metrics_json
    metrics = json.loads(path.read_text())
    metrics["eval"]["sha256"] = "0" * 64
    write_json(path, metrics)
    with pytest.raises(RunFolderError, match="different evaluation sets"):
        compare_runs(*two_runs)


def test_a_run_that_is_not_finished_is_refused_with_the_way_to_finish_it(two_runs):
    two_runs[1].metrics_json.unlink()
    with pytest.raises(RunFolderError) as raised:
        compare_runs(*two_runs)
    assert "orch resume" in (raised.value.problems[0].hint or "")


def test_runs_without_a_common_metric_are_refused(two_runs):
    path = two_runs[1].metrics_json
    metrics = json.loads(path.read_text())
    write_json(path, {**metrics, "metrics": ["hit@1"]})
    with pytest.raises(RunFolderError, match="share no metric"):
        compare_runs(*two_runs)


def test_the_text_says_who_is_worse_and_lists_every_metric(two_runs):
    text = format_comparison(compare_runs(*two_runs))
    assert text.startswith("The second run is worse than the first, on 60 queries.")
    assert [line.split()[0] for line in text.splitlines()[5:]] == ["nDCG@10", "MRR@10", "MAP"]


def test_the_json_holds_the_same_numbers(two_runs):
    comparison = compare_runs(*two_runs)
    row = json.loads(json.dumps(comparison))["comparisons"][0]
    assert (row["metric"], row["difference"]) == ("ndcg@10", by_metric(comparison)["ndcg@10"]["difference"])


def test_several_runs_are_compared_with_the_first_and_the_best_is_named(two_runs):
    third = RunDir(two_runs[0].root.parent / "third")
    shutil.copytree(two_runs[0].root, third.root)
    compared = compare_runs(two_runs[1], two_runs[0], third)
    verdicts = {(row["run"], row["metric"]): row["verdict"] for row in compared["comparisons"]}
    assert verdicts[str(two_runs[0].root), "ndcg@10"] == verdicts[str(third.root), "ndcg@10"] == "better"
    assert compared["best"] == {
        "metric": "ndcg@10", "run": str(two_runs[0].root), "not_worse": [str(third.root)]
    }  # fmt: skip
    text = format_comparison(compared)
    assert "Best by nDCG@10: first. Not measurably worse: third." in text
    assert len([line for line in text.splitlines() if line.startswith(("first ", "third "))]) == 6


def test_among_several_runs_the_damaged_one_is_named(two_runs):
    write_json(two_runs[1].metrics_json, {"version": 2})
    with pytest.raises(RunFolderError) as raised:
        compare_runs(two_runs[0], two_runs[1], two_runs[0])
    assert "second/metrics.json" in str(raised.value.problems[0].where)
