"""Rows with labels: their three shapes, what is wrong with them, and how files of them are told from others."""

from __future__ import annotations

import json

import pytest

from orchestrator.data.check import check_files
from orchestrator.data.reading.readers import sniff_kind
from orchestrator.data.reasons import REASONS, Fault
from orchestrator.data.rows.checks import RowRules, check_row
from orchestrator.data.rows.records import LabelledGroup, draw_documents, merge_groups
from orchestrator.data.rows.shapes import SHAPES, find_shape

LABELLED = RowRules("labelled")
GRADED = RowRules("labelled", min_label=0, max_label=2)
SCORED = RowRules("labelled", needs_scores=True)


def hit(content="d", label=1, **more):
    return {"content": content, "label": label} | more


def hits(*found):
    return {"query": "q", "hits": list(found)}


def check(row, rules=LABELLED, **options):
    return check_row(row, source="a.jsonl", line=3, rules=rules, **options)


def group(documents, labels, scores=None):
    return LabelledGroup("q", documents, labels, scores, "a.jsonl", 3)


@pytest.mark.parametrize(
    ("row", "record"),
    [
        ({"query": "q", "content": "d", "label": 1}, group(("d",), (1.0,))),
        ({"query": "q", "content": "d", "label": 0.25, "score": -3}, group(("d",), (0.25,), (-3.0,))),
        ({"query": "q", "content": "d", "label": 1, "score": None}, group(("d",), (1.0,))),
        (hits(hit("a", 1), hit("b", 0.5)), group(("a", "b"), (1.0, 0.5))),
        (hits(hit("a", 1, score=2), hit("b", 0, score=-1.5)), group(("a", "b"), (1.0, 0.0), (2.0, -1.5))),
        ({"query": "q", "pos": ["a", "b"], "neg": ["c"]}, group(("a", "b", "c"), (1.0, 1.0, 0.0))),
        ({"query": "q", "pos": ["a"]}, group(("a",), (1.0,))),
        (
            {"query": "q", "pos": ["a"], "neg": ["c"], "pos_scores": [4], "neg_scores": [-4]},
            group(("a", "c"), (1.0, 0.0), (4.0, -4.0)),
        ),
    ],
)
def test_the_three_shapes_become_labelled_groups(row, record):
    assert check(row).record == record


@pytest.mark.parametrize(("label", "scaled"), [(0, 0.0), (1, 0.5), (2, 1.0), (0.5, 0.25), (-0.0, 0.0)])
def test_graded_labels_are_scaled_to_0_and_1(label, scaled):
    found = check(hits(hit(label=label)), GRADED).record.labels
    assert repr(found) == repr((scaled,))


def test_the_labels_of_ranking_rows_are_1_and_0_whatever_the_range():
    assert check({"query": "q", "pos": ["a"], "neg": ["b"]}, GRADED).record.labels == (1.0, 0.0)


@pytest.mark.parametrize("rules", [LABELLED, GRADED, RowRules("labelled", min_label=-1, max_label=1)])
def test_both_ends_of_the_range_are_in_it(rules):
    low, high = rules.label_range
    row = hits(hit("a", low), hit("b", high))
    assert check(row, rules).record.labels == (0.0, 1.0)


