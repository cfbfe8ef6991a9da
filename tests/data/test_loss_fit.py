"""What the prepare stage says of data that the loss, or the trainer's settings, cannot use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.data.data_pass import run_data_pass
from orchestrator.data.fit import LossRequirements
from orchestrator.data.request import Request
from orchestrator.data.rows.checks import RowRules
from orchestrator.recipe.losses import list_names


def group(number, negatives=1, positives=1):
    names = [f"p{number}.{place}" for place in range(positives)]
    return {"query": f"q{number}", "pos": names, "neg": [f"n{place}" for place in range(negatives)]}


def pair(number, score):
    return {"sentence1": f"q{number}", "sentence2": f"p{number}", "score": score}


def fit(files, rows, loss=None, **requirements):
    kind = "pair" if "score" in rows[0] else "group"
    rules = RowRules(kind, needs_negatives=False)
    path = files.lines("t.jsonl", *rows)
    return run_data_pass(
        Request((path,), rules=rules, requirements=LossRequirements(loss, **requirements), takes_scores=False)
    )


@pytest.mark.parametrize(
    ("loss", "rows", "requirements", "line", "sentence", "remedy"),
    [
        (
            "infonce",
            [pair(1, 1), pair(2, 0)],
            {},
            2,
            "loss-misfit: the row has the label 0, which corrupts",
            "contrast",
        ),
        (
            "infonce",
            [pair(1, 1)],
            {"in_batch_negatives": False},
            1,
            "loss-misfit: the row has no negatives",
            "in-batch",
        ),
        (
            "infonce",
            [group(1), group(2, 0)],
            {"in_batch_negatives": False},
            2,
            "loss-misfit: the row has no",
            "in-batch",
        ),
        ("infonce", [group(1, 0)], {"hard_negatives": 2}, 1, "loss-misfit: the row has no negatives", "HARD_NEG"),
        ("contrastive", [group(1)], {}, 1, "loss-misfit: contrastive learns from labels", "infonce"),
        ("online_contrastive", [group(1)], {}, 1, "loss-misfit: online_contrastive learns from labels", "infonce"),
        (
            "contrastive",
            [pair(1, 0), pair(2, 0.5)],
            {},
            2,
            "loss-misfit: the row has the label 0.5",
            "cosine_similarity",
        ),
        ("cosine_similarity", [group(1)], {}, 1, "loss-misfit: cosine_similarity learns from labels", "infonce"),
        (
            "cosine_similarity",
            [pair(1, -1), pair(2, 5)],
            {},
            2,
            "score-out-of-range: the row's score",
            "--divide-score",
        ),
        ("pointwise", [pair(1, 1)], {}, 1, "loss-misfit: pointwise takes queries with documents", "contrastive"),
    ],
)
def test_data_that_a_loss_cannot_learn_from_is_refused_at_the_first_row(
    files, loss, rows, requirements, line, sentence, remedy
):
    [problem] = fit(files, rows, loss, **requirements).refusals
    assert problem.message.startswith(sentence)
    assert problem.where.line == line
    assert remedy in problem.hint


def test_many_rows_that_do_not_fit_are_one_problem_with_their_count(files):
    [problem] = fit(files, [pair(number, number / 100) for number in range(2, 50)], "contrastive").refusals
    assert problem.message.endswith("(48 such rows)")


@pytest.mark.parametrize(
    ("loss", "rows", "requirements"),
    [
        ("infonce", [pair(1, 1), pair(2, 1.0)], {}),
        ("infonce", [group(1, 0), group(2, 0)], {}),
        ("infonce", [group(1), group(2, 3)], {"in_batch_negatives": False}),
        ("contrastive", [pair(1, 1), pair(2, 0)], {}),
        ("online_contrastive", [pair(1, 1), pair(2, 0)], {}),
        ("cosine_similarity", [pair(1, -1), pair(2, 0.3)], {}),
        ("pointwise", [group(1, 2, 2)], {}),
        ("listwise", [group(1, 2, 2)], {}),
    ],
)
def test_data_that_fits_is_neither_refused_nor_warned_about(files, loss, rows, requirements):
    found = fit(files, rows, loss, **requirements)
    assert (found.refusals, found.ledger.warnings, found.ledger.bad) == ((), (), 0)
    assert loss in list_names()


@pytest.mark.parametrize(
    ("loss", "row", "code"),
    [("infonce", group(1, positives=2), "several-positives"), ("listwise", group(1, negatives=0), "no-negative")],
)
def test_a_row_of_which_the_loss_would_ignore_a_part_is_bad(files, loss, row, code):
    found = fit(files, [group(9), row], loss)
    assert found.ledger.sides["train"].dropped == {code: 1}
    assert found.bad_rows[0].where.line == 2


def test_what_the_loss_asks_of_training_rows_it_does_not_ask_of_eval_rows(files):
    train, evaluation = files.lines("t.jsonl", group(1)), files.lines("e.jsonl", group(2, positives=3))
    request = Request((train,), (evaluation,), requirements=LossRequirements("infonce", in_batch_negatives=False))
    found = run_data_pass(request)
    assert (found.ledger.bad, found.refusals) == (0, ())


def test_pairs_with_one_label_are_refused_by_a_loss_that_contrasts_two(files):
    [problem] = fit(files, [pair(1, 0), pair(2, 0)], "contrastive").refusals
    assert problem.message == "one-label-only: every training pair has the label 0: contrastive has nothing to contrast"


@pytest.mark.parametrize(
    ("rows", "requirements", "code", "sentence"),
    [
        ([group(1, 1), group(2, 3)], {"hard_negatives": 2}, "few-negatives", "fewer negatives than 2: 1;"),
        ([group(1, 8), group(2)], {"max_negatives": 7}, "documents-sampled", "(7 negatives): 1;"),
        (
            [group(1, 8), group(2, 1, 2)],
            {"max_positives": 1, "max_negatives": 7},
            "documents-sampled",
            "(1 positives and 7 negatives): 2;",
        ),
        (
            [group(1) | {"pos_scores": [1], "neg_scores": [0]}, group(2)],
            {},
            "scores-not-used",
            "rows with teacher scores, which this trainer does not take: 1",
        ),
    ],
)
def test_what_only_weakens_the_training_is_warned_about(files, rows, requirements, code, sentence):
    found = fit(files, rows, **requirements)
    [warned] = found.ledger.warnings
    assert (warned.code, found.refusals) == (code, ())
    assert sentence in warned.message


def document(number, text, label):
    return {"query": f"q{number}", "content": text, "label": label}


@pytest.mark.parametrize(
    ("kind", "rows", "ordered"),
    [
        ("labelled", [document(number, "d", number % 2) for number in range(40)], False),
        ("labelled", [document(number, f"d{label}", label) for number in range(40) for label in (0, 1)], True),
        ("labelled", [document(number, f"d{label}", label) for number in range(40) for label in (0, 0.4)], False),
        ("pair", [pair(number, 1) for number in range(40)], False),
        ("pair", [pair(number, number) for number in range(40)], True),
        ("group", [group(number, 0) for number in range(40)], True),  # a query searches the documents of all rows
    ],
)
def test_validation_rows_whose_order_is_to_find_the_best_checkpoint_must_have_one(files, kind, rows, ordered):
    request = Request(
        (files.lines("t.jsonl", *rows),),
        rules=RowRules(kind, needs_negatives=False),
        validation_ratio=0.5,
        ranks_validation=True,
    )
    found = [problem for problem in run_data_pass(request).refusals if "validation-without-order" in problem.message]
    assert bool(found) != ordered
    assert all("metric_for_best_model: loss" in problem.hint for problem in found)
    assert run_data_pass(replace(request, ranks_validation=False)).refusals == ()
