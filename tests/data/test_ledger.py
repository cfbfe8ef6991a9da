from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.data.data_pass import run_data_pass
from orchestrator.data.ledger import Findings, SideLedger
from orchestrator.data.request import Request
from orchestrator.data.rows.checks import RowRules
from orchestrator.errors import OrchError

relaxed = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.sampled_from(["a", "b", "A ", "c", "", " ", "\u200b"])
text_lists = st.lists(texts, max_size=3) | texts | st.none()
scores = st.lists(st.sampled_from([1, 0.5, True, "x"]), max_size=3) | st.none()
likely_rows = st.fixed_dictionaries(
    {},
    optional={"query": texts, "pos": text_lists, "neg": text_lists, "pos_scores": scores, "prompt": texts, "id": texts},
)
good_rows = st.fixed_dictionaries(
    {"query": st.sampled_from("abcdefgh"), "pos": st.just(["yes"]), "neg": st.lists(st.sampled_from("xyz"), min_size=1)}
)
hit = st.fixed_dictionaries({"content": texts, "label": st.sampled_from([0, 0.5, 1, 2])})
labelled_rows = st.fixed_dictionaries({"query": st.sampled_from("abcA"), "hits": st.lists(hit, max_size=3)}) | (
    st.builds(lambda query, found: {"query": query} | found, st.sampled_from("abc"), hit)
)
any_json = st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5)
rows = st.lists(good_rows | likely_rows | labelled_rows | any_json, max_size=8)
limits = st.none() | st.integers(1, 3)
options = st.fixed_dictionaries(
    {
        "limit_train": limits,
        "limit_eval": limits,
        "allow_overlap": st.booleans(),
        "merges": st.booleans(),
    }
)


def test_a_side_that_does_not_add_up_is_a_bug():
    with pytest.raises(RuntimeError, match="10 rows in, 9 accounted for"):
        SideLedger("train", rows_in=10, kept=5, moved_to_eval=1, dropped={"duplicate": 2, "not-json": 1}).close()


def test_merged_rows_are_accounted_for():
    merged = SideLedger("train", rows_in=10, kept=4, moved_to_eval=1, dropped={"one-label": 2}, merged=3)
    merged.close()
    assert merged.bad == 0
    with pytest.raises(RuntimeError, match="10 rows in, 9 accounted for"):
        replace(merged, merged=2).close()


def test_only_bad_rows_count_as_bad():
    side = SideLedger("train", rows_in=6, dropped={"duplicate": 2, "not-json": 1, "no-negative": 3})
    assert side.bad == 4


def test_dropped_rows_beyond_a_thousand_are_counted_but_not_listed():
    findings, side = Findings(), SideLedger("train")
    for line in range(1, 1502):
        findings.drop(side, "a.jsonl", line, "duplicate", "")
    assert len(findings.dropped_rows) == 1000
    assert side.dropped == {"duplicate": 1501}


def test_a_reason_that_is_not_in_the_table_cannot_be_counted():
    with pytest.raises(KeyError):
        Findings().drop(SideLedger("train"), "a.jsonl", 1, "because", "")


def test_a_warning_has_its_count_and_its_first_places():
    findings = Findings()
    for line in range(1, 10):
        findings.warn("duplicate-negative", "twice: {n}", count=2, example=f"a.jsonl:{line}")
    [warned] = findings.warnings()
    assert (warned.message, warned.count) == ("twice: 18", 18)
    assert warned.examples == tuple(f"a.jsonl:{line}" for line in range(1, 6))


def test_unknown_keys_are_listed_most_frequent_first():
    findings = Findings()
    findings.warn_unknown_keys(("b",), "a.jsonl:1")
    findings.warn_unknown_keys(("a", "编号", "b\n"), "a.jsonl:2")
    findings.warn_unknown_keys(("a",), "a.jsonl:3")
    [warned] = findings.warnings()
    assert warned.message == 'keys that are not used (in how many rows): "a" (2), "b" (1), "编号" (1), "b\\n" (1)'


@relaxed
@given(rows, rows, st.sampled_from(["files", "ratio", "none"]), st.sampled_from(["group", "labelled"]), options)
def test_the_ledger_adds_up_for_any_rows(files, train, evaluation, mode, kind, options):
    request = Request(
        (files.raw("train.json", json.dumps(train)),),
        (files.raw("eval.json", json.dumps(evaluation)),) if mode == "files" else (),
        eval_ratio=0.5 if mode == "ratio" else None,
        rules=RowRules(kind, needs_negatives=kind == "group"),
        **options,
    )
    handed_on = {"train": 0, "eval": 0}

    def count(side):
        def add(_):
            handed_on[side] += 1

        return add

    try:
        gathered = run_data_pass(request, on_train=count("train"), on_eval=count("eval"))
    except OrchError:
        assert not train or not evaluation
        return
    sides = gathered.ledger.sides
    assert set(sides) == ({"train", "eval"} if mode != "none" else {"train"})
    for name, side in sides.items():
        merged = side.merged or 0
        assert side.rows_in == side.kept + side.moved_to_eval + merged + sum(side.dropped.values())
        assert (side.merged is not None) == (kind == "labelled" and (name == "eval" or request.merges))
        assert side.kept == handed_on[name]
    assert sides["train"].rows_in == len(train)
    if mode != "none":
        assert sides["eval"].rows_in == (len(evaluation) if mode == "files" else sides["train"].moved_to_eval)
    json.dumps(gathered.ledger.to_json(), ensure_ascii=False, allow_nan=False).encode()
