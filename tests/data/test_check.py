from __future__ import annotations

import json

import pytest

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


def test_the_kind_is_that_of_the_first_row(files):
    pairs = files.lines("p.jsonl", {"sentence1": "a", "sentence2": "b", "score": 0.5})
    report = check_files([pairs])
    assert (report.ok, report.stats["kind"]) == (True, "pair")
    chats = files.lines("c.jsonl", {"instruction": "a", "output": "b"}, {"query": "a", "pos": ["b"]})
    report = check_files([chats])
    assert (report.stats["kind"], report.ledger.sides["train"].dropped) == ("chat", {"other-kind": 1})


def test_a_given_kind_is_what_every_row_must_be(files):
    path = files.lines("c.jsonl", {"query": "a", "response": "b"})
    assert check_files([path]).stats["kind"] == "group"
    assert check_files([path], kind="chat").ok
    assert check_files([path], kind="pair").ledger.sides["train"].dropped == {"other-kind": 1}


def test_embedding_data_needs_no_negatives_and_reranking_data_does(files):
    bare, mined = {"query": "a", "response": "b"}, {"query": "c", "response": "d", "rejected_response": "e"}
    assert check_files([files.lines("a.jsonl", bare, mined)]).ok
    assert check_files([files.lines("a.jsonl", mined, bare)]).ledger.sides["train"].dropped == {"no-negative": 1}


def test_columns_are_renamed(files):
    path = files.raw("a.csv", "a,b,c\nx,y,0.5\n")
    for columns in (
        {"sentence1": "a", "sentence2": "b", "score": "c"},
        {"query": "a", "response": "b", "label": "c"},
    ):
        assert check_files([path], columns=columns).stats["train"]["scores"]["max"] == 0.5


@pytest.mark.parametrize(
    ("row", "backend", "code"),
    [
        ({"query": "q", "pos": ["a"]}, "flagembedding", 3),
        ({"query": "q", "pos": ["a"]}, "sentence-transformers", 0),
        ({"query": "q", "response": "a"}, "flagembedding", 3),
        ({"query": "q", "response": "a"}, "swift", 0),
        ({"query": "q", "content": "a", "label": 1}, "flagembedding", 3),
        ({"query": "q", "content": "a", "label": 1}, "sentence-transformers", 0),
        ({"query": "q", "response": "a", "label": 1}, "swift", 0),
    ],
)
def test_rows_are_judged_as_the_backend_takes_them(files, orch, row, backend, code):
    assert orch("data", "check", files.lines("t.jsonl", row), "--backend", backend)[0] == code


def test_a_row_without_negatives_is_told_who_takes_it(files, orch):
    path = files.lines("t.jsonl", {"query": "q", "pos": ["a"]})
    code, said = orch("data", "check", path)
    assert (code, "backend: sentence-transformers (--backend)" in said) == (3, True)
    path = files.lines("s.jsonl", {"query": "q", "content": "a", "score": 0.5})
    code, said = orch("data", "check", path, "--backend", "sentence-transformers")
    assert (code, "--map label=score" in said) == (3, True)


def test_the_backends_of_the_option_are_those_that_there_are():
    from orchestrator.backends import BACKENDS
    from orchestrator.cli import data_commands

    option = next(one for one in data_commands.data_check_command.params if one.name == "backend")
    assert list(option.type.choices) == list(BACKENDS)
