from __future__ import annotations

import json

import ir_measures
import numpy as np
import pytest

from orchestrator.errors import RunFolderError
from orchestrator.evaluation.eval_sets import load_eval

CORPUS = [{"docid": f"d{number}", "text": f"text {number}"} for number in range(6)]
QUERIES = [{"qid": "q1", "query": "one", "relevant": ["d1", "d4"]}, {"qid": "q2", "query": "two", "relevant": ["d0"]}]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def load(tmp_path):
    def load(queries=QUERIES, corpus=CORPUS):
        write(tmp_path / "corpus.jsonl", corpus)
        return load_eval(write(tmp_path / "eval.jsonl", queries))

    return load


def test_the_pool_is_what_was_judged_and_what_any_system_retrieved(load):
    first, second = load().pool({"a": {"q1": {"d5": 0.9}}, "b": {"q1": {"d2": 0.3, "d1": 0.8}}})
    assert [(item.docid, item.label) for item in first.documents] == [("d1", 1), ("d2", 0), ("d4", 1), ("d5", 0)]
    assert [(item.docid, item.text) for item in second.documents] == [("d0", "text 0")]


def test_a_document_that_was_not_retrieved_counts_as_not_found(load):
    measured = load().measure({"a": {"q1": {"d1": 0.9, "d2": 0.8}}}, ["recall@10", "map", "mrr@10"], seed=42)["a"]
    assert (measured.columns["recall@10"], measured.columns["map"]) == ((0.5, 0.0), (0.5, 0.0))
    assert measured.facts["missing_queries"] == ["q2"]


def test_what_another_system_retrieved_changes_nothing(load):
    scores = {"q1": {"d1": 0.9, "d2": 0.8}, "q2": {"d3": 0.5, "d0": 0.4}}
    metrics = ["ndcg@10", "mrr@10", "recall@10", "map", "precision@5"]
    alone = load().measure({"a": scores}, metrics, seed=42)["a"]
    beside = load().measure({"a": scores, "b": {"q1": {"d5": 1.0, "d3": 0.1}}}, metrics, seed=42)["a"]
    assert alone == beside


def test_the_values_are_those_of_ir_measures(load):
    draw = np.random.default_rng(0)
    corpus = [{"docid": f"d{number}", "text": "t"} for number in range(50)]
    queries = [{"qid": f"q{n}", "query": "?", "relevant": [f"d{d}" for d in draw.choice(50, 3)]} for n in range(8)]
    run = {
        query["qid"]: {f"d{d}": float(draw.normal()) for d in draw.choice(50, 20, replace=False)} for query in queries
    }
    names = {"ndcg@10": "nDCG@10", "mrr@10": "RR@10", "recall@10": "R@10", "map": "AP"}
    measured = load(queries, corpus).measure({"a": run}, list(names), seed=42)["a"]
    qrels = {query["qid"]: dict.fromkeys(query["relevant"], 1) for query in queries}
    measures = {name: ir_measures.parse_measure(theirs) for name, theirs in names.items()}
    reference = ir_measures.calc_aggregate(list(measures.values()), qrels, run)
    assert measured.means == pytest.approx({name: reference[measure] for name, measure in measures.items()})


def test_the_corpus_is_counted_and_not_the_pool(load):
    assert load().describe() == {"queries": 2, "documents": 6, "relevant": 3, "queries_without_relevant": 0}


@pytest.mark.parametrize(
    ("queries", "corpus", "message"),
    [
        ([*QUERIES, QUERIES[0]], CORPUS, "the qid q1 comes twice"),
        (QUERIES, [*CORPUS, CORPUS[0]], "the docid d0 comes twice"),
        (QUERIES, CORPUS[:3], "the relevant document d4 of q1 is not in the corpus"),
        ([{"qid": "q1", "relevant": []}], CORPUS, "not a query"),
        (QUERIES, [{"docid": "d1"}], "not a document"),
    ],
)
def test_an_evaluation_set_that_does_not_hold_together_is_refused(load, queries, corpus, message):
    with pytest.raises(RunFolderError, match=message):
        load(queries, corpus)


def test_a_missing_corpus_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="is missing"):
        load_eval(write(tmp_path / "eval.jsonl", QUERIES))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"qid": "q9", "docid": "d1", "score": 1}, "does not hold"),
        ({"qid": "q1", "docid": "d9", "score": 1}, "does not hold"),
        ({"qid": "q1", "docid": "d1"}, "not a score"),
    ],
)
def test_scores_that_belong_to_other_data_are_refused(load, tmp_path, row, message):
    with pytest.raises(RunFolderError, match=message):
        load().load_scores(write(tmp_path / "scores.jsonl", [row]))
