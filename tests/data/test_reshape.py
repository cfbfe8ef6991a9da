from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.convert import Conversion, convert_files
from orchestrator.data.digests import document_key
from orchestrator.data.reshape import LossError, Reshaping, build_rows, merge_judgements, pack, read_judgements, unpack
from orchestrator.data.rows.texts import BadRowError

POINT = {"query": "q", "content": "a", "label": 1}
HITS = {"query": "q", "hits": [{"content": "a", "label": 1}, {"content": "b", "label": 0}]}
RANKING = {"query": "q", "pos": ["a"], "neg": ["b"]}


def reshape(*rows, **rules):
    """Return the rows that rows of one query become."""
    reshaping = Reshaping(**rules)
    parts = [unpack(pack(read_judgements(row, reshaping, (0, line)))) for line, row in enumerate(rows, 1)]
    return build_rows(merge_judgements(parts)[0], reshaping)


def refused(*rows, line=1, code="would-be-lost", **rules):
    """Return sentence and hint of the finding that must be there, at this line."""
    with pytest.raises(LossError) as error:
        reshape(*rows, **rules)
    assert error.value.place == (0, line)
    assert error.value.fault.code == code
    return f"{error.value.fault.message} → {error.value.fault.hint}"


def bad(row, code, **rules):
    with pytest.raises(BadRowError) as error:
        read_judgements(row, Reshaping(**{"to": "hits"} | rules), (0, 1))
    assert error.value.fault.code == code
    return f"{error.value.fault.message} → {error.value.fault.hint}"


# From any form to any other


@pytest.mark.parametrize("row", [HITS, RANKING])
def test_judgements_of_a_query_become_pointwise_rows(row):
    assert reshape(row, to="pointwise") == [POINT, {"query": "q", "content": "b", "label": 0}]


@pytest.mark.parametrize("rows", [(RANKING,), (HITS,), (POINT, {"query": "q", "content": "b", "label": 0})])
def test_judgements_of_a_query_become_one_row_of_hits_or_one_ranking_row(rows):
    assert reshape(*rows, to="hits") == [HITS]
    assert reshape(*rows, to="ranking") == [RANKING]


def test_teacher_scores_go_with_their_documents():
    ranking = RANKING | {"pos_scores": [0.9], "neg_scores": [-2]}
    hits = {
        "query": "q",
        "hits": [{"content": "a", "label": 1, "score": 0.9}, {"content": "b", "label": 0, "score": -2}],
    }
    assert reshape(ranking, to="hits") == [hits]
    assert reshape(hits, to="ranking") == [ranking]
    assert reshape(ranking, to="pointwise")[1] == {"query": "q", "content": "b", "label": 0, "score": -2}


def test_labels_that_are_kept_stay_as_they_were_written():
    assert json.dumps(reshape(POINT | {"label": 1.0}, POINT | {"content": "b", "label": 3}, to="hits")[0]["hits"]) == (
        '[{"content": "a", "label": 1.0}, {"content": "b", "label": 3}]'
    )


def test_null_in_a_known_key_is_an_absent_key():
    row = POINT | {"score": None, "prompt": None, "pos": None, "lang": None}
    assert reshape(row, to="pointwise") == [POINT | {"lang": None}]


def test_a_list_that_is_empty_makes_no_second_form_of_a_row():
    assert reshape(POINT | {"pos": [], "hits": []}, to="pointwise") == [POINT]


# Labels that are grades


GRADED = {"query": "q", "hits": [{"content": name, "label": label} for name, label in (("a", 2), ("b", 1), ("c", 0))]}


def test_grades_become_a_ranking_only_where_it_is_said_what_counts():
    assert "--relevant-from L" in refused(GRADED, to="ranking")
    assert reshape(GRADED, to="ranking", relevant_from=1) == [{"query": "q", "pos": ["a", "b"], "neg": ["c"]}]
    assert reshape(GRADED, to="ranking", relevant_from=1.5) == [{"query": "q", "pos": ["a"], "neg": ["b", "c"]}]


@pytest.mark.parametrize("label", [0.5, -1, 1.0001])
def test_any_label_but_0_and_1_is_a_grade(label):
    assert f"the label {label:g} is a grade" in refused(
        POINT, POINT | {"content": "b", "label": label}, line=2, to="ranking"
    )


def test_grades_can_be_kept_as_scores():
    assert reshape(GRADED, to="ranking", relevant_from=2, labels_as_scores=True) == [
        {"query": "q", "pos": ["a"], "neg": ["b", "c"], "pos_scores": [2], "neg_scores": [1, 0]}
    ]


