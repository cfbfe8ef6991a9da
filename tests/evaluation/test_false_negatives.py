"""The audit of labels: negatives that a system prefers to every relevant document of their query."""

from __future__ import annotations

from dataclasses import asdict

from orchestrator.report.examples import find_false_negatives


def scored(*queries):
    return {qid: {f"{qid}.{n}": score for n, score in enumerate(scores)} for qid, scores in queries}


def test_a_negative_above_the_highest_relevant_document_is_counted(make_group):
    audit = find_false_negatives([make_group("q", 1, 0, 1, 0)], scored(("q", [0.2, 0.9, 0.8, 0.5])))
    assert (audit.queries, audit.of_queries, audit.negatives, audit.of_negatives) == (1, 1, 1, 2)


def test_the_example_shows_both_texts_and_scores(make_group):
    (found,) = find_false_negatives([make_group("q", 1, 0)], scored(("q", [0.2, 0.9]))).examples
    assert (found.query, found.positive, found.negative) == ("query q", "text 0", "text 1")
    assert (found.positive_score, found.negative_score) == (0.2, 0.9)


def test_an_equal_score_is_not_above(make_group):
    assert find_false_negatives([make_group("q", 1, 0)], scored(("q", [0.5, 0.5]))).negatives == 0


def test_one_half_is_relevant_and_less_is_a_negative(make_group):
    audit = find_false_negatives([make_group("q", 0.5, 0.49)], scored(("q", [0.1, 0.2])))
    assert (audit.negatives, audit.of_negatives) == (1, 1)


def test_queries_without_a_relevant_document_or_without_scores_take_no_part(make_group):
    groups = [make_group("a", 0, 0), make_group("b", 1, 0), make_group("c", 1, 1)]
    audit = find_false_negatives(groups, scored(("a", [1, 2]), ("c", [1, 2])))
    assert (audit.of_queries, audit.of_negatives, audit.examples) == (0, 0, ())


def test_the_widest_gaps_come_first_and_one_of_a_query(make_group):
    groups = [make_group(qid, 1, 0, 0) for qid in "abc"]
    audit = find_false_negatives(groups, scored(("a", [0, 1, 2]), ("b", [0, 5, 4]), ("c", [9, 1, 2])), shown=1)
    assert (audit.queries, audit.negatives) == (2, 4)
    assert [(found.where, found.negative_score) for found in audit.examples] == [("b", 5)]


def test_the_audit_can_be_written_as_json(make_group):
    audit = find_false_negatives([make_group("q", 1, 0)], scored(("q", [0.2, 0.9])))
    assert asdict(audit)["examples"][0]["negative_score"] == 0.9