@pytest.mark.parametrize(
    ("row", "rules", "code", "sentence", "hint"),
    [
        ({"query": 1, "content": "d", "label": 1}, LABELLED, "wrong-type", '"query" is a number, not a string', ""),
        ({"query": "q", "content": ["d"], "label": 1}, LABELLED, "wrong-type", '"content" is a list, not a', ""),
        ({"query": "q", "hits": {}}, LABELLED, "wrong-type", '"hits" is an object, not a list', "write"),
        (hits("d"), LABELLED, "wrong-type", '"hits"[0] is a string, not an object', 'write {"content"'),
        (hits(hit(), hit(None)), LABELLED, "wrong-type", '"hits"[1].content is null', ""),
        (hits(), LABELLED, "no-documents", '"hits" is an empty list', "add documents"),
        ({"query": "q", "hits": None}, LABELLED, "wrong-type", '"hits" is null', ""),
        ({"query": " ", "content": "d", "label": 1}, LABELLED, "empty-query", '"query" is empty', ""),
        (hits(hit(), hit("\u200b")), LABELLED, "empty-text", '"hits"[1].content is empty or white', ""),
        (hits(hit("\ud800")), LABELLED, "lone-surrogate", '"hits"[0].content holds \\ud800', ""),
        ({"query": "\ud800", "content": "d", "label": 1}, LABELLED, "lone-surrogate", '"query" holds', ""),
        (hits(hit(label="1")), LABELLED, "label-not-a-number", '"hits"[0].label is "1", not', "writes it as a number"),
        (hits(hit(label=True)), LABELLED, "label-not-a-number", "is true or false", "writes it as a number"),
        (hits(hit(label=None)), LABELLED, "label-not-a-number", "is null", "write finite numbers"),
        (hits(hit(label=float("nan"))), LABELLED, "label-not-a-number", "is NaN or infinite", "write finite"),
        (hits(hit(label=10**400)), LABELLED, "label-not-a-number", "is NaN or infinite", "write finite"),
        (hits(hit(label=2)), LABELLED, "label-out-of-range", '"hits"[0].label is 2, outside 0 to 1', "data.max_label"),
        (hits(hit(label=-1)), GRADED, "label-out-of-range", "is -1, outside 0 to 2", "data.min_label"),
        (hits(hit(label=1.0000001)), LABELLED, "label-out-of-range", "is 1.0000001, outside", ""),
        ({"query": "q", "content": "d"}, LABELLED, "missing-key", 'the key "label" is missing', 'add "label"'),
        (
            {"query": "q", "content": "d", "relevance": 1},
            LABELLED,
            "missing-key",
            '"label" is missing, and the row has "relevance"',
            'rename "relevance" to "label"',
        ),
        (
            {"query": "q", "content": "d", "score": 1},
            LABELLED,
            "missing-key",
            '"label" is missing, and the row has "score"',
            'rename "score" to "label"',
        ),
        (
            {"query": "q", "passage": "d", "label": 1},
            LABELLED,
            "missing-key",
            '"content" is missing, and the row has "passage"',
            'rename "passage" to "content"',
        ),
        (hits({"content": "d"}), LABELLED, "missing-key", '"hits"[0] has no "label"', 'write {"content"'),
        (hits({"text": "d", "label": 1}), LABELLED, "missing-key", 'and it has "text"', 'rename "text" to "content"'),
        (hits({"document": "d", "label": 1}), LABELLED, "missing-key", 'has "document"', "rename"),
        (hits(hit("a", 1), hit("a ", 0)), LABELLED, "conflicting-labels", 'the document "a " has two labels', "keep"),
        ({"query": "q", "pos": ["a"], "neg": ["a"]}, LABELLED, "positive-among-negatives", '"a" is a positive', ""),
        ({"query": "q", "pos": []}, LABELLED, "no-positive", '"pos" is an empty list', ""),
        ({"query": "q", "pos": ["a"], "prompt": "P"}, LABELLED, "prompt-not-used", "prompt", ""),
        (hits(hit("a", score=1), hit("b")), LABELLED, "scores-length", '"hits"[1].score is missing', "one score"),
        (hits(hit("a", score="x")), LABELLED, "scores-not-numbers", '"hits"[0].score is "x"', "write finite numbers"),
        (hits(hit(score=1e39)), LABELLED, "scores-not-numbers", "a teacher score is 1e+39, which is infinite", ""),
        (hits(hit()), SCORED, "scores-missing", "the row has no teacher scores", "name a teacher"),
        ({"query": "q", "pos": ["a"], "neg": ["b"]}, SCORED, "scores-missing", "no teacher scores", ""),
        (
            {"sentence1": "a", "sentence2": "b", "score": 1},
            LABELLED,
            "other-kind",
            "this is a pair row",
            "content=sentence2",
        ),
        ({"query": "q", "response": "d", "label": 1}, LABELLED, "other-kind", "a pair row", "with content=response"),
        ({"query": "q", "content": "d", "label": 1}, RowRules(), "other-kind", "this is a labelled row", ""),
        (["q"], LABELLED, "not-an-object", "the row is a list", "--names NAME1"),
        ({"query": "q", "content": "d", "label": 1, "images": ["x"]}, LABELLED, "not-text", '"images"', ""),
    ],
)
def test_a_row_that_is_wrong_is_told_what_is_wrong_and_what_to_do(row, rules, code, sentence, hint):
    found = check(row, rules)
    assert isinstance(found, Fault)
    assert (found.code, REASONS[code].outcome) == (code, "bad")
    assert sentence in found.message
    assert hint in found.hint


