from __future__ import annotations

import json

from orchestrator.data.check import check_files


def test_good_data_has_no_problems(files, row):
    report = check_files([files.lines("a.jsonl", row(1), row(2))])
    assert report.ok
    assert report.stats["train"]["rows"] == 2


def test_a_check_writes_nothing(files, row):
    path = files.lines("a.jsonl", row(1), row(2, neg=[]))
    check_files([path])
    assert list(files.folder.iterdir()) == [path]


def test_a_report_says_to_programs_what_is_wrong_where_and_what_to_do(files, row):
    path = files.lines("a.jsonl", row(1), row(2, neg=[]))
    found = json.loads(json.dumps(check_files([path]).to_json()))
    assert (found["version"], found["ok"]) == (1, False)
    assert found["problems"] == [
        {
            "message": 'no-negative: "neg" is an empty list',
            "hint": "add documents that do not answer, or mine hard negatives",
            "path": str(path),
            "line": 2,
        }
    ]
    assert found["ledger"]["sides"]["train"]["dropped"] == {"no-negative": 1}
    assert found["stats"]["train"]["rows"] == 1


def test_leaks_are_found_against_an_eval_file(files, row):
    report = check_files([files.lines("a.jsonl", row(1), row(2))], eval_paths=[files.lines("e.jsonl", row(2))])
    assert report.ok
    assert [warned.code for warned in report.ledger.warnings] == ["query-also-in-eval"]


def test_allowed_bad_rows_are_no_problem(files, row):
    assert check_files([files.lines("a.jsonl", row(1), row(2, neg=[]))], max_dropped=1).ok
