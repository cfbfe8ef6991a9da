"""What the prepare stage writes of each older kind, to the byte: trainers, caches and old runs rely on it."""

from __future__ import annotations

import hashlib
import json

import pytest

GROUP = [
    {"query": "q", "pos": ["p"], "neg": ["n"]},
    '{"query": "q", "pos": ["p"], "neg": ["n"]}\n',
    {"query": "e", "pos": ["p1"], "neg": ["n1"]},
    (
        '{"qid": "q000001", "query": "e", "documents": [{"docid": "q000001.0", "text": "p1", "label": 1}, '
        '{"docid": "q000001.1", "text": "n1", "label": 0}], "source": "e.jsonl", "line": 1}\n'
    ),
]
EMBEDDING = [
    {"query": "q", "response": "p"},
    (
        '{"messages": [{"role": "user", "content": "q"}], "positive_messages": [[{"role": "user", "content": "p"}]], '
        '"negative_messages": []}\n'
    ),
    *GROUP[2:],
]
PAIR = [
    {"sentence1": "a", "sentence2": "b", "score": 1},
    (
        '{"messages": [{"role": "user", "content": "a"}], "positive_messages": [[{"role": "user", "content": "b"}]], '
        '"label": 1.0}\n'
    ),
    {"sentence1": "c", "sentence2": "d", "score": 0.5},
    '{"pid": "p000001", "text1": "c", "text2": "d", "score": 0.5, "source": "e.jsonl", "line": 1}\n',
]
CHAT = [
    {"instruction": "i", "output": "o"},
    '{"messages": [{"role": "user", "content": "i"}, {"role": "assistant", "content": "o"}]}\n',
    {"instruction": "j", "output": "o"},
    (
        '{"id": "r000001", "messages": [{"role": "user", "content": "j"}], "reference": "o", "source": "e.jsonl", '
        '"line": 1}\n'
    ),
]
SPREAD = {"min": 1, "p50": 1, "p95": 1, "p99": 1, "max": 1}


@pytest.mark.parametrize(
    ("form", "kind", "rows"),
    [
        ("flagembedding", "group", GROUP),
        ("swift-embedding", "group", EMBEDDING),
        ("swift-embedding", "pair", PAIR),
        ("swift-chat", "chat", CHAT),
    ],
)
def test_the_prepared_files_of_older_kinds_are_what_they_always_were(stage, files, form, kind, rows):
    given, written, given_eval, written_eval = rows
    train, evaluation = files.lines("t.jsonl", given), files.lines("e.jsonl", given_eval)
    assert stage("--train", train, "--eval", evaluation, "--form", form, "--kind", kind) == 0
    assert (stage.out / "train.jsonl").read_text() == written
    assert (stage.out / "eval.jsonl").read_text() == written_eval
    entries = [
        {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rows_in": 1}
        for path in (train, evaluation)
    ]
    sides = {
        name: {"files": [entry], "rows_in": 1, "kept": 1, "moved_to_eval": 0, "dropped": {}}
        for name, entry in zip(("train", "eval"), entries, strict=True)
    }
    ledger = {"version": 1, "sides": sides, "dropped_rows": [], "warnings": []}
    assert (stage.out / "ledger.json").read_text() == json.dumps(ledger, indent=2) + "\n"


def test_the_statistics_of_groups_are_what_they_always_were(stage, files):
    stage("--train", files.lines("t.jsonl", GROUP[0]), "--form", "flagembedding")
    per_row = {"min": 1, "mean": 1.0, "max": 1}
    train = {"rows": 1, "queries": 1, "positives": 1, "negatives": 1}
    train |= {"positives_per_row": per_row, "negatives_per_row": per_row}
    train |= {"query_chars": SPREAD, "document_chars": SPREAD, "scripts": {"latin": 3}}
    stats = {"version": 1, "kind": "group", "train": train}
    assert (stage.out / "stats.json").read_text() == json.dumps(stats, indent=2) + "\n"