def test_labels_do_not_take_the_place_of_scores():
    row = RANKING | {"pos_scores": [0.9], "neg_scores": [0.1]}
    assert "--drop-scores" in refused(row, to="ranking", labels_as_scores=True)
    assert reshape(row, to="ranking", labels_as_scores=True, drop_scores=True) == [
        RANKING | {"pos_scores": [1], "neg_scores": [0]}
    ]


def test_labels_are_scaled_and_what_is_relevant_is_said_on_the_scale_of_the_file():
    labels = [hit["label"] for hit in reshape(GRADED, to="hits", min_label=0, max_label=2)[0]["hits"]]
    assert json.dumps(labels) == "[1, 0.5, 0]"
    row = reshape(GRADED, to="ranking", max_label=2, relevant_from=1, labels_as_scores=True)[0]
    assert (row["pos"], row["pos_scores"]) == (["a", "b"], [1, 0.5])


def test_labels_that_are_0_and_1_once_they_are_scaled_need_no_more():
    row = {"query": "q", "hits": [{"content": "a", "label": 5}, {"content": "b", "label": 1}]}
    assert reshape(row, to="ranking", min_label=1, max_label=5) == [RANKING]


def test_the_labels_of_a_ranking_row_are_1_and_0_whatever_the_scale():
    assert reshape(RANKING, to="hits", max_label=4) == [HITS]
    assert reshape(RANKING, to="ranking", relevant_from=3) == [RANKING]


def test_a_label_outside_the_scale_is_bad():
    sentence = bad(GRADED, "label-out-of-range", min_label=1, max_label=2)
    assert sentence.startswith('"hits"[2] "label" is 0, and labels are between 1 and 2 → ')
    assert "--max-label" in sentence


# Queries that a ranking row cannot hold


@pytest.mark.parametrize(("label", "missing"), [(1, "negative"), (0, "positive")])
def test_a_query_without_both_is_refused_or_dropped_as_asked(label, missing):
    row = POINT | {"label": label}
    assert f"has no {missing}" in refused(row, to="ranking")
    assert "--drop-queries-without-both" in refused(row, to="ranking")
    assert reshape(row, to="ranking", drop_queries_without_both=True) == []


def test_scores_of_some_documents_only_have_no_place_in_a_ranking_row():
    rows = POINT | {"score": 0.3}, {"query": "q", "content": "b", "label": 0}
    assert "--drop-scores" in refused(*rows, line=2, to="ranking")
    assert reshape(*rows, to="ranking", drop_scores=True) == [RANKING]
    assert reshape(*rows, to="hits")[0]["hits"] == [
        {"content": "a", "label": 1, "score": 0.3}, {"content": "b", "label": 0},
    ]  # fmt: skip


# Keys that no form knows


def test_hits_keep_the_further_keys_of_a_pointwise_row():
    row = POINT | {"id": 7, "prompt": "Judge.", "sample": True}
    assert reshape(row, to="hits") == [
        {"query": "q", "hits": [{"content": "a", "label": 1, "id": 7}], "prompt": "Judge.", "sample": True}
    ]


def test_keys_of_a_query_are_repeated_on_its_pointwise_rows_and_come_together_again():
    ranking = RANKING | {"prompt": "Judge.", "topic": [1, {"a": None}]}
    points = reshape(ranking, to="pointwise")
    assert [row["topic"] for row in points] == [[1, {"a": None}]] * 2
    assert reshape(*points, to="ranking") == [ranking]


def test_a_further_key_that_differs_between_documents_has_no_place_in_a_ranking_row():
    rows = POINT | {"id": 1}, {"query": "q", "content": "b", "label": 0, "id": 2}
    assert "--drop-keys" in refused(*rows, line=2, to="ranking")
    assert "--drop-keys" in refused(rows[0], {"query": "q", "content": "b", "label": 0}, line=2, to="ranking")
    assert reshape(*rows, to="ranking", drop_keys=True) == [RANKING]


def test_dropped_keys_are_those_that_no_form_knows():
    hits = [hit | {"rank": 3} for hit in HITS["hits"]]
    row = HITS | {"hits": hits, "id": 1, "prompt": "p", "sample": True}
    assert reshape(row, to="hits", drop_keys=True) == [HITS | {"prompt": "p", "sample": True}]


def test_a_prompt_that_only_some_rows_of_a_query_have_cannot_become_that_of_all():
    rows = POINT | {"prompt": "p"}, {"query": "q", "content": "b", "label": 0}
    for to in ("hits", "ranking"):
        sentence = refused(*rows, line=2, to=to)
        assert sentence.startswith('"prompt" is not the same on all rows')
        assert "--drop-keys" not in sentence
    assert reshape(*rows, to="pointwise") == list(rows)


