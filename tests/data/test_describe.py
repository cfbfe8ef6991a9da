from __future__ import annotations

from orchestrator.data.check import check_files
from orchestrator.data.describe import describe_report


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
