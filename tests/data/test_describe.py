from __future__ import annotations

from orchestrator.data.check import check_files, describe_report


def test_a_report_shows_problems_then_warnings_then_sums_then_statistics(files, row):
    path = files.lines("a.jsonl", row(1), row(2, neg=["长一点", "b", "c"], id=1), row(3, pos=[]), row(1))
    assert describe_report(check_files([path])).splitlines() == [
        f'{path}:3: no-positive: "pos" is an empty list — add a relevant document, or remove the row',
        f'warning: unknown-keys: keys that are not used (in how many rows): "id" (1) ({path}:2)',
        "train: 4 rows in = 2 kept + 1 duplicate + 1 no-positive",
        "  2 different queries, 2 positives, 5 negatives",
        "  a row: 1 positives, 2 to 3 (mean 2.50) negatives",
        "  characters: query median 10, 95 % below 11, longest 10; document median 6, 95 % below 9, longest 8",
        "  scripts: latin 8, han 1",
    ]


def test_a_side_without_rows_has_no_statistics(files, row):
    report = check_files([files.lines("a.jsonl", row(3, pos=[]))])
    assert describe_report(report).splitlines()[-1] == "train: 1 rows in = 0 kept + 1 no-positive"


def test_pairs_are_described_by_their_scores(files):
    rows = [{"sentence1": f"a{number}", "sentence2": "b", "score": number % 2} for number in range(4)]
    assert describe_report(check_files([files.lines("a.jsonl", *rows)])).splitlines() == [
        "train: 4 rows in = 4 kept",
        "  4 different first texts",
        "  scores: 0 to 1 (mean 0.50): 0 in 2 rows, 1 in 2 rows",
        "  characters: text median 1, 95 % below 3, longest 2",
        "  scripts: latin 8",
    ]


def test_conversations_are_described_by_their_turns(files):
    rows = [{"instruction": "ab", "output": "c"}, {"instruction": "d", "output": "e", "history": [["f", "g"]]}]
    assert describe_report(check_files([files.lines("a.jsonl", *rows)])).splitlines() == [
        "train: 2 rows in = 2 kept",
        "  2 different questions, 0 rows with a system message",
        "  a row: 1 to 2 (mean 1.50) answers",
        "  characters: prompt median 2, 95 % below 4, longest 3; answer median 1, 95 % below 2, longest 1",
        "  scripts: latin 6",
    ]