def test_a_ranking_group_without_scores_is_bad_where_they_are_needed():
    rules = RowRules("group", needs_scores=True)
    assert check({"query": "q", "pos": ["a"], "neg": ["b"]}, rules).code == "scores-missing"
    scored = {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [1], "neg_scores": [0]}
    assert check(scored, rules).record.positive_scores == (1.0,)


def test_a_document_that_a_row_repeats_with_the_same_label_is_kept_once():
    found = check(hits(hit("a", 1, score=1), hit("b", 0, score=2), hit(" a", 1, score=3)))
    assert found.record == group(("a", "b"), (1.0, 0.0), (1.0, 2.0))
    assert found.warnings == {"duplicate-document": 1}


def test_keys_of_hits_that_nothing_reads_are_noted():
    assert check(hits(hit(docid="x")) | {"qid": 1}).unknown_keys == ("qid", "hits[].docid")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [("1", (1.0,)), ("0.5", (0.5,)), ("", "is empty"), ("high", 'is "high"'), ("1_0", 'is "1_0"'), ("nan", 'is "nan"')],
)
def test_numbers_of_tables_are_read_from_their_text(text, outcome):
    found = check({"query": "q", "content": "d", "label": text, "score": ""}, numeric_text=True)
    if isinstance(outcome, tuple):
        assert (found.record.labels, found.record.scores) == (outcome, None)
    else:
        assert (found.code, outcome in found.message) == ("label-not-a-number", True)
        assert "quotes" not in found.hint


def test_a_csv_file_of_labelled_rows_is_read(files):
    path = files.raw("a.csv", "query,content,label,score\nq,a,1,2.5\nq,b,0,-1\n")
    stats = check_files([path]).stats
    assert (stats["kind"], stats["train"]["labels"]["mean"], stats["train"]["teacher"]["highest"]) == (
        "labelled",
        0.5,
        2.5,
    )


def test_columns_of_labelled_rows_are_renamed(files):
    path = files.lines("a.jsonl", {"q": "q", "passage": "d", "grade": 2})
    report = check_files([path], columns={"query": "q", "content": "passage", "label": "grade"}, max_label=2)
    assert (report.ok, report.stats["train"]["labels"]["highest"]) == (True, 1.0)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"query": "q", "content": "d", "label": 0}, "labelled"),
        (hits(hit()), "labelled"),
        ({"query": "q", "pos": ["a"], "neg": ["b"]}, "group"),
        ({"query": "q", "response": "", "label": 1, "content": "d"}, "pair"),
        ({"query": "q", "response": "r", "hits": []}, "group"),
        ({"messages": [{"role": "user", "content": "q"}], "query": "q", "hits": [1]}, "chat"),
    ],
)
def test_the_kind_of_a_file_with_labels_is_told_by_its_first_row(files, row, kind):
    assert sniff_kind(files.lines("a.jsonl", row)) == kind


