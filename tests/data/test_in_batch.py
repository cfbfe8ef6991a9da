"""Rows whose batches hold answers as negatives: refused where they are many, warned of where they are not few."""

from __future__ import annotations

import pytest

from orchestrator.data.data_pass import run_data_pass
from orchestrator.data.fit import LossRequirements
from orchestrator.data.request import Request
from orchestrator.data.rows.checks import RowRules

LABELS = ("very bad", "bad", "good", "very good")


def graded(number, labels=LABELS):
    here = number % len(labels)
    return {"query": f"q{number}", "pos": [labels[here]], "neg": [*labels[:here], *labels[here + 1 :]]}


def asked(number, each):
    """Return a row one of `each` of which have the same positive."""
    return {"query": f"q{number}", "response": f"p{number // each}"}


def fit(files, rows, kind="group", limit=None, **requirements):
    path = files.lines("t.jsonl", *rows)
    rules = RowRules(kind, needs_negatives=False)
    return run_data_pass(
        Request((path,), rules=rules, requirements=LossRequirements("infonce", **requirements), limit_train=limit)
    )


def test_labels_of_a_classification_are_refused_with_a_way_out_that_works(files):
    rows = [graded(number) for number in range(51)]
    [problem] = fit(files, rows).refusals
    assert problem.message == (
        "false-negatives: 25.0% of the negatives that infonce takes from a row's batch answer its query: "
        "51 rows have 4 different positives and 51 different queries"
    )
    assert problem.hint.startswith("loss: {type: infonce, use_batch: false} learns from each row's own negatives; ")
    assert not fit(files, rows, in_batch_negatives=False).refusals


def test_rows_without_negatives_are_not_told_to_use_their_own(files):
    [problem] = fit(files, [asked(number, 10) for number in range(60)]).refusals
    assert problem.message.startswith("false-negatives: 15.3% of the negatives")
    assert "or give every row negatives (orch data mine)" in problem.hint


def test_a_query_whose_other_answers_stand_in_its_batch_is_refused(files):
    rows = [{"query": f"q{number % 5}", "pos": [f"p{number}"], "neg": []} for number in range(50)]
    [problem] = fit(files, rows).refusals
    assert problem.message.startswith("false-negatives: 18.4% of")


def test_pairs_are_counted_alike(files):
    rows = [{"sentence1": f"q{number}", "sentence2": f"p{number % 3}", "score": 1} for number in range(30)]
    assert fit(files, rows, "pair").refusals[0].message.startswith("false-negatives: 31.0% of")


def test_a_positive_that_is_a_negative_of_other_rows_counts(files):
    rows = [{"query": f"q{number}", "pos": [f"p{number}"], "neg": [f"p{(number + 1) % 8}"]} for number in range(8)]
    assert fit(files, rows).refusals[0].message.startswith("false-negatives: 7.1% of")


@pytest.mark.parametrize(("each", "codes"), [(1, []), (5, ["some-false-negatives"])])
def test_few_questions_of_one_text_are_allowed_and_warned_about(files, each, codes):
    found = fit(files, [asked(number, each) for number in range(500)])
    assert (found.refusals, [warned.code for warned in found.ledger.warnings]) == ((), codes)


def test_all_rows_are_counted_not_the_first_ones_of_a_trial_run(files):
    assert fit(files, [asked(number, 5) for number in range(500)], limit=20).refusals == ()
