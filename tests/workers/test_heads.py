"""Lexical scores as FlagEmbedding adds them up, without the library."""

from __future__ import annotations

import pytest

from orchestrator.workers.embedding.score import rank_sparse


def test_a_document_s_score_is_the_sum_over_the_tokens_that_both_have():
    queries = [{"5": 0.5, "7": 2.0}, {"9": 1.0}]
    documents = [{"5": 0.4, "8": 3.0}, {"5": 1.0, "7": 0.25}, {}]
    first, second = rank_sparse(queries, documents)
    assert dict(first) == pytest.approx({0: 0.2, 1: 1.0, 2: 0.0})
    assert dict(second) == {0: 0.0, 1: 0.0, 2: 0.0}


def test_only_the_best_documents_are_kept_and_equal_ones_stay_in_their_order():
    documents = [{"5": 1.0}, {}, {"5": 3.0}, {"5": 1.0}, {"5": 1.0}]
    (found,) = rank_sparse([{"5": 2.0}], documents, count=3)
    assert found == [(2, 6.0), (0, 2.0), (3, 2.0)]
    (nothing,) = rank_sparse([{"6": 1.0}], documents, count=2)
    assert nothing == [(0, 0.0), (1, 0.0)]
