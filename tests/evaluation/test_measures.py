from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.errors import Problem
from orchestrator.evaluation.measures import UNITS, Metric, check_metrics, default_metrics, parse_metric, require_metric

RANKING = ("ndcg@10", "mrr@10", "map", "hit@1", "precision@5", "recall@5")
OTHERS = ("spearman", "pearson", "loss", "perplexity", "exact_match", "rouge_l")


@pytest.mark.parametrize("name", [*RANKING, *OTHERS])
def test_every_documented_metric_is_parsed(name):
    assert isinstance(parse_metric(name), Metric)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ndgc@10", "'ndcg@10'"),
        ("nDCG@5", "'ndcg@5'"),
        ("rr@10", "'mrr@10'"),
        ("success@3", "'hit@3'"),
        ("AP", "'map'"),
        ("ndcg", "'ndcg@10'"),
        ("map@10", "'map'"),
        ("mrr@0", "'mrr@10'"),
        ("recall@ten", "'recall@10'"),
        ("bleu", "precision@k"),
        ("spearmanr", "'spearman'"),
        ("ppl", "'perplexity'"),
        ("rouge-l", "'rouge_l'"),
        ("ROUGE_L", "'rouge_l'"),
        ("loss@10", "'loss'"),
    ],
)
def test_a_wrong_metric_name_is_a_problem_with_the_right_one(name, hint):
    problem = parse_metric(name)
    assert isinstance(problem, Problem)
    assert hint in (problem.hint or "")


def test_validating_a_recipe_imports_nothing_heavy():
    code = (
        "import sys; from orchestrator.evaluation.measures import parse_gate; "
        "from orchestrator.evaluation.measures import parse_metric; parse_metric('ndcg@10'); "
        "parse_gate({'map': '> 0.5'}); sys.exit(bool({'numpy', 'scipy', 'ir_measures'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", UNITS)
def test_the_defaults_of_a_kind_fit_it(kind):
    assert check_metrics(default_metrics(kind), kind) == []


@pytest.mark.parametrize("kind", UNITS)
def test_every_metric_fits_the_kinds_that_it_names_and_no_other(kind):
    for name in (*RANKING, *OTHERS):
        assert (check_metrics([name], kind) == []) == (kind in require_metric(name).kinds)


def test_a_metric_of_another_kind_is_a_problem_that_lists_those_that_fit():
    (problem,) = check_metrics(["spearman", "ndcg@10"], "pair")
    assert problem.message == "ndcg@10 does not measure scored pairs"
    assert problem.hint == "metrics that do: spearman, pearson"


def test_every_wrong_name_is_reported():
    problems = check_metrics(["ndgc@10", "loss", "map"], "retrieval")
    assert [problem.message.split()[0] for problem in problems] == ["unknown", "loss"]


def test_only_loss_and_perplexity_are_better_when_lower():
    lower = [name for name in (*RANKING, *OTHERS) if not require_metric(name).higher_is_better]
    assert lower == ["loss", "perplexity"]


def test_a_pair_has_an_error_where_its_metric_has_a_correlation():
    metric = require_metric("spearman")
    assert (metric.higher_is_better, metric.row_display, metric.row_higher_is_better) == (True, "Rank error", False)
