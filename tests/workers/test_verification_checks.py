from __future__ import annotations

import math

import numpy as np

from orchestrator.workers.eval_files import ChatProbe
from orchestrator.workers.kinds.chat import describe_probes, share_vocabulary
from orchestrator.workers.kinds.embedding import check_changed_vectors, check_same_vectors, check_test_prompt
from orchestrator.workers.verification_checks import (
    check_changed_scores,
    check_changed_weights,
    check_finite,
    check_merge_keeps_training,
    check_not_constant,
    check_same,
    check_same_tokens,
    check_sentence_transformers,
    compare,
)


def test_scores_agree_within_a_share_of_their_spread():
    assert compare([1.0, 2.0005], [1.0, 2.0], 1e-3)[0]
    assert not compare([1.0, 2.002], [1.0, 2.0], 1e-3)[0]


def test_nan_never_agrees():
    assert not compare([math.nan, 1.0], [0.0, 1.0], 1e-3)[0]
    assert not check_same("merged", "x", [1.0, math.nan], [1.0, 2.0], 1e-3).passed
    assert not check_finite({"model": [math.nan, 1.0]}).passed


def test_pairs_that_are_cut_are_reported_and_not_judged():
    check = check_sentence_transformers([1.0, 2.0, 3.0], [1.0, 2.0, 3.5], uncut=[0, 1], exact=True)
    assert check.passed
    assert (check.numbers["cut_pairs"], check.numbers["cut_max_difference"]) == (1, 0.5)
    assert not check_sentence_transformers([1.0, 2.0], [1.0, 2.5], uncut=[0, 1], exact=True).passed


def test_an_approximate_template_passes_but_is_not_said_to_agree():
    check = check_sentence_transformers([1.0, 2.0], [1.0, 2.5], uncut=[0, 1], exact=False)
    assert (check.passed, check.numbers["agrees"]) == (True, False)


def test_other_tokens_than_the_trainings_are_a_failure_that_names_a_text_and_the_library_is_named_too():
    assert check_same_tokens([], 3).passed
    check = check_same_tokens(["a text", "another"], 3)
    assert not check.passed
    assert "2 of 3 probes, such as 'a text'" in check.failure
    assert "than in swift" in check_sentence_transformers([1.0], [2.0], [0], exact=True, library="swift").failure


def test_equal_weights_scores_or_a_constant_are_failures():
    assert not check_changed_weights({"a": "1"}, {"a": "1", "head": "2"}).passed
    assert not check_changed_weights({"x": "1"}, {"y": "1"}).passed
    assert check_changed_weights({"a": "1"}, {"a": "2"}).passed
    assert not check_changed_scores([1.0, 2.0], [1.0, 2.0]).passed
    assert not check_not_constant([20.0, 20.0001]).passed
    assert check_not_constant([20.0, 20.1]).passed


def test_a_merge_that_rounds_the_training_away_is_a_failure():
    base, adapter = [0.0, 0.0], [0.1, -0.1]
    assert not check_merge_keeps_training(base, adapter, [0.01, -0.01]).passed
    assert check_merge_keeps_training(base, adapter, [0.09, -0.1]).passed


def test_numbers_of_two_vocabularies_are_a_failure_and_no_crash():
    assert compare([1.0, 2.0, 3.0], [1.0, 2.0], 1e-3)[0] is False
    check = check_same("merged", "the merged model", [1.0, 2.0, 3.0], [1.0, 2.0], 1e-3)
    assert not check.passed
    assert check.to_json()["pairs"] == [3, 2]


def test_models_of_two_vocabularies_are_compared_on_the_tokens_that_both_have():
    base, tuned = np.array([[1.0, 2.0], [5.0, 6.0]]), np.array([[1.5, 2.5, 9.0], [5.5, 6.5, 9.0]])
    assert [one.tolist() for one in share_vocabulary(base, tuned)] == [base.tolist(), [[1.5, 2.5], [5.5, 6.5]]]
    probes = [ChatProbe([{"role": "user", "content": text}], "", "data") for text in ("a", "b")]
    found = describe_probes({"base": base, "packaged": tuned}, probes)
    assert [line["from_base"] for line in found] == [0.5, 0.5]


def test_vectors_of_two_widths_are_a_failure_and_no_crash():
    short, long = np.zeros((2, 3), dtype=np.float32), np.zeros((2, 4), dtype=np.float32)
    assert not check_same_vectors("reloaded", "differs", short, long).passed
    assert check_same_vectors("reloaded", "differs", short, long).to_json()["max_distance"] is None
    assert check_changed_vectors(short, long).passed
    assert check_test_prompt(short[0], long[0]).passed  # a new layer makes other vectors, of another width