def test_true_and_1_are_different_keys_of_a_query():
    assert "--drop-keys" in refused(HITS | {"x": 1}, HITS | {"x": True}, line=2, to="hits")


@pytest.mark.parametrize(
    ("row", "to", "key"),
    [
        (RANKING | {"label": 3}, "pointwise", "label"),
        ({"query": "q", "hits": [{"content": "a", "label": 1, "query": "x"}]}, "pointwise", "query"),
        ({"query": "q", "hits": [{"content": "a", "label": 1, "pos": "x"}]}, "ranking", "pos"),
    ],
)
def test_a_further_key_never_overwrites_one_of_the_form(row, to, key):
    sentence = bad(row, "would-be-lost", to=to)
    assert sentence.startswith(f'"{key}" is a key of {to} rows')
    assert read_judgements(row, Reshaping(to, drop_keys=True), (0, 1)).query == "q"


def test_a_key_that_row_and_hit_have_with_different_values_cannot_be_told_apart():
    row = {"query": "q", "id": 1, "hits": [{"content": "a", "label": 1, "id": 2}]}
    assert bad(row, "would-be-lost", to="pointwise").startswith('"id" stands in the row')
    assert reshape(row, to="hits") == [{"query": "q", "hits": row["hits"], "id": 1}]


# What is said twice


def test_a_document_that_is_said_twice_is_there_once():
    assert reshape(POINT, POINT, to="pointwise") == [POINT]
    assert reshape(RANKING, {"query": "q", "pos": ["a"], "neg": ["c"]}, to="ranking") == [
        {"query": "q", "pos": ["a"], "neg": ["b", "c"]}
    ]


def test_a_score_that_only_one_of_two_mentions_has_is_kept():
    for rows in ((POINT, POINT | {"score": 2}), (POINT | {"score": 2}, POINT)):
        assert reshape(*rows, to="pointwise") == [POINT | {"score": 2}]


def test_documents_that_differ_in_white_space_or_further_keys_both_stay():
    rows = POINT, POINT | {"content": "a "}, POINT | {"id": 1}
    assert reshape(*rows, to="pointwise") == list(rows)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (POINT | {"label": 0}, "two labels for its query: 1 and 0 (the first in line 1)"),
        (POINT | {"content": " a", "label": 0.5}, "two labels for its query: 1 and 0.5"),
        (POINT | {"score": 3}, "two scores for its query: 2 and 3"),
        ({"query": "q", "pos": ["x"], "neg": ["a"]}, "two labels for its query: 1 and 0"),
    ],
)
@pytest.mark.parametrize("to", ["pointwise", "hits"])
def test_two_judgements_of_one_document_are_refused(other, sentence, to):
    assert sentence in refused(POINT | {"score": 2}, other, line=2, code="conflicting-judgements", to=to)


def test_a_score_is_held_against_the_first_that_is_given():
    rows = POINT, POINT | {"score": 2}, POINT | {"score": 3}
    assert "2 and 3 (the first in line 2)" in refused(*rows, line=3, code="conflicting-judgements", to="hits")


def test_a_grade_that_is_both_a_stated_positive_and_below_the_line_is_a_conflict():
    rows = RANKING, POINT
    assert "once relevant and once not" in refused(
        *rows, line=2, code="conflicting-judgements", to="ranking", relevant_from=2
    )


def test_a_document_on_both_sides_of_a_ranking_row_is_a_conflict():
    row = {"query": "q", "pos": ["a"], "neg": ["b", "a"]}
    assert "1 and 0" in refused(row, code="conflicting-judgements", to="ranking")


# Rows that are none


