"""The verdict of an export: what changed, whether it is worse, and whether that is within the gate."""

from __future__ import annotations

import pytest

from orchestrator.errors import RecipeError
from orchestrator.evaluation.eval_rows import ChatRow, ChatScore, Document, Group, Message, Pair
from orchestrator.evaluation.eval_sets import ChatEval, PairEval, RankingEval
from orchestrator.evaluation.metrics import judge_export

QUERIES, DOCUMENTS = 12, 5
RANKING = RankingEval(
    tuple(
        Group(f"q{q}", f"query {q}", tuple(Document(f"d{d}", f"text {d}", float(d == q % 3)) for d in range(DOCUMENTS)))
        for q in range(QUERIES)
    )
)
GOOD = {f"q{q}": {f"d{d}": (5.0 if d == q % 3 else 0.1 * d) for d in range(DOCUMENTS)} for q in range(QUERIES)}
GATE = {"ndcg@10": ">= source - 0.005"}


def change(scores, by):
    return {qid: {docid: by(score) for docid, score in row.items()} for qid, row in scores.items()}


def test_a_faithful_export_has_no_difference_and_passes():
    found = judge_export(RANKING, GOOD, change(GOOD, lambda score: score + 1e-6), ["ndcg@10"], GATE)
    assert found["verdict"] == "no measurable difference"
    assert found["gate"]["passed"] is True
    assert found["changes"]["largest"] == pytest.approx(1e-6, rel=1e-3)
    assert found["changes"]["reordered"] == 0
    assert found["changes"]["discordant"] == 0
    assert found["means"]["source"] == found["means"]["export"]


def test_an_export_that_turns_the_order_round_is_worse_and_misses_the_gate():
    found = judge_export(RANKING, GOOD, change(GOOD, lambda score: -score), ["ndcg@10"], GATE)
    assert found["verdict"] == "worse"
    assert found["gate"]["passed"] is False
    assert found["changes"]["discordant"] == 1.0
    assert found["changes"]["reordered"] == found["changes"]["rankings"] == QUERIES
    assert found["comparisons"][0]["high"] < 0


def test_a_sound_scale_is_no_change_of_order():
    found = judge_export(RANKING, GOOD, change(GOOD, lambda score: 3 * score), ["ndcg@10"], GATE)
    assert (found["changes"]["reordered"], found["gate"]["passed"]) == (0, True)
    assert found["changes"]["largest"] == pytest.approx(10.0)


def test_what_ties_on_one_side_has_no_order_to_turn():
    found = judge_export(RANKING, GOOD, change(GOOD, lambda _: 1.0), ["ndcg@10"], {})
    assert found["changes"]["discordant"] == 0


def test_one_turned_pair_is_counted_as_one():
    turned = {**GOOD, "q0": {**GOOD["q0"], "d3": 0.45}}
    changes = judge_export(RANKING, GOOD, turned, ["ndcg@10"], {})["changes"]
    assert changes["reordered"] == 1
    assert changes["discordant"] == pytest.approx(1 / (QUERIES * 10))


def test_pairs_are_one_ranking():
    pairs = PairEval(tuple(Pair(f"p{n}", "a", "b", n / 10) for n in range(10)))
    source = {f"p{n}": n / 10 for n in range(10)}
    found = judge_export(pairs, source, {key: -score for key, score in source.items()}, ["spearman"], {})
    assert found["verdict"] == "worse"
    assert (found["changes"]["rankings"], found["changes"]["discordant"]) == (1, 1.0)


def test_chats_count_answers_and_the_loss_a_token():
    rows = ChatEval(tuple(ChatRow(f"r{n}", (Message("user", "hello"),), "an answer") for n in range(8)))
    source = {f"r{n}": ChatScore(4.0, 2, "an answer") for n in range(8)}
    export = {f"r{n}": ChatScore(5.0, 2, "an answer" if n else "another") for n in range(8)}
    found = judge_export(rows, source, export, ["loss"], {"loss": "<= source + 0.1"})
    assert found["gate"]["passed"] is False
    assert found["changes"] == {"largest": 0.5, "mean": 0.5, "answers": 8, "other_answers": 1}


@pytest.mark.parametrize("rule", ["> baseline", ">= sauce - 0.1"])
def test_an_export_has_no_baseline_but_its_source(rule):
    with pytest.raises(RecipeError, match="not a gate") as raised:
        judge_export(RANKING, GOOD, GOOD, ["ndcg@10"], {"ndcg@10": rule})
    assert ">= source - 0.02" in (raised.value.problems[0].hint or "")


def test_a_metric_that_does_not_fit_is_refused():
    with pytest.raises(RecipeError):
        judge_export(RANKING, GOOD, GOOD, ["ndcg@10"], {"spearman": "> source"})
