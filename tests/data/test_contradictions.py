"""A document that is positive and negative for one query, and a leak, are found in every form and every spelling."""

from __future__ import annotations

import pytest

from orchestrator.data.digests import NORMALISED

GROUPS = ("--form", "flagembedding")
LABELLED = ("--kind", "labelled", "--form", "cross-encoder-lists")
PAIRS = ("--kind", "pair", "--form", "swift-embedding")


def group(query, positive, negative):
    return [{"query": query, "pos": [positive], "neg": [negative]}]


def hits(query, positive, negative):
    return [{"query": query, "hits": [{"content": positive, "label": 0.8}, {"content": negative, "label": 0.2}]}]


def pointwise(query, positive, negative):
    return [{"query": query, "content": text, "label": label} for text, label in ((positive, 1), (negative, 0))]


def pairs(query, positive, negative):
    return [{"sentence1": query, "sentence2": text, "score": score} for text, score in ((positive, 1), (negative, 0))]


def swift(query, positive, negative):
    return [{"query": query, "response": positive, "rejected_response": [negative]}]


FORMS = [
    *((group, GROUPS), (group, ("--form", "swift-embedding")), (swift, ("--form", "swift-reranker"))),
    *((group, LABELLED), (hits, LABELLED), (pointwise, LABELLED), (pairs, PAIRS)),
]


@pytest.fixture
def run(stage, files):
    def run(rows, evaluation, options, *more):
        argv = ("--train", files.lines("t.jsonl", *rows), "--eval", files.lines("e.jsonl", *evaluation))
        return stage(*argv, *options, *more)

    return run


@pytest.mark.parametrize(("build", "options"), FORMS)
@pytest.mark.parametrize(
    ("query", "document"), [("Which?", "bees"), ("which？", "Ｂｅｅｓ"), ("which?\u200b", "be\u00ades")]
)
def test_a_contradiction_of_two_rows_is_found_in_every_form(stage, run, build, options, query, document):
    rows = [*build("Which?", "bees", "wasps"), *build(query, "ants", document)]
    assert run(rows, build("other", "a", "b"), options) == 3
    found = next(line for line in stage.stderr.splitlines() if "conflicting-labels: " in line)
    assert f"t.jsonl:{len(rows)}: " in found or "t.jsonl:2: " in found
    exact = (query, document) == ("Which?", "bees")
    assert (NORMALISED in found) is not exact


@pytest.mark.parametrize(("build", "options"), FORMS)
def test_what_contradicts_nothing_is_kept(stage, run, build, options):
    rows = [*build("Which?", "bees", "wasps"), *build("Which?", "bees ", "ants"), *build("Who?", "wasps", "bees")]
    assert run(rows, build("other", "a", "b"), options) == 0
    assert stage.json("ledger.json")["sides"]["train"].get("bad", 0) == 0


def test_an_eval_side_that_contradicts_itself_is_found(stage, run):
    rows = [*group("q", "a", "b"), *group("q", "b", "c")]
    assert run(group("other", "x", "y"), rows, GROUPS) == 3
    assert "e.jsonl:2: conflicting-labels: " in stage.stderr


def test_a_document_may_answer_a_query_under_one_prompt_only(stage, run):
    rows = [group("q", "a", "b")[0] | {"prompt": "one"}, group("q", "b", "a")[0] | {"prompt": "two"}]
    assert run(rows, [group("other", "x", "y")[0] | {"prompt": "one"}], GROUPS) == 0


@pytest.mark.parametrize("negative", ["ＢＥＥＳ", "bees\ufeff", "BEES"])
@pytest.mark.parametrize(("build", "options", "code"), [
    (group, GROUPS, "positive-among-negatives"), (hits, LABELLED, "conflicting-labels"),
])  # fmt: skip
def test_a_contradiction_of_one_row_is_found_in_every_spelling(stage, run, build, options, code, negative):
    assert run(build("q", "bees", negative), build("other", "a", "b"), options) == 3
    assert f"{code}: the document " in stage.stderr
    assert NORMALISED in stage.stderr


def test_the_ledger_says_by_which_rule_a_leak_was_found(stage, run):
    rows = [*group("where is it？", "a", "b"), *group("Where  is it?", "c", "d"), *group("Why?", "e", "f")]
    assert run(rows, group("where is it?", "x", "y"), GROUPS) == 0
    ledger = stage.json("ledger.json")
    assert [row["detail"] for row in ledger["dropped_rows"]] == [
        f"the query is in the eval set ({NORMALISED})",
        "the query is in the eval set (exact)",
    ]
    [warned] = ledger["warnings"]
    assert (warned["count"], f"2, 1 of them {NORMALISED}" in warned["message"]) == (2, True)


def test_a_split_keeps_loosely_equal_queries_together_and_texts_as_they_are(stage, files):
    rows = [group(f"{wide}{number}", "a", "b")[0] for number in range(40) for wide in ("ＡＢ？", "ab?")]
    assert stage("--train", files.lines("t.jsonl", *rows), "--eval-ratio", 0.5, *GROUPS) == 0
    train = {row["query"] for row in stage.lines("train.jsonl")}
    assert 0 < len(train) < 80
    assert all({f"ＡＢ？{number}", f"ab?{number}"} <= train for number in range(40) if f"ab?{number}" in train)
    assert len(train) % 2 == 0


def test_a_positive_of_both_sides_is_known_in_another_spelling(stage, run):
    rows = [*group("one", "Ｓａｍｅ", "b"), *group("two", "same", "b")]
    assert run(rows, group("three", "same", "y"), GROUPS) == 0
    [warned] = stage.json("ledger.json")["warnings"]
    assert (warned["code"], warned["count"]) == ("document-also-in-eval", 2)
    assert f"2, 1 of them {NORMALISED}" in warned["message"]