@pytest.mark.parametrize(
    ("row", "code", "sentence"),
    [
        ({"query": "q", "document": "a", "label": 1}, "not-convertible", "no form of ranking data; it has"),
        ({"query": "q", "document": "a", "label": 1}, "not-convertible", "--map"),
        ({"text": "a", "label": "b"}, "not-convertible", "a text with a class, which no query asks for"),
        ({"question": "q", "text": "a", "label": 1}, "not-convertible", "--map"),
        (HITS | RANKING, "not-convertible", "more than one form"),
        ({}, "not-convertible", "it has no keys"),
        ({"hits": []}, "missing-key", '"query" is missing'),
        ({"query": "q", "neg": ["a"]}, "missing-key", '"pos" is missing'),
        ({"query": "q", "content": "a"}, "missing-key", '"label" is missing'),
        ({"query": "q", "hits": [{"content": "a"}]}, "missing-key", '"hits"[0] "label" is missing'),
        ({"query": "q", "hits": [{"label": 1}]}, "missing-key", '"hits"[0] has no "content"'),
        ({"query": 3, "content": "a", "label": 1}, "wrong-type", '"query" is a number'),
        (POINT | {"content": ["a"]}, "wrong-type", '"content" is a list'),
        (POINT | {"label": "high"}, "label-not-a-number", '"label" is a string'),
        (POINT | {"label": True}, "label-not-a-number", '"label" is true or false'),
        (POINT | {"label": 10**400}, "label-not-a-number", '"label" is a number, not a finite'),
        (POINT | {"score": "x"}, "scores-not-numbers", '"score" is a string'),
        ({"query": "q", "hits": "a"}, "wrong-type", '"hits" is a string'),
        ({"query": "q", "hits": ["a"]}, "wrong-type", '"hits"[0] is a string'),
        ({"query": "q", "pos": "a"}, "wrong-type", '"pos" is a string, not a list of strings'),
        ({"query": "q", "pos": ["a"], "neg": [1]}, "wrong-type", '"neg"[0] is a number, not a string'),
        (RANKING | {"pos_scores": ["x"], "neg_scores": [1]}, "scores-not-numbers", '"pos_scores" is not'),
        (RANKING | {"pos_scores": [1]}, "scores-length", '"neg_scores" holds 0 and "neg" 1'),
        ({"query": "q", "hits": []}, "no-documents", "no documents"),
        ({"query": "q", "pos": [], "neg": []}, "no-documents", "no documents"),
    ],
)
def test_a_row_that_cannot_be_read_is_bad_with_its_reason_and_a_remedy(row, code, sentence):
    found = bad(row, code)
    assert sentence in found
    assert not found.endswith("→ ")


def test_scores_of_the_positives_are_enough_where_there_are_no_negatives():
    row = {"query": "q", "pos": ["a"], "pos_scores": [0.5]}
    assert reshape(row, to="hits") == [{"query": "q", "hits": [{"content": "a", "label": 1, "score": 0.5}]}]


# Round trips


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
NUMBER = st.one_of(st.integers(-3, 3), st.floats(-1, 1, allow_nan=False))
FURTHER = st.dictionaries(
    st.sampled_from(("id", "x y", "prompt")), st.one_of(st.none(), TEXT, st.booleans()), max_size=2
)


@st.composite
def rankings(draw):
    rows = []
    for query in draw(st.lists(TEXT, unique=True, min_size=1, max_size=4)):
        texts = draw(st.lists(st.integers(0, 99).map(lambda n: f"d{n}"), unique=True, min_size=2, max_size=6))
        cut = draw(st.integers(1, len(texts) - 1))
        row = {"query": query, "pos": texts[:cut], "neg": texts[cut:]}
        if draw(st.booleans()):
            scores = draw(st.lists(NUMBER, min_size=len(texts), max_size=len(texts)))
            row |= {"pos_scores": scores[:cut], "neg_scores": scores[cut:]}
        rows.append(row | {key: value for key, value in draw(FURTHER).items() if (key, value) != ("prompt", None)})
    return rows


@st.composite
def points(draw):
    rows = []
    for query, text in draw(
        st.lists(st.tuples(TEXT, TEXT), unique_by=lambda p: (p[0], document_key(p[1])), min_size=1, max_size=8)
    ):
        row = {"query": query, "content": text, "label": draw(NUMBER)}
        if draw(st.booleans()):
            row["score"] = draw(NUMBER)
        rows.append(row | {key: value for key, value in draw(FURTHER).items() if key != "prompt"})
    return draw(st.permutations(rows))


def travel(rows, *stations):
    """Return the rows as a set of JSON texts after these conversions, through real files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "start.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for number, to in enumerate(stations):
            out = Path(folder, f"{number}.jsonl")
            convert_files([path], out, Conversion(reshaping=Reshaping(to)))
            path = out
        return sorted_texts([json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]])


def sorted_texts(rows):
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


@settings(max_examples=40, deadline=None)
@given(points())
def test_pointwise_rows_come_back_from_hits(rows):
    assert travel(rows, "hits", "pointwise") == sorted_texts(rows)


@settings(max_examples=40, deadline=None)
@given(rankings(), st.sampled_from(["hits", "pointwise"]))
def test_ranking_rows_come_back_from_the_other_forms(rows, way):
    assert travel(rows, way, "ranking") == sorted_texts(rows)


def test_packing_keeps_everything():
    found = read_judgements(HITS | {"id": 1}, Reshaping("hits"), (3, 9))
    assert unpack(pack(found)) == found


def test_a_document_on_both_sides_in_another_width_or_case_is_a_conflict():
    row = {"query": "q", "pos": ["A b"], "neg": ["ａ ｂ"]}
    assert "1 and 0 (the first in line 1) (normalised: " in refused(row, code="conflicting-judgements", to="hits")
