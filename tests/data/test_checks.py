from __future__ import annotations

import pytest

from orchestrator.data.reasons import Fault
from orchestrator.data.rows.checks import check_row
from orchestrator.data.rows.texts import is_blank, quote


def check(value):
    return check_row(value, source="a.jsonl", line=7)


def fault(value):
    found = check(value)
    assert isinstance(found, Fault)
    return found


def test_a_good_row_becomes_a_group_that_knows_where_it_came_from(row):
    group = check(row(1, prompt="Judge.")).record
    assert (group.query, group.positives, group.negatives) == ("question 1", ("answer 1",), ("other 1", "more 1"))
    assert (group.prompt, group.source, group.line) == ("Judge.", "a.jsonl", 7)


def test_texts_are_kept_as_they_are(row):
    group = check(row(1, query="  A\u0065\u0301 ", pos=[" x\n"])).record
    assert (group.query, group.positives) == ("  A\u0065\u0301 ", (" x\n",))


def test_teacher_scores_become_floats(row):
    group = check(row(1, pos_scores=[1], neg_scores=[0, 0.5])).record
    assert (group.positive_scores, group.negative_scores) == ((1.0,), (0.0, 0.5))
    assert all(isinstance(score, float) for score in group.negative_scores)


def test_null_means_that_an_optional_key_is_absent(row):
    group = check(row(1, prompt=None, pos_scores=None, neg_scores=None)).record
    assert (group.prompt, group.positive_scores, group.negative_scores) == (None, None, None)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        *[("query", "question"), ("query", "Query"), ("query", "querry"), ("query", "anchor")],
        *[("pos", "positive"), ("pos", "positives"), ("pos", "POS"), ("pos", "positive_passages")],
        *[("neg", "negative"), ("neg", "negatives"), ("neg", "hard-negatives"), ("neg", "Hard Negatives")],
    ],
)
def test_a_near_name_of_a_missing_key_is_pointed_out(row, key, near):
    value = row(1)
    value[near] = value.pop(key)
    found = fault(value)
    assert found.code == "missing-key"
    assert found.hint.startswith(f'rename "{near}" to "{key}": --map ')


def test_a_missing_key_without_a_near_name_shows_the_shape(row):
    value = row(1)
    del value["neg"]
    assert fault(value).hint.startswith('add "neg": a row is {"query": "…", "pos": ["…"], "neg": ["…", "…"]}')


def test_a_chat_row_is_called_one():
    assert "chat row" in fault({"messages": []}).message


def test_a_positive_that_is_a_string_is_to_be_put_in_a_list(row):
    found = fault(row(1, pos="the answer"))
    assert found.code == "wrong-type"
    assert found.hint.startswith('put it in a list: "pos": ["the answer"]; orch data convert FILE --from passages')


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": ["q"]}, '"query" is a list, not a string'),
        ({"query": None}, '"query" is null, not a string'),
        ({"pos": {"t": "a"}}, '"pos" is an object, not a list of strings'),
        ({"neg": ["a", 1]}, '"neg"[1] is a number, not a string'),
        ({"neg": ["a", None]}, '"neg"[1] is null, not a string'),
        ({"prompt": 1}, '"prompt" is a number, not a string'),
        ({"pos_scores": 1.0}, '"pos_scores" is a number, not a list of numbers'),
    ],
)
def test_a_wrong_type_is_named_with_its_place(row, changes, message):
    assert fault(row(1, **changes)).message == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": "a\ud800"}, '"query" holds \\ud800, half of a UTF-16 pair, at character 2'),
        ({"neg": ["a", "\udfff"]}, '"neg"[1] holds \\udfff, half of a UTF-16 pair, at character 1'),
        ({"prompt": "\ud83d"}, '"prompt" holds \\ud83d, half of a UTF-16 pair, at character 1'),
    ],
)
def test_a_lone_surrogate_is_found_in_every_text(row, changes, message):
    assert fault(row(1, **changes)).message == message


@pytest.mark.parametrize("blank", ["", " \n\t", "\u3000", "\u200b", "\ufeff \u200b"])
def test_a_text_that_shows_nothing_is_empty(row, blank):
    assert fault(row(1, query=blank)).code == "empty-query"
    assert fault(row(1, neg=["a", blank])).message == '"neg"[1] is empty or white space'


@pytest.mark.parametrize("text", ["a", "的", "👍", "?", "\u200ba"])
def test_a_text_that_shows_something_is_not_empty(text):
    assert not is_blank(text)


def test_a_positive_that_differs_from_a_negative_in_white_space_only_is_among_them(row):
    assert (
        fault(row(1, pos=["caf\u00e9  au lait "], neg=["x", "cafe\u0301 au\nlait"])).code == "positive-among-negatives"
    )


def test_a_positive_that_differs_from_a_negative_in_case_is_another_document(row):
    assert check(row(1, pos=["Polish"], neg=["polish"])).record


def test_repeated_documents_are_used_once_with_their_first_score(row):
    checked = check(row(1, pos=["p", "p "], pos_scores=[1, 2], neg=["a", "b", " a"], neg_scores=[3, 4, 5]))
    assert (checked.record.positives, checked.record.positive_scores) == (("p",), (1.0,))
    assert (checked.record.negatives, checked.record.negative_scores) == (("a", "b"), (3.0, 4.0))
    assert checked.warnings == {"duplicate-positive": 1, "duplicate-negative": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"pos_scores": [1.0, 2.0], "neg_scores": [1.0, 2.0]},
        {"pos_scores": [1.0], "neg_scores": [1.0]},
        {"pos_scores": [1.0], "neg_scores": []},
        {"pos_scores": [1.0]},
        {"neg_scores": [1.0, 2.0]},
    ],
)
def test_scores_that_do_not_match_the_documents_are_a_fault(row, changes):
    assert fault(row(1, **changes)).code == "scores-length"


@pytest.mark.parametrize("score", [True, "1", None, [1], float("inf"), 10**400])
def test_a_score_that_is_no_finite_number_is_a_fault(row, score):
    assert fault(row(1, pos_scores=[score], neg_scores=[1, 2])).code == "scores-not-numbers"


def test_keys_that_nothing_reads_are_noted(row):
    assert check(row(1, id=3, type="symmetric")).unknown_keys == ("id", "type")


def test_a_quoted_text_is_short_and_stays_on_one_line():
    assert quote("a\n" + "b" * 100) == '"a\\n' + "b" * 37 + '\\u2026"'
