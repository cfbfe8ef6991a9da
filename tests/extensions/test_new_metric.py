"""A metric is added in one place, its entry in `METRICS`: it is checked, measured, compared, gated and reported."""

from __future__ import annotations

import json

import pytest

from orchestrator.evaluation.eval_sets import load_eval
from orchestrator.evaluation.measures import CHATTED, METRICS, Metric, Rule, check_metrics, parse_rule
from orchestrator.report.publish import write_report
from orchestrator.report.wording import build_lines
from tests.report.conftest import build_kind_run


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_new_measure_of_rankings_is_computed_from_a_scores_file(monkeypatch, tmp_path):
    monkeypatch.setitem(METRICS, "rprec", Metric("R-precision", ir_measures="Rprec"))
    documents = [{"docid": f"d{n}", "text": "t", "label": label} for n, label in enumerate((1, 0, 1, 0))]
    evaluation = load_eval(write(tmp_path / "eval.jsonl", {"qid": "q", "query": "?", "documents": documents}))
    rows = [{"qid": "q", "docid": f"d{n}", "score": -n} for n in range(4)]
    scores = evaluation.load_scores(write(tmp_path / "scores.jsonl", *rows))
    assert check_metrics(["rprec"], "group") == []
    assert evaluation.measure({"a": scores}, ["rprec"], seed=42)["a"].means == {"rprec": 0.5}


def test_a_new_measure_of_answers_goes_through_gate_comparison_and_report(monkeypatch, tmp_path):
    def share_of_length(generated: str, reference: str) -> float:
        return min(1.0, len(generated) / len(reference))

    monkeypatch.setitem(METRICS, "length", Metric("Length share", CHATTED, of_texts=share_of_length))
    assert isinstance(parse_rule("length", "> baseline"), Rule)
    run = build_kind_run(tmp_path / "run", "chat", metrics=["length", "loss"])
    summary = write_report(run)
    [compared] = [row for row in summary["comparisons"] if row["metric"] == "length"]
    assert (compared["units"], summary["metrics"]["headline"]) == (40, "length")
    assert "Length share " in build_lines(summary)[2]
    assert "Length share" in run.report_html.read_text(encoding="utf-8")


def test_a_name_that_nobody_added_is_a_problem():
    [problem] = check_metrics(["rprec"], "group")
    assert problem.message == "unknown metric 'rprec'"
    with pytest.raises(KeyError):
        METRICS["rprec"]
