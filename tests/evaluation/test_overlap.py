from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.evaluation.measures import exact_match, rouge_l, tokenise


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The cat, the CAT!", ["the", "cat", "the", "cat"]),
        ("备份保留 35 天。", ["备", "份", "保", "留", "35", "天"]),
        ("用JSON Lines导出", ["用", "json", "lines", "导", "出"]),
        ("백업은 며칠", ["백업은", "며칠"]),
        ("バックアップ", list("バックアップ")),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("ＡＢＣ１２", ["abc12"]),
        ("e\u0301te\u0301", ["\u00e9t\u00e9"]),
        ("3.5%", ["3", "5"]),
        (" …?! ", []),
        ("", []),
    ],
)
def test_words_are_tokens_and_so_is_each_character_of_a_script_without_spaces(text, tokens):
    assert tokenise(text) == tokens


@pytest.mark.parametrize(
    ("generated", "reference", "value"),
    [
        (" Yes,\n it  is ", "yes, it is", 1.0),
        ("ＹＥＳ", "yes", 1.0),
        ("Straße", "STRASSE", 1.0),
        ("yes", "yes.", 0.0),
        ("", "", 1.0),
    ],
)
def test_an_exact_match_ignores_width_case_and_white_space_only(generated, reference, value):
    assert exact_match(generated, reference) == value


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    # Lin 2004, section 3.1: "police kill the gunman" has two words of the reference in order, "gunman kill" only one.
    assert rouge_l("police kill the gunman", "police killed the gunman") == 0.75
    assert rouge_l("the gunman kill police", "police killed the gunman") == 0.5


def test_rouge_l_of_chinese_is_over_characters():
    assert rouge_l("备份保留三天", "备份保留五天") == pytest.approx(5 / 6)


@pytest.mark.parametrize(("generated", "reference", "value"), [("", "words", 0.0), ("?!", "?!", 1.0), ("?", "!", 0.0)])
def test_texts_without_words_match_exactly_or_not_at_all(generated, reference, value):
    assert rouge_l(generated, reference) == value


def slow_common(one, two):
    rows = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i, left in enumerate(one):
        for j, right in enumerate(two):
            rows[i + 1][j + 1] = rows[i][j] + 1 if left == right else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


@settings(deadline=None)
@given(one=st.text("ab中 ", min_size=1), two=st.text("ab中 ", min_size=1))
def test_the_bit_parallel_length_is_that_of_the_table(one, two):
    left, right = tokenise(one), tokenise(two)
    if left and right:
        assert rouge_l(one, two) == pytest.approx(2 * slow_common(left, right) / (len(left) + len(right)))
    assert rouge_l(one, two) == rouge_l(two, one)
    assert rouge_l(one, one) == 1.0


def test_long_texts_are_compared_within_a_second():
    text = "这是一个很长的回答" * 500
    started = time.monotonic()
    rouge_l(text, text[::-1])
    assert time.monotonic() - started < 5
