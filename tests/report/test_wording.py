from __future__ import annotations

import pytest

from orchestrator.report import wording


def metrics(verdict="better", **changed):
    comparison = {
        "baseline": "native", "metric": "ndcg@10", "before": 0.412, "after": 0.873, "difference": 0.461, "low": 0.394,
        "high": 0.531, "p": 0.00005, "units": 100, "verdict": verdict, **changed,
    }  # fmt: skip
    return {"headline": {"metric": comparison["metric"]}, "unit": "query", "comparisons": [comparison], "systems": []}


def test_the_headline_of_a_better_model_gives_both_means_and_the_evidence():
    expected = "nDCG@10 rose from 0.412 to 0.873: +0.461 [+0.394, +0.531], p < 0.001, 100 queries"
    assert wording.headline(metrics()) == expected


@pytest.mark.parametrize(("verdict", "words"), [("worse", "fell from"), ("no measurable difference", "no measurable")])
def test_the_headline_says_what_the_verdict_says(verdict, words):
    assert words in wording.headline(metrics(verdict))


def test_the_headline_without_an_interval_says_so():
    assert "[no interval]" in wording.headline(metrics("no measurable difference", low=None, high=None))


def test_the_headline_without_a_baseline_gives_the_value_and_says_why_nothing_is_compared():
    alone = {
        "headline": {"metric": "map"},
        "comparisons": [],
        "unit": "query",
        "eval": {"units": 7},
        "systems": [{"role": "tuned", "means": {"map": 0.5}}],
        "gaps": [],
    }
    assert wording.headline(alone) == "MAP is 0.500 on 7 queries: not compared, since no baseline was measured"


@pytest.mark.parametrize(("value", "text"), [(0.1, "+0.100"), (-0.1, "-0.100"), (0.0, "0.000"), (-0.0001, "0.000")])
def test_a_difference_that_rounds_to_zero_has_no_sign(value, text):
    assert wording.signed(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.44, "2.4 s"), (413, "6 min 53 s"), (3599.6, "1 h 00 min"), (11220, "3 h 07 min")],
)
def test_durations_are_written_in_the_units_that_people_use(seconds, text):
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(1, "1 query"), (0, "0 queries"), (1204, "1,204 queries")])
def test_counts_agree_with_their_noun(number, text):
    assert wording.counted(number, "query") == text
    assert wording.plural("class") == "classes"


def test_systems_that_print_the_same_mean_are_both_best():
    systems = [{"id": name, "means": {"map": mean}} for name, mean in (("a", 0.50004), ("b", 0.50001), ("c", 0.4))]
    assert wording.best_systems({"metrics": ["map"], "systems": systems}) == {"map": {"a", "b"}}


@pytest.mark.parametrize(("verdict", "words"), [("better", "Loss fell from 3.210 to 2.040"), ("worse", "Loss rose")])
def test_a_loss_that_falls_is_better(verdict, words):
    changed = {"metric": "loss", "before": 3.21, "after": 2.04, "difference": -1.17, "low": -1.3, "high": -1.0}
    assert wording.headline(metrics(verdict, **changed)).startswith(words)


def test_the_best_loss_is_the_lowest():
    systems = [{"id": name, "means": {"loss": mean}} for name, mean in (("a", 2.0), ("b", 3.0), ("c", None))]
    assert wording.best_systems({"metrics": ["loss"], "systems": systems}) == {"loss": {"a"}}


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.500"), (99.4, "99.400"), (1234.56, "1,234.6"), (1e300, "1e+300"), (None, "–")]
)
def test_large_values_have_fewer_decimals(value, text):
    assert wording.figure(value) == text


@pytest.mark.parametrize(("value", "text"), [(1234.56, "+1,234.6"), (-1234.56, "-1,234.6"), (-1e300, "-1e+300")])
def test_large_differences_have_a_sign_too(value, text):
    assert wording.signed(value) == text
