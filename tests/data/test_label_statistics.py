"""Statistics of labels, of the groups that queries make, and what a teacher thinks of both."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.data.check import check_files, describe_report, describe_supervision
from orchestrator.data.rows.records import LabelledGroup, RankingGroup
from orchestrator.data.stats import Numbers, QueryGroups, TeacherAudit


def group(query, labels, scores=None, line=1):
    documents = tuple(f"{query}{place}" for place in range(len(labels)))
    return LabelledGroup(query, documents, tuple(labels), scores, "a.jsonl", line)


def test_few_labels_are_counted_each():
    counts = Numbers()
    counts.add_labels((1.0, 0.0, 0.0))
    counts.add_labels((0.5,))
    assert counts.describe_labels() == {
        "lowest": 0.0,
        "mean": 0.375,
        "highest": 1.0,
        "counts": [{"label": 0.0, "count": 2}, {"label": 0.5, "count": 1}, {"label": 1.0, "count": 1}],
    }


@pytest.mark.parametrize(("distinct", "key"), [(20, "counts"), (21, "bins")])
def test_more_than_twenty_labels_are_counted_in_ten_bins(distinct, key):
    counts = Numbers()
    counts.add_labels(tuple(place / (distinct - 1) for place in range(distinct)))
    found = counts.describe_labels()
    assert set(found) == {"lowest", "mean", "highest", key}
    assert sum(entry["count"] for entry in found[key]) == distinct
    if key == "bins":
        assert [(entry["from"], entry["to"]) for entry in found["bins"]][::9] == [(0.0, 0.1), (0.9, 1.0)]
        assert found["bins"][9]["count"] == 3  # 0.9, 0.95 and 1


def test_no_labels_are_zeros():
    assert Numbers().describe_labels() == {"lowest": 0.0, "mean": 0.0, "highest": 0.0, "counts": []}


def test_groups_are_those_of_all_rows_of_a_query():
    groups = QueryGroups()
    for found in (group("a", [1.0]), group("b", [0.0, 0.0]), group("A ", [0.0, 0.5]), group("c", [1.0])):
        groups.add(found)
    assert len(groups) == 3
    assert groups.to_json(Counter()) == {
        "count": 3,
        "documents": {"lowest": 1, "mean": 2.0, "highest": 3},
        "one_label": 1,
        "too_small": 1,
    }


def test_negatives_that_a_teacher_scores_above_a_positive_of_their_row_are_found():
    audit = TeacherAudit()
    audit.add(group("a", (1.0, 0.5, 0.0, 0.4), (5.0, 2.0, 3.0, 1.0), line=7))
    audit.add(group("b", (1.0, 0.0), (5.0, 5.0)))  # as high is not above
    audit.add(group("c", (0.0, 0.0), (5.0, 9.0)))
    assert audit.to_json() == {
        "lowest": 1.0,
        "mean": 4.375,
        "highest": 9.0,
        "false_negatives": {
            "rows": 1,
            "negatives": 1,
            "of_negatives": 3,
            "examples": [
                {
                    "query": "a",
                    "positive": "a1",
                    "positive_score": 2.0,
                    "negative": "a2",
                    "negative_score": 3.0,
                    "source": "a.jsonl",
                    "line": 7,
                }
            ],
        },
    }


def test_the_widest_gaps_come_first_and_no_more_than_ten():
    audit = TeacherAudit()
    for number in range(30):
        audit.add(group(f"q{number}", (1.0, 0.0), (0.0, float(number % 15)), line=number))
    found = audit.to_json()["false_negatives"]
    assert (found["rows"], found["negatives"]) == (28, 28)
    gaps = [(example["negative_score"], example["line"]) for example in found["examples"]]
    assert gaps == [(float(gap), line) for gap in range(14, 9, -1) for line in (gap, gap + 15)]


def test_scores_whose_sum_is_beyond_floats_have_a_mean_still():
    audit = TeacherAudit()
    audit.add(RankingGroup("q", ("p",), ("n",), "a.jsonl", 1, (1.5e308,), (1.5e308,)))
    assert audit.to_json()["mean"] == 1.5e308


def test_ranking_groups_are_audited_too():
    audit = TeacherAudit()
    audit.add(RankingGroup("q", ("p", "r"), ("n", "m"), "a.jsonl", 1, (1.0, 4.0), (2.0, 0.0)))
    audit.add(RankingGroup("q", ("p",), (), "a.jsonl", 2, (1.0,), None))
    found = audit.to_json()["false_negatives"]
    assert (found["rows"], found["negatives"], found["of_negatives"]) == (1, 1, 2)
    assert (found["examples"][0]["positive"], found["examples"][0]["negative"]) == ("p", "n")


def test_rows_with_teacher_scores_have_a_teacher_in_their_statistics_and_others_have_none(files, row):
    plain = check_files([files.lines("a.jsonl", row(1))]).stats["train"]
    scored = check_files([files.lines("a.jsonl", row(1, pos_scores=[1], neg_scores=[2, 0]))]).stats["train"]
    assert "teacher" not in plain
    assert {key: value for key, value in scored.items() if key != "teacher"} == plain
    assert scored["teacher"]["false_negatives"]["negatives"] == 1


def test_labelled_rows_are_described_by_their_labels(files):
    rows = [
        {"query": "a", "content": "x", "label": 1, "score": 1},
        {"query": "a", "content": "y", "label": 0, "score": 2.5},
        {"query": "b", "content": "zz", "label": 0, "score": 0},
    ]
    assert describe_report(check_files([files.lines("a.jsonl", *rows)])).splitlines() == [
        "train: 3 rows in = 2 kept + 1 merged",
        "  2 different queries, 3 documents",
        "  a query: 1 to 2 (mean 1.50) documents",
        "  queries whose documents all have one label: 0; with one document: 1",
        "  labels: 0 to 1 (mean 0.33)",
        "    0  2  ########################################",
        "    1  1  ####################",
        "  characters: query median 1, 95 % below 2, longest 1; document median 1, 95 % below 3, longest 2",
        "  teacher scores: 0 to 2.5 (mean 1.167); 1 of 1 negatives score above a positive of their row (1 rows)",
        "  scripts: latin 5",
    ]


def test_bins_are_drawn_as_ranges():
    bins = [{"from": place / 10, "to": (place + 1) / 10, "count": place} for place in range(10)]
    labels = {"lowest": 0.0, "mean": 0.5, "highest": 1.0, "bins": bins}
    train = {"rows": 45, "labels": labels, "groups": {"one_label": 2, "too_small": 1}}
    lines = describe_supervision({"version": 1, "train": train, "eval": {"rows": 0}})
    assert lines[0] == "train labels: 0 to 1 (mean 0.50)"
    assert lines[1] == "  0 to 0.1    0"
    assert lines[-2] == "  0.9 to 1    9  " + "#" * 40
    assert lines[-1] == "train queries whose documents all have one label: 2; with one document: 1"


def test_a_side_without_labels_or_a_teacher_is_not_described(files, row):
    assert describe_supervision(check_files([files.lines("a.jsonl", row(1))]).stats) == []
