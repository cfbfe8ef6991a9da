"""The prepare stage for labelled rows: its three forms, merged queries, what is left out and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.recipe.losses import find_losses

relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PAIRS = ("--kind", "labelled", "--form", "cross-encoder-pairs")
LISTS = ("--kind", "labelled", "--form", "cross-encoder-lists")
MARGINS = ("--kind", "labelled", "--form", "cross-encoder-margins")
FORMS = {"pairs": PAIRS, "lists": LISTS, "margins": MARGINS}


def point(query, content, label, **more):
    return {"query": query, "content": content, "label": label} | more


def hits(query, *labels, scores=None):
    found = [{"content": f"{query}{place}", "label": label} for place, label in enumerate(labels)]
    for hit, score in zip(found, scores or (), strict=False):
        hit["score"] = score
    return {"query": query, "hits": found}


def ranking(query, positives=1, negatives=2):
    texts = [f"{query}{place}" for place in range(positives + negatives)]
    return {"query": query, "pos": texts[:positives], "neg": texts[positives:]}


def side(stage, name="train"):
    return stage.json("ledger.json")["sides"][name]


MIXED = [hits("a", 1, 0, 0.5), point("b", "x", 1), ranking("c"), point("b", "y", 0)]


def test_pairs_have_a_line_for_each_document(stage, files):
    assert stage("--train", files.lines("t.jsonl", *MIXED), *PAIRS, "--loss", "pointwise_bce") == 0
    assert [tuple(row.values()) for row in stage.lines("train.jsonl")] == [
        *[("a", "a0", 1.0), ("a", "a1", 0.0), ("a", "a2", 0.5), ("b", "x", 1.0)],
        *[("c", "c0", 1.0), ("c", "c1", 0.0), ("c", "c2", 0.0), ("b", "y", 0.0)],
    ]
    assert list(stage.lines("train.jsonl")[0]) == ["query", "document", "label"]
    assert side(stage)["kept"] == 4
    assert "merged" not in side(stage)
    assert stage.json("stats.json")["train"]["lines"] == 8


def test_lists_have_a_line_for_each_query(stage, files):
    assert stage("--train", files.lines("t.jsonl", *MIXED), *LISTS, "--loss", "lambda_loss") == 0
    assert stage.lines("train.jsonl") == [
        {"query": "a", "documents": ["a0", "a1", "a2"], "labels": [1.0, 0.0, 0.5]},
        {"query": "b", "documents": ["x", "y"], "labels": [1.0, 0.0]},
        {"query": "c", "documents": ["c0", "c1", "c2"], "labels": [1.0, 0.0, 0.0]},
    ]
    found = side(stage)
    assert (found["rows_in"], found["kept"], found["merged"]) == (4, 3, 1)
    assert "train: 4 rows in = 3 kept + 1 merged" in stage.stdout


def test_margins_have_a_line_for_each_relevant_document_with_each_other_one(stage, files):
    rows = [hits("a", 1, 0, 0.5, 0.2, scores=[4, 1.5, 2, -1])]
    assert stage("--train", files.lines("t.jsonl", *rows), *MARGINS, "--loss", "margin_mse") == 0
    assert [tuple(row.values()) for row in stage.lines("train.jsonl")] == [
        *[("a", "a0", "a1", 2.5), ("a", "a0", "a3", 5.0), ("a", "a2", "a1", 0.5), ("a", "a2", "a3", 3.0)]
    ]
    assert list(stage.lines("train.jsonl")[0]) == ["query", "positive", "negative", "label"]
    assert stage.json("stats.json")["train"]["lines"] == 4


def test_margins_of_labels_need_no_teacher(stage, files):
    train = files.lines("t.jsonl", hits("a", 1, 0.25))
    assert stage("--train", train, *MARGINS, "--target", "label") == 0
    assert stage.lines("train.jsonl")[0]["label"] == 0.75


def test_margins_need_a_teacher_unless_the_target_is_the_label(stage, files):
    train = files.lines("t.jsonl", hits("a", 1, 0, scores=[1, 0]), hits("b", 1, 0))
    assert stage("--train", train, *MARGINS) == 3
    assert f"{train}:2: scores-missing: the row has no teacher scores — give every row scores" in stage.stderr


@pytest.mark.parametrize("form", ["pairs", "lists"])
def test_the_target_teacher_writes_its_scores_in_place_of_the_labels(stage, files, form):
    train = files.lines("t.jsonl", hits("a", 1, 0, scores=[3, -2]))
    assert stage("--train", train, *FORMS[form], "--target", "teacher") == 0
    rows = stage.lines("train.jsonl")
    assert [label for row in rows for label in row.get("labels", [row.get("label")])] == [3.0, -2.0]


def test_teacher_scores_that_are_not_learnt_are_warned_about(stage, files):
    stage("--train", files.lines("t.jsonl", hits("a", 1, 0, scores=[3, -2])), *LISTS)
    assert "scores-not-used: rows with teacher scores, which a loss of labels does not take: 1" in stage.stderr
    stage("--train", files.lines("t.jsonl", hits("a", 1, 0, scores=[3, -2])), *LISTS, "--target", "teacher")
    assert "scores-not-used" not in stage.stderr


def test_eval_rows_need_no_teacher_scores(stage, files):
    train, evaluation = files.lines("t.jsonl", hits("a", 1, 0, scores=[1, 0])), files.lines("e.jsonl", hits("e", 1, 0))
    assert stage("--train", train, "--eval", evaluation, *LISTS, "--target", "teacher") == 0


def test_numbers_are_written_as_floats_for_the_reader_infers_a_columns_type(stage, files):
    for options in (PAIRS, LISTS, (*MARGINS, "--target", "label")):
        stage("--train", files.lines("t.jsonl", hits("a", 1, 0)), *options)
        assert "1.0" in (stage.out / "train.jsonl").read_text()
        assert ": 1," not in (stage.out / "train.jsonl").read_text()


def test_list_mle_reads_the_highest_label_first_and_equal_ones_in_a_seeded_order(stage, files):
    train = files.lines("t.jsonl", *[hits(query, *[0] * 6, 1, 0.5, *[0] * 6) for query in "abcdefgh"])
    stage("--train", train, *LISTS, "--loss", "list_mle")
    rows = stage.lines("train.jsonl")
    for row in rows:
        assert all(one >= other for one, other in pairwise(row["labels"]))
        assert row["documents"][:2] == [f"{row['query']}6", f"{row['query']}7"]
    assert len({tuple(text[1:] for text in row["documents"]) for row in rows}) > 4
    first = (stage.out / "train.jsonl").read_bytes()
    stage("--train", train, *LISTS, "--loss", "list_mle")
    assert (stage.out / "train.jsonl").read_bytes() == first
    stage("--train", train, *LISTS, "--loss", "list_mle", "--seed", 7)
    assert (stage.out / "train.jsonl").read_bytes() != first


def test_mnrl_reads_a_row_for_each_answer_and_queries_with_no_other_document(stage, files):
    train = files.lines("t.jsonl", hits("a", 0, 1, 0.5, 0.25), hits("b", 1), hits("c", 0, 0.25))
    for loss in ("mnrl", "cached_mnrl"):
        assert stage("--train", train, *LISTS, "--loss", loss) == 0
        assert stage.lines("train.jsonl") == [
            {"query": "a", "documents": ["a1", "a0", "a3"], "labels": [1.0, 0.0, 0.0]},
            {"query": "a", "documents": ["a2", "a0", "a3"], "labels": [1.0, 0.0, 0.0]},
            {"query": "b", "documents": ["b0"], "labels": [1.0]},
        ]
        assert "no document of the query is relevant" in str(stage.json("ledger.json"))


def test_list_mle_with_a_teacher_is_sorted_by_its_scores(stage, files):
    train = files.lines("t.jsonl", hits("a", 1, 0, 0, scores=[-1, 5, 2]))
    stage("--train", train, *LISTS, "--loss", "list_mle", "--target", "teacher")
    assert stage.lines("train.jsonl")[0]["documents"] == ["a1", "a2", "a0"]


@pytest.mark.parametrize(
    ("form", "rows", "code", "sentence"),
    [
        ("lists", hits("a", 1), "one-document", "the query has one document"),
        ("margins", hits("a", 1), "one-document", "the query has one document"),
        ("lists", hits("a", 1, 1, 1), "one-label", "all documents of the query have the label 1"),
        ("margins", hits("a", 0.5, 0.5), "one-label", "all documents of the query have the label 0.5"),
        ("margins", hits("a", 1, 0.6), "one-side", "all lie on one side of 0.5"),
    ],
)
def test_a_group_that_has_nothing_to_compare_is_left_out_without_being_bad(stage, files, form, rows, code, sentence):
    train = files.lines("t.jsonl", hits("z", 1, 0), rows)
    target = ("--target", "label") if form == "margins" else ()
    assert stage("--train", train, *FORMS[form], *target) == 0
    found = side(stage)
    assert (found["rows_in"], found["kept"], found["merged"], found["dropped"]) == (2, 1, 0, {code: 1})
    [dropped] = stage.json("ledger.json")["dropped_rows"]
    assert (dropped["line"], dropped["reason"], sentence in dropped["detail"]) == (2, code, True)
    assert f"warning: {code}: queries left out: 1;" in stage.stderr


def test_groups_left_out_are_in_the_statistics(stage, files):
    rows = [hits("z", 1, 0), hits("a", 1), hits("b", 0), hits("c", 1, 1)]
    stage("--train", files.lines("t.jsonl", *rows), *LISTS)
    assert stage.json("stats.json")["train"]["groups"] == {
        "count": 1,
        "documents": {"lowest": 2, "mean": 2.0, "highest": 2},
        "one_label": 1,
        "too_small": 2,
    }


def test_pointwise_losses_learn_from_every_group(stage, files):
    train = files.lines("t.jsonl", hits("a", 1), hits("b", 0, 0))
    assert stage("--train", train, *PAIRS, "--loss", "pointwise_mse") == 0
    assert len(stage.lines("train.jsonl")) == 3


def test_a_teacher_tells_documents_of_one_label_apart(stage, files):
    train = files.lines("t.jsonl", hits("a", 0, 0, scores=[1, 2]), hits("b", 1, 0, scores=[3, 3]))
    assert stage("--train", train, *LISTS, "--target", "teacher") == 0
    assert [row["query"] for row in stage.lines("train.jsonl")] == ["a"]
    assert stage.json("ledger.json")["dropped_rows"][0]["detail"].endswith("have the teacher score 3")


@pytest.mark.parametrize(("labels", "found"), [((1, 0.5, 0), 2), ((0.4, 0), 0)])
def test_listwise_ce_takes_exactly_one_relevant_document(stage, files, labels, found):
    train = files.lines("t.jsonl", hits("z", 1, 0), hits("a", *labels))
    assert stage("--train", train, *LISTS, "--loss", "listwise_ce") == 3
    assert f"{train}:2: not-one-relevant: the query has {found} relevant documents" in stage.stderr
    assert "graded: true" in stage.stderr
    assert stage("--train", train, *LISTS, "--loss", "listwise_ce", "--graded") == 0


def test_a_merged_group_is_judged_as_a_whole(stage, files):
    rows = [point("a", "x", 1), point("b", "y", 1), point("a", "z", 0), point("b", "w", 0)]
    assert stage("--train", files.lines("t.jsonl", *rows), *LISTS, "--loss", "listwise_ce") == 0
    assert [row["documents"] for row in stage.lines("train.jsonl")] == [["x", "z"], ["y", "w"]]


def test_a_larger_group_is_drawn_from_and_counted(stage, files):
    train = files.lines("t.jsonl", hits("a", 0, 0.1, 0.2, 1, 0.3, 0.4), hits("b", 1, 0))
    argv = ("--train", train, *LISTS, "--train-group-size", 3)
    assert stage(*argv) == 0
    first, second = (row["labels"] for row in stage.lines("train.jsonl"))
    assert (len(first), max(first), min(first), len(second)) == (3, 1.0, 0.0, 2)
    assert "warning: documents-drawn: queries with more than 3 documents: 1;" in stage.stderr
    assert stage.json("stats.json")["train"]["documents"] == 5
    found = stage.lines("train.jsonl")
    stage(*argv)
    assert stage.lines("train.jsonl") == found


def test_eval_groups_keep_all_their_documents(stage, files):
    train, evaluation = files.lines("t.jsonl", hits("a", 1, 0)), files.lines("e.jsonl", hits("e", *[0] * 5, 1))
    stage("--train", train, "--eval", evaluation, *LISTS, "--train-group-size", 2)
    assert len(stage.lines("eval.jsonl")[0]["documents"]) == 6


def test_eval_rows_of_one_query_are_one_group_with_labels_from_0_to_1(stage, files):
    rows = [point("e", "x", 2), point("f", "w", 0), point("E ", "y", 0), hits("e", 1), point("f", "v", 2)]
    argv = ("--train", files.lines("t.jsonl", hits("a", 1, 0)), "--eval", files.lines("e.jsonl", *rows))
    assert stage(*argv, *PAIRS, "--max-label", 2) == 0
    first, second = stage.lines("eval.jsonl")
    assert list(first) == ["qid", "query", "documents", "source", "line"]
    assert (first["qid"], first["query"], first["source"], first["line"]) == ("q000001", "e", "e.jsonl", 1)
    assert {found["text"]: found["label"] for found in first["documents"]} == {"x": 1, "y": 0, "e0": 0.5}
    assert [found["docid"] for found in first["documents"]] == [f"q000001.{place}" for place in range(3)]
    assert second["qid"] == "q000002"
    assert '"label": 1}' in (stage.out / "eval.jsonl").read_text()
    assert side(stage, "eval")["merged"] == 3


def test_eval_documents_stand_in_an_order_that_tells_no_label(stage, files):
    evaluation = files.lines("e.jsonl", *[hits(f"e{n}", 1, 0, 0, 0) for n in range(40)])
    stage("--train", files.lines("t.jsonl", hits("a", 1, 0)), "--eval", evaluation, *PAIRS)
    places = {[found["label"] for found in row["documents"]].index(1) for row in stage.lines("eval.jsonl")}
    assert places == {0, 1, 2, 3}


def test_over_a_corpus_the_relevant_documents_are_those_of_a_half_or_more(stage, files):
    evaluation = files.lines("e.jsonl", hits("e", 1, 0.5, 0.4), hits("f", 0.1, 0))
    argv = ("--train", files.lines("t.jsonl", hits("a", 1, 0)), "--eval", evaluation, *PAIRS, "--corpus")
    assert stage(*argv) == 0
    texts = {row["docid"]: row["text"] for row in stage.lines("corpus.jsonl")}
    assert len(texts) == 5
    assert [{texts[docid] for docid in row["relevant"]} for row in stage.lines("eval.jsonl")] == [{"e0", "e1"}, set()]
    assert "nothing-to-rank: eval queries without a relevant document: 1;" in stage.stderr


def test_an_eval_query_on_which_all_models_are_equal_is_warned_about(stage, files):
    evaluation = files.lines("e.jsonl", hits("e", 1, 1), point("f", "x", 1), point("f", "y", 0))
    stage("--train", files.lines("t.jsonl", hits("a", 1, 0)), "--eval", evaluation, *PAIRS)
    assert "nothing-to-rank: eval queries whose documents all have one label: 1;" in stage.stderr


def test_a_label_outside_the_range_is_bad(stage, files):
    train = files.lines("t.jsonl", hits("a", 1, 0), hits("b", 2, 0))
    assert stage("--train", train, *LISTS) == 3
    assert f'{train}:2: label-out-of-range: "hits"[0].label is 2, outside 0 to 1 — give the range' in stage.stderr
    assert "data.max_label (--max-label)" in stage.stderr
    assert stage("--train", train, *LISTS, "--max-label", 2) == 0


@pytest.mark.parametrize("form", ["pairs", "lists"])
def test_two_labels_of_one_document_in_two_rows_make_the_later_row_bad(stage, files, form):
    train = files.lines("t.jsonl", hits("a", 1, 0), point("A", "a0", 0), point("a", "new", 0))
    assert stage("--train", train, *FORMS[form], "--max-dropped", 1) == 0
    assert side(stage)["dropped"] == {"conflicting-labels": 1}
    assert f'dropped: {train}:2: conflicting-labels: the document "a0" has the label 0 here, and 1 in' in stage.stderr
    written = (stage.out / "train.jsonl").read_text()
    assert "new" in written


@pytest.mark.parametrize("form", ["pairs", "lists"])
def test_a_document_that_a_query_has_in_two_rows_is_used_once(stage, files, form):
    train = files.lines("t.jsonl", hits("a", 1, 0), hits("a", 1, 0, 0.5), point("a", "a1", 0))
    assert stage("--train", train, *FORMS[form]) == 0
    assert side(stage)["dropped"] == {"duplicate": 1}
    assert "warning: duplicate-document: documents that their query has already: 2;" in stage.stderr
    assert (stage.out / "train.jsonl").read_text().count('"a1"') == 1


def test_too_few_rows_counts_the_lines_that_the_trainer_sees(stage, files):
    train = files.lines("t.jsonl", hits("a", 1, 0, 0, scores=[2, 1, 0]))
    assert stage("--train", train, *PAIRS, "--full-batch", 3) == 0
    assert stage("--train", train, *MARGINS, "--full-batch", 2) == 0
    assert stage("--train", train, *LISTS, "--full-batch", 2) == 3
    assert "too-few-rows: 1 training rows are left, and one step of the trainer takes 2" in stage.stderr


def test_too_few_validation_rows_counts_lines_too(stage, files):
    train = files.lines("t.jsonl", *[hits(f"q{n}", 1, 0) for n in range(20)])
    argv = ("--train", train, "--validation-ratio", 0.0001, "--min-validation", 2)
    assert stage(*argv, *PAIRS) == 0
    assert stage.json("stats.json")["validation"]["lines"] == 2
    assert stage(*argv, *LISTS) == 3


def test_limits_count_queries_where_rows_are_merged(stage, files):
    rows = [point(f"q{n % 5}", f"d{n}", n // 5 % 2) for n in range(20)]
    stage("--train", files.lines("t.jsonl", *rows), *LISTS, "--limit-train", 2)
    assert [row["query"] for row in stage.lines("train.jsonl")] == ["q0", "q1"]
    found = side(stage)
    assert (found["kept"], found["merged"], found["dropped"]) == (2, 15, {"over-limit": 3})


def test_a_leak_is_dropped_row_by_row(stage, files):
    rows = [point("E", "x", 1), point("e", "y", 0), point("a", "x", 1), point("a", "y", 0)]
    argv = ("--train", files.lines("t.jsonl", *rows), "--eval", files.lines("e.jsonl", hits("e", 1, 0)))
    stage(*argv, *LISTS)
    found = side(stage)
    assert (found["kept"], found["merged"], found["dropped"]) == (1, 1, {"query-also-in-eval": 2})


def test_a_relevant_document_of_both_sides_is_warned_about(stage, files):
    argv = ("--train", files.lines("t.jsonl", point("a", "x", 0.5), point("a", "y", 0)))
    stage(*argv, "--eval", files.lines("e.jsonl", point("e", "x", 1), point("e", "y", 0)), *LISTS)
    assert "document-also-in-eval: training positives that are positives of the eval set too: 1" in stage.stderr


def test_a_score_that_stands_in_for_a_label_must_be_one(stage, files):
    train = files.lines("t.jsonl", hits("a", 1, 0, scores=[5, -2]))
    for options, loss in ((PAIRS, "pointwise_bce"), (LISTS, "lambda_loss"), (LISTS, "listwise_ce")):
        graded = ("--graded",) if loss == "listwise_ce" else ()
        assert stage("--train", train, *options, "--loss", loss, "--target", "teacher", *graded) == 3
        assert f"{train}:1: score-out-of-range: the row has the teacher score" in stage.stderr
        assert "pointwise_mse, pairwise_ranknet and list_mle take any scores" in stage.stderr
    for options, loss in ((PAIRS, "pointwise_mse"), (LISTS, "pairwise_ranknet"), (MARGINS, "margin_mse")):
        assert stage("--train", train, *options, "--loss", loss, "--target", "teacher") == 0


def test_the_labels_are_drawn(stage, files):
    stage("--train", files.lines("t.jsonl", hits("a", 1, 0, 0, 0), hits("b", 1, 0.5)), *LISTS)
    at = stage.stdout.splitlines().index("train labels: 0 to 1 (mean 0.42)")
    assert stage.stdout.splitlines()[at + 1 :] == [
        "  0    3  " + "#" * 40,
        "  0.5  1  " + "#" * 14,
        "  1    2  " + "#" * 27,
        "train queries whose documents all have one label: 0; with one document: 0",
    ]


def test_the_audit_of_the_teacher_is_printed_for_groups_too(stage, files):
    scored = ranking("a") | {"pos_scores": [1], "neg_scores": [2, 0]}
    stage("--train", files.lines("t.jsonl", scored), "--form", "flagembedding")
    expected = "train teacher scores: 0 to 2 (mean 1); 1 of 2 negatives score above a positive of their row (1 rows)"
    assert stage.stdout.splitlines()[-1] == expected


def test_the_prepared_files_are_the_same_every_time(stage, files):
    train = files.lines("t.jsonl", *[point(f"q{n % 20}", f"d{n}", n // 20 % 3, score=n) for n in range(100)])
    argv = ("--train", train, "--eval-ratio", 0.3, "--validation-ratio", 0.3, *LISTS, "--max-label", 2)
    found = []
    for _ in range(2):
        assert stage(*argv) == 0
        found.append({path.name: path.read_bytes() for path in stage.out.iterdir()})
    assert found[0] == found[1]
    assert sorted(found[0]) == ["eval.jsonl", "ledger.json", "stats.json", "train.jsonl", "validation.jsonl"]


def test_a_missing_scores_row_of_flagembedding_is_bad_where_they_are_needed(stage, files):
    scored = ranking("a") | {"pos_scores": [1], "neg_scores": [0, 0]}
    train = files.lines("t.jsonl", scored, ranking("b"))
    assert stage("--train", train, "--form", "flagembedding", "--needs-scores", "--max-dropped", 1) == 0
    assert side(stage)["dropped"] == {"scores-missing": 1}


@pytest.mark.parametrize(
    "argv",
    [
        ("--kind", "group", "--form", "cross-encoder-pairs"),
        ("--kind", "labelled", "--form", "flagembedding"),
        (*PAIRS, "--min-label", "0"),
        (*PAIRS, "--min-label", "2", "--max-label", "1"),
        (*PAIRS, "--max-label", "nan"),
        (*PAIRS, "--min-label", "-1e308", "--max-label", "1e308"),
        (*PAIRS, "--train-group-size", "1"),
        (*PAIRS, "--loss", "lambda_loss"),
        (*LISTS, "--loss", "infonce"),
        (*LISTS, "--loss", "listwise_ce", "--target", "teacher"),
        ("--form", "flagembedding", "--max-label", "2"),
        ("--form", "flagembedding", "--graded"),
        ("--form", "flagembedding", "--target", "teacher"),
    ],
)
def test_an_argument_that_makes_no_sense_ends_with_code_2(stage, files, argv):
    with pytest.raises(SystemExit) as caught:
        stage("--train", files.lines("t.jsonl", hits("a", 1, 0)), *argv)
    assert caught.value.code == 2


@pytest.mark.parametrize("facts", [one for one in find_losses() if "labelled" in one.kinds], ids=lambda one: one.name)
def test_every_loss_has_a_form_that_prepares(stage, files, facts):
    train = files.lines("t.jsonl", hits("a", 1, 0, scores=[0.9, 0.1]), ranking("b") | {
        "pos_scores": [0.8], "neg_scores": [0.2, 0.3]
    })  # fmt: skip
    assert stage("--train", train, "--kind", "labelled", "--form", facts.form, "--loss", facts.name) == 0
    assert len(stage.lines("train.jsonl")) == stage.json("stats.json")["train"]["lines"] > 0


rows = st.lists(
    st.builds(point, st.sampled_from("abcdeA"), st.sampled_from("uvwxyz"), st.sampled_from([0, 0.5, 1, 2, "x"]))
    | st.builds(lambda query, labels: hits(query, *labels), st.sampled_from("abcde"), st.lists(st.sampled_from([0, 1])))
    | st.builds(ranking, st.sampled_from("abcdef"))
    | st.builds(lambda query: {"query": query}, st.sampled_from("ab")),
    min_size=1,
    max_size=16,
)


@relaxed
@given(
    rows,
    st.sampled_from([PAIRS, LISTS, (*MARGINS, "--target", "label"), (*LISTS, "--loss", "listwise_ce")]),
    st.sampled_from([None, 0.3]),
    st.sampled_from([None, 0.4]),
    st.sampled_from([None, 2]),
)
def test_no_labelled_row_is_lost_whatever_the_form_and_the_split(stage, files, rows, options, eval_ratio, ratio, limit):
    argv = [*options, "--max-dropped", 99]
    argv += ["--eval-ratio", eval_ratio] if eval_ratio else []
    argv += ["--validation-ratio", ratio] if ratio else []
    argv += ["--limit-train", limit] if limit else []
    code = stage("--train", files.lines("t.jsonl", *rows), *argv)
    ledger = stage.json("ledger.failed.json" if code else "ledger.json")
    sides = ledger["sides"].values()
    assert sum(found["kept"] + found.get("merged", 0) + sum(found["dropped"].values()) for found in sides) == len(rows)
    for found in sides:
        moved = found["moved_to_eval"] + found.get("moved_to_validation", 0) + found.get("merged", 0)
        assert found["rows_in"] == found["kept"] + moved + sum(found["dropped"].values())
    if code == 0:
        for name, found in ledger["sides"].items():
            written = stage.lines(f"{name}.jsonl")
            if name == "eval" or "cross-encoder-lists" in options:
                assert len(written) == found["kept"]
                assert len({row["query"].casefold() for row in written}) == len(written)
