from __future__ import annotations

import io
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.digests import DigestMap, digest
from orchestrator.data.earlier_rows import KnownLabels, Merger
from orchestrator.data.reasons import Fault
from orchestrator.data.rows.records import LabelledGroup


def row(query, *documents, line=1, scores=None, source="a.jsonl"):
    texts, labels = zip(*documents, strict=True)
    return LabelledGroup(query, texts, labels, scores, source, line)


few_keys = st.integers(0, 9).map(lambda number: bytes([number % 2]) * 8 + bytes([number, *b"1234567"]))


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16) | few_keys, st.integers(0, 2**64 - 1)), max_size=60))
def test_a_digest_map_keeps_the_first_number_of_each_key(entries):
    found, expected = DigestMap(), {}
    for key, number in entries:
        assert found.get(key) == expected.get(key)
        assert found.put(key, number) == expected.setdefault(key, number)
    assert len(found) == len(expected)


def test_keys_that_share_half_of_their_bytes_are_two():
    found = DigestMap()
    assert [
        found.put(key, number) for number, key in enumerate([b"a" * 16, b"a" * 8 + b"b" * 8, b"b" * 8 + b"a" * 8])
    ] == [0, 1, 2]


def test_a_digest_map_grows():
    found = DigestMap()
    keys = [digest([str(number)]) for number in range(5000)]
    for number, key in enumerate(keys):
        found.put(key, number)
    assert [found.get(key) for key in keys] == list(range(5000))
    assert len(found) == 5000


def test_rows_of_one_query_become_one_group_however_far_apart_they_stand():
    merger = Merger(io.BytesIO())
    merger.add("x/a.jsonl", row("Where?", ("a", 1.0), line=4))
    merger.add("x/a.jsonl", row("who", ("b", 1.0), line=5))
    merger.add("x/b.jsonl", row("where? ", ("c", 0.0), ("d\u2028é", 0.1), line=1, source="b.jsonl"))
    assert list(merger.groups()) == [
        ("x/a.jsonl", row("Where?", ("a", 1.0), ("c", 0.0), ("d\u2028é", 0.1), line=4), 2),
        ("x/a.jsonl", row("who", ("b", 1.0), line=5), 1),
    ]


def test_merged_scores_come_back_as_they_were():
    merger = Merger(io.BytesIO())
    merger.add("a", row("q", ("a", 1.0), scores=(0.1 + 0.2,)))
    merger.add("a", row("q", ("b", 0.0), scores=(-1e-300,)))
    [(_, group, rows)] = merger.groups()
    assert (group.scores, rows) == ((0.1 + 0.2, -1e-300), 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=30))
def test_merging_loses_no_document_and_keeps_the_order(rows):
    merger = Merger(io.BytesIO())
    expected: dict[str, list[str]] = {}
    for number, (query, _) in enumerate(rows):
        merger.add("a", row(query, (f"d{number}", 0.0), line=number + 1))
        expected.setdefault(query, []).append(f"d{number}")
    found = {group.query: list(group.documents) for _, group, _ in merger.groups()}
    assert found == expected
    assert list(found) == list(expected)
    assert sum(count for _, _, count in merger.groups()) == len(rows)


def test_memory_does_not_grow_with_the_texts(tmp_path):
    with (tmp_path / "spool").open("w+b") as spool:
        tracemalloc.start()
        merger = Merger(spool)
        for number in range(500):
            merger.add("a", row(f"q{number % 100}", (f"{number} " + "long " * 2000, 0.0)))
        assert sum(len(group.documents) for _, group, _ in merger.groups()) == 500
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert spool.closed
    assert peak < 1_000_000  # of 5 million bytes of texts


def test_a_document_whose_label_an_earlier_row_contradicts_is_a_fault():
    known = KnownLabels()
    known.take(row("q", ("a", 1.0), ("b", 0.0)))
    found = known.take(row("Q", ("c", 0.0), ("b ", 1.0)))
    assert isinstance(found, Fault)
    assert found.code == "conflicting-labels"
    assert 'the document "b " has the label 1 here, and 0 in an earlier row of this query' in found.message
    assert known.take(row("q", ("c", 1.0))) == row("q", ("c", 1.0))  # the bad row has left nothing behind


def test_of_a_later_row_only_what_is_new_is_taken():
    known = KnownLabels()
    first = row("q", ("a", 1.0), ("b", 0.0))
    assert known.take(first) is first
    assert known.take(row("q", ("b", 0.0), ("c", 0.5), scores=(1.0, 2.0))) == row("q", ("c", 0.5), scores=(2.0,))
    assert known.take(row("q", ("a ", 1.0))) is None


def test_one_document_may_have_two_labels_for_two_queries():
    known = KnownLabels()
    known.take(row("q", ("a", 1.0)))
    assert known.take(row("r", ("a", 0.0))) == row("r", ("a", 0.0))
