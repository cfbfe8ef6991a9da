from __future__ import annotations

from dataclasses import replace

from orchestrator.evaluation.eval_rows import Document, Group
from orchestrator.report.examples import build_examples, clipped, find_top
from orchestrator.report.page import build_environment

GROUP = Group("q", "query", (Document("q.0", "wrong", 0), Document("q.1", "right", 1), Document("q.2", "other", 0)))


def test_the_top_document_is_marked_when_it_is_relevant():
    top = find_top(GROUP, {"q.0": 0.1, "q.1": 0.9, "q.2": 0.2}, {})
    assert top is not None
    assert (top["text"], top["relevant"], top["relevant_rank"]) == ("right", True, "1")


def test_the_rank_of_the_first_relevant_document_is_given():
    top = find_top(GROUP, {"q.0": 0.9, "q.1": 0.1, "q.2": 0.2}, {})
    assert top is not None
    assert (top["text"], top["relevant"], top["relevant_rank"]) == ("wrong", False, "3")


def test_a_tied_top_and_an_open_rank_are_told():
    top = find_top(GROUP, {"q.0": 0.9, "q.1": 0.9, "q.2": 0.2}, {})
    assert top is not None
    assert (top["tied"], top["relevant_rank"]) == (2, "1–2")


def test_an_unscored_query_has_no_top():
    assert find_top(GROUP, {}, {}) is None


def test_the_most_changed_queries_come_first_and_unchanged_ones_not_at_all():
    groups = [Group(f"q{n}", "?", (Document(f"q{n}.0", "t", 1),)) for n in range(9)]
    values = {f"q{n}": (0.5, 0.5 + (n - 2) / 10) for n in range(9)}
    improved, worsened = build_examples(groups, values, {}, {})
    assert [example["id"] for example in improved] == ["q8", "q7", "q6", "q5", "q4"]
    assert [example["id"] for example in worsened] == ["q0", "q1"]


def test_the_relevant_document_is_shown_where_neither_ranking_has_it_on_top():
    wrong_first = {"q": {"q.0": 3.0, "q.1": 2.0, "q.2": 1.0}}
    (example,), _ = build_examples([GROUP], {"q": (0.1, 0.2)}, wrong_first, wrong_first)
    assert example["relevant_text"] == "right"


def test_a_grade_below_a_half_is_not_relevant_and_one_of_a_half_is():
    graded = Group("q", "query", (Document("q.0", "little", 1 / 3), Document("q.1", "half", 0.5)))
    top = find_top(graded, {"q.0": 0.9, "q.1": 0.1}, {})
    assert top is not None
    assert (top["text"], top["relevant"], top["relevant_rank"], top["missed"]) == ("little", False, "2", False)
    first = {"q": {"q.0": 3.0, "q.1": 2.0}}
    (example,), _ = build_examples([graded], {"q": (0.1, 0.2)}, first, first)
    assert example["relevant_text"] == "half"


def test_a_query_of_low_grades_has_no_relevant_document_to_miss():
    graded = Group("q", "query", (Document("q.0", "little", 0.3), Document("q.1", "less", 0.1)))
    top = find_top(graded, {"q.0": 0.9, "q.1": 0.1}, {})
    assert top is not None
    assert (top["relevant"], top["relevant_rank"], top["missed"]) == (False, None, False)
    first = {"q": {"q.0": 3.0, "q.1": 2.0}}
    (example,), _ = build_examples([graded], {"q": (0.1, 0.2)}, first, first)
    assert example["relevant_text"] is None


def test_a_query_of_several_relevant_documents_is_not_said_to_have_one():
    def show(*labels):
        group = Group("q", "query", tuple(Document(f"q.{n}", f"text {n}", label) for n, label in enumerate(labels)))
        scores = {"q": {f"q.{n}": -float(n) for n in range(len(labels))}}
        (example,), _ = build_examples([group], {"q": (0.1, 0.2)}, scores, scores)
        assert example["relevant"] == sum(labels)
        return build_environment().get_template("figures.html.j2").module.example(example, "nDCG")

    one, three = show(0, 1), show(0, 0, 1, 1, 1)
    assert "the relevant one at rank 2" in one
    assert "✓ the relevant document<" in one
    assert "the first of 3 relevant ones at rank 3" in three
    assert "✓ one of 3 relevant documents<" in three


def test_texts_with_classes_show_the_class_of_what_was_found():
    shared = Document("d0", "one of a", 0), Document("d1", "one of b", 0), Document("d2", "alone", 0)
    groups = [
        Group(qid, qid, tuple(replace(one, label=float(one.docid == own)) for one in shared), name)
        for qid, own, name in (("q0", "d0", "a"), ("q1", "d1", "b" * 5000))
    ]
    before, after = {"q0": {"d0": 1, "d1": 2, "d2": 0}}, {"q0": {"d0": 1, "d1": 0, "d2": 2}}
    (example,), _ = build_examples(groups, {"q0": (0.1, 0.2)}, before, after)
    assert (example["class_name"], example["before"]["class_name"]) == ("a", clipped("b" * 5000))
    assert example["after"]["class_name"] == "another class"
    (plain,), _ = build_examples([GROUP], {"q": (0.1, 0.2)}, {"q": {"q.0": 1.0}}, {})
    assert (plain["class_name"], plain["before"]["class_name"]) == (None, None)


def test_a_long_text_is_cut_with_an_ellipsis():
    text = clipped("长" * 5000)
    assert (len(text), text[-1]) == (320, "…")
