from __future__ import annotations

import pytest

from orchestrator.errors import Problem
from orchestrator.evaluation.measures import Rule, decide, parse_gate, parse_rule


def rule(text: str, metric: str = "ndcg@10") -> Rule:
    parsed = parse_rule(metric, text)
    assert isinstance(parsed, Rule)
    return parsed


@pytest.mark.parametrize(
    ("text", "tuned", "baseline", "passed"),
    [
        ("> baseline", 0.51, 0.5, True),
        ("> baseline", 0.5, 0.5, False),
        (">= baseline", 0.5, 0.5, True),
        (">= baseline + 0.02", 0.52, 0.5, True),
        (">= baseline + 0.02", 0.5199, 0.5, False),
        ("> baseline - 0.01", 0.495, 0.5, True),
        (">baseline+.02", 0.521, 0.5, True),
        ("> 0.5", 0.5, None, False),
        (">= 5e-1", 0.5, None, True),
    ],
)
def test_a_rule_holds_the_tuned_mean_against_its_threshold(text, tuned, baseline, passed):
    assert decide(rule(text), tuned, baseline)[0] is passed


def test_a_threshold_is_not_missed_by_binary_rounding():
    assert decide(rule(">= baseline + 0.1"), 0.3, 0.2)[0]  # 0.2 + 0.1 > 0.3 in binary


def test_the_sentence_of_a_passed_rule_says_what_was_compared():
    passed, sentence = decide(rule(">= baseline + 0.02"), 0.873, 0.412)
    assert passed
    assert sentence == "nDCG@10 0.8730 >= 0.4320 (baseline + 0.02)"


def test_the_sentence_of_a_missed_rule_says_so():
    assert decide(rule("> 0.5", "map"), 0.4, None)[1] == "MAP 0.4000 is not > 0.5000"


def test_a_rule_about_a_baseline_that_was_not_measured_is_missed():
    passed, sentence = decide(rule("> baseline"), 0.9, None)
    assert (passed, "no baseline was measured" in sentence) == (False, True)


def test_a_rule_is_missed_when_the_tuned_model_was_not_measured():
    assert not decide(rule("> 0.5"), None, 0.4)[0]


@pytest.mark.parametrize(
    "text",
    ["baseline", "> base", "== 0.5", "> baseline * 2", "> baseline + 5%", "", "> -0.5", None, True, [0.5]],
)
def test_what_the_grammar_does_not_know_is_a_problem_that_shows_the_grammar(text):
    problem = parse_rule("ndcg@10", text)
    assert isinstance(problem, Problem)
    assert ">= baseline + 0.02" in (problem.hint or "")


def test_a_bare_number_is_a_problem_that_shows_the_operator():
    problem = parse_rule("map", 0.5)
    assert isinstance(problem, Problem)
    assert problem.hint == "write '> 0.5'"


def test_a_threshold_above_one_is_a_problem():
    assert isinstance(parse_rule("map", "> 50"), Problem)


def test_every_problem_of_a_gate_is_reported():
    rules, problems = parse_gate({"ndcg@10": "> baseline", "ndgc@10": "> baseline", "map": "about 0.5"})
    assert ([item.metric.name for item in rules], len(problems)) == (["ndcg@10"], 2)


@pytest.mark.parametrize(
    ("metric", "text", "tuned", "baseline", "passed"),
    [
        ("loss", "< baseline", 2.0, 3.0, True),
        ("loss", "< baseline", 3.0, 3.0, False),
        ("loss", "<= baseline", 3.0, 3.0, True),
        ("loss", "< baseline - 0.1", 2.95, 3.0, False),
        ("loss", "< baseline + 0.1", 3.05, 3.0, True),
        ("perplexity", "< 20", 19.9, None, True),
        ("perplexity", "<= 20", 20.1, None, False),
    ],
)
def test_a_rule_of_a_metric_that_is_better_when_lower_holds_it_below(metric, text, tuned, baseline, passed):
    assert decide(rule(text, metric), tuned, baseline)[0] is passed


def test_the_sentence_of_a_rule_below_says_what_was_compared():
    passed, sentence = decide(rule("< baseline - 0.1", "loss"), 2.04, 3.21)
    assert passed
    assert sentence == "Loss 2.0400 < 3.1100 (baseline - 0.1)"


@pytest.mark.parametrize(
    ("metric", "text", "hint"),
    [
        ("ndcg@10", "< baseline", "write '> baseline'"),
        ("ndcg@10", "< 0.5", "write '> 0.5'"),
        ("map", "<= baseline - 0.02", "write '>= baseline + 0.02'"),
        ("map", "< baseline + 0.02", "write '> baseline + 0.02'"),
        ("loss", "> baseline", "write '< baseline'"),
        ("loss", ">= baseline + 0.1", "write '<= baseline - 0.1'"),
        ("perplexity", "> 20", "write '< 20'"),
    ],
)
def test_a_gate_in_the_wrong_direction_is_a_problem_with_the_right_spelling(metric, text, hint):
    problem = parse_rule(metric, text)
    assert isinstance(problem, Problem)
    assert ("is passed by a worse model" in problem.message, problem.hint) == (True, hint)
    assert isinstance(parse_rule(metric, hint.removeprefix("write ").strip("'")), Rule)


@pytest.mark.parametrize(("metric", "text"), [("loss", "< 0"), ("perplexity", "< 1"), ("perplexity", "<= 0.5")])
def test_a_threshold_below_what_a_metric_can_be_is_a_problem(metric, text):
    problem = parse_rule(metric, text)
    assert isinstance(problem, Problem)
    assert "can never be passed" in problem.message


def test_a_loss_above_one_can_be_asked_for():
    assert isinstance(parse_rule("loss", "< 2.5"), Rule)


def test_a_bare_number_for_a_loss_shows_its_operator():
    problem = parse_rule("loss", 2)
    assert isinstance(problem, Problem)
    assert problem.hint == "write '< 2'"