@pytest.mark.parametrize("wanted", ["group", "pair", "chat"])
@pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if shape.kind != "labelled" and shape.read], ids=lambda s: s.name
)
def test_rows_of_other_shapes_are_sniffed_as_before_whatever_labelled_keys_they_have(shape, wanted):
    for value in ("x", ""):  # "" stands for no value
        row = dict.fromkeys(shape.needs, value) | dict.fromkeys(shape.given, "x")
        assert find_shape(row | {"content": "d", "hits": [1]}, wanted) == find_shape(row, wanted)
        assert (found := find_shape(row, wanted)) is None or found.kind != "labelled"


def test_a_label_range_makes_ranking_rows_labelled(files):
    path = files.lines("a.jsonl", {"query": "q", "pos": ["a"], "neg": ["b"]})
    assert check_files([path]).stats["kind"] == "group"
    assert check_files([path], max_label=2).stats["kind"] == "labelled"
    assert check_files([path], kind="labelled").stats["kind"] == "labelled"


def test_relevant_documents_are_those_with_a_label_of_a_half_or_more():
    assert group(("a", "b", "c"), (1.0, 0.5, 0.49)).answers == ("a", "b")


def test_merged_groups_have_all_documents_and_the_first_place():
    later = LabelledGroup("Q ", ("b",), (0.0,), (2.0,), "b.jsonl", 9)
    assert merge_groups([group(("a",), (1.0,), (1.0,)), later]) == group(("a", "b"), (1.0, 0.0), (1.0, 2.0))
    assert merge_groups([group(("a",), (1.0,)), later]).scores is None


MANY = group(tuple(f"d{n}" for n in range(20)), tuple([0.0] * 9 + [1.0] + [0.5] * 10), tuple(map(float, range(20))))


@pytest.mark.parametrize("size", [2, 3, 7, 19])
@pytest.mark.parametrize("seed", range(5))
def test_a_drawn_group_has_one_document_of_the_highest_and_one_of_the_lowest_label(size, seed):
    found = draw_documents(MANY, size, seed)
    assert len(set(found.documents)) == size
    assert (max(found.labels), min(found.labels)) == (1.0, 0.0)
    for text, label, score in zip(found.documents, found.labels, found.scores, strict=True):
        place = MANY.documents.index(text)
        assert (label, score) == (MANY.labels[place], MANY.scores[place])


def test_a_draw_depends_on_the_seed_and_the_query_only():
    assert draw_documents(MANY, 4, 1) == draw_documents(MANY, 4, 1)
    assert len({draw_documents(MANY, 4, seed).documents for seed in range(20)}) > 10


def test_a_group_that_is_not_larger_is_left_as_it_is():
    assert draw_documents(MANY, 20, 1) is MANY


def test_one_label_only_is_drawn_too():
    alike = group(("a", "b", "c"), (1.0, 1.0, 1.0))
    assert len(draw_documents(alike, 2, 1).documents) == 2


def test_labelled_groups_are_the_same_when_query_documents_and_labels_are():
    one, other = group(("a", "b"), (1.0, 0.0)), group(("a", "b"), (1.0, 0.5))
    assert list(one.identity) != list(other.identity)
    assert list(one.identity) == list(group(("a", "b"), (1.0, 0.0), (3.0, 4.0)).identity)
    assert json.dumps(one.texts) == '["q", "a", "b"]'


def test_hits_of_a_parquet_file_are_read(files):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [hits(hit("a", 1.0), hit("b", 0.0)), hits(hit("c", 0.5), hit("d", float("nan")))]
    path = files.folder / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    report = check_files([path], max_dropped=1)
    assert report.stats["kind"] == "labelled"
    assert report.ledger.sides["train"].dropped == {"missing-key": 1}  # NaN stands for an absent value there


def test_a_labelled_row_where_groups_are_wanted_is_told_how_to_become_one():
    fault = check_row({"query": "a", "hits": [{"content": "b", "label": 2}]}, source="x", line=1)
    assert isinstance(fault, Fault)
    assert fault.code == "other-kind"
    assert "orch data convert FILE --to ranking --relevant-from" in fault.hint
