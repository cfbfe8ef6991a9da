from __future__ import annotations

import json

import pytest

from orchestrator.data.split import split_file
from orchestrator.errors import DataError


@pytest.fixture(name="split")
def _split(files):
    def split(path, ratio=0.3, **options):
        suffix = path.suffix
        return split_file(
            path, files.folder / f"out.train{suffix}", files.folder / f"out.eval{suffix}", ratio, **options
        )

    return split


def test_every_line_is_kept_byte_for_byte_on_one_of_the_sides(files, split):
    lines = [f'{{ "query":"q{number}",  "x": 1.0e0, "é": "\\u00e9"}}\r'.encode() for number in range(30)]
    report = split(files.raw("a.jsonl", b"\xef\xbb\xbf" + b"\n".join(lines)))
    train, evaluation = (path.read_bytes().split(b"\n") for path in (report.train, report.eval))
    assert train.pop() == evaluation.pop() == b""
    assert sorted(train + evaluation) == sorted(lines)
    assert train == [line for line in lines if line in train]
    assert (report.train_rows, report.eval_rows) == (len(train), len(evaluation))


def test_all_rows_of_a_query_go_together(files, split, row):
    report = split(files.lines("a.jsonl", *[row(number, query=f"Q {number % 7} ") for number in range(40)]))
    sides = [
        {json.loads(line)["query"] for line in path.read_text().splitlines()} for path in (report.train, report.eval)
    ]
    assert not sides[0] & sides[1]
    assert (report.train_queries, report.eval_queries) == (len(sides[0]), len(sides[1]))
    assert report.train_queries + report.eval_queries == 7


def test_a_list_becomes_two_lists(files, split, row):
    rows = [row(number) for number in range(30)]
    report = split(files.raw("a.json", json.dumps(rows, indent=2)))
    train, evaluation = (json.loads(path.read_text()) for path in (report.train, report.eval))
    assert sorted(train + evaluation, key=rows.index) == rows
    assert train
    assert evaluation


def test_the_split_is_the_one_that_prepare_makes(files, split, row):
    from orchestrator.data.data_pass import run_data_pass
    from orchestrator.data.request import Request

    path = files.lines("a.jsonl", *[row(number) for number in range(40)])
    prepared: list[str] = []
    run_data_pass(Request((path,), eval_ratio=0.3, seed=7), on_eval=lambda group: prepared.append(group.query))
    report = split(path, 0.3, seed=7)
    assert [json.loads(line)["query"] for line in report.eval.read_text().splitlines()] == prepared


def test_two_queries_are_enough(files, split, row):
    report = split(files.lines("a.jsonl", row(1), row(2)), 0.001)
    assert (report.train_rows, report.eval_rows) == (1, 1)


def test_one_query_is_not_enough_and_nothing_is_written(files, split, row):
    path = files.lines("a.jsonl", row(1), row(1))
    with pytest.raises(DataError, match=r"^too-few-queries: "):
        split(path)
    assert list(files.folder.iterdir()) == [path]


def test_rows_without_a_query_are_all_named_and_nothing_is_written(files, split, row):
    path = files.lines("a.jsonl", row(1), {"question": "q"}, [], row(2), {"query": ""}, {"query": 1})
    with pytest.raises(DataError) as caught:
        split(path)
    problems = caught.value.problems
    assert [problem.where.line for problem in problems] == [2, 3, 5, 6]
    assert [problem.message.partition(":")[0] for problem in problems] == [
        *("missing-key", "not-an-object", "empty-query", "wrong-type"),
    ]
    assert list(files.folder.iterdir()) == [path]


def test_rows_without_a_query_are_told_once_with_their_lines(files, split, row):
    with pytest.raises(DataError) as caught:
        split(files.lines("a.jsonl", row(1), row(2), *[{}] * 25))
    [problem] = caught.value.problems
    assert problem.where.line == 3
    assert problem.message.endswith("(also lines 4, 5, 6, 7, 8 and 19 more)")


def test_an_existing_output_is_left_alone(files, split, row):
    kept = files.raw("out.eval.jsonl", "mine")
    with pytest.raises(DataError, match=r"^output-exists: "):
        split(files.lines("a.jsonl", row(1), row(2)))
    assert kept.read_text() == "mine"


def test_both_sides_cannot_go_to_one_file(files, row):
    out = files.folder / "b.jsonl"
    with pytest.raises(DataError, match=r"^output-exists: "):
        split_file(files.lines("a.jsonl", row(1), row(2)), out, out, 0.5)


def test_rows_of_other_tasks_can_be_split_too(files, split):
    report = split(files.lines("a.jsonl", *[{"query": f"q{number}", "response": "r"} for number in range(20)]))
    assert report.train_rows + report.eval_rows == 20


@pytest.mark.parametrize(
    "build",
    [
        lambda number: {"sentence1": f"a{number % 7}", "sentence2": f"b{number}", "score": 1},
        lambda number: {"instruction": f"a{number % 7}", "output": f"b{number}"},
        lambda number: {"messages": [{"role": "user", "content": f"a{number % 7}"}], "n": number},
        lambda number: {"messages": f"a{number % 7}", "positive_messages": [f"b{number}"]},
        lambda number: {"conversations": [{"from": "human", "value": f"a{number % 7}"}], "n": number},
        lambda number: {"text": f"a{number % 7}", "label": number % 7 % 2, "n": number},
    ],
)
def test_rows_of_every_kind_are_split_by_their_first_text(files, split, build):
    report = split(files.lines("a.jsonl", *[build(number) for number in range(40)]))
    assert report.train_rows + report.eval_rows == 40
    assert report.train_queries + report.eval_queries == 7


def test_a_table_is_to_be_converted_first(files, split):
    with pytest.raises(DataError, match=r"^unknown-ending: only JSON Lines and JSON lists can be split"):
        split(files.raw("a.csv", "query,response\nq,r\n"))


def test_the_query_may_stand_under_another_name_and_rows_keep_theirs(files, orch):
    rows = [{"ask": f"q{number}", "reply": "a"} for number in range(8)]
    path = files.lines("a.jsonl", *rows)
    assert orch("data", "split", path, "-o", files.folder / "out")[0] == 3
    assert orch("data", "split", path, "--map", "query=ask", "-o", files.folder / "out")[0] == 0
    parts = [(files.folder / "out" / f"a.{side}.jsonl").read_text().splitlines() for side in ("train", "eval")]
    assert sorted(parts[0] + parts[1]) == sorted(path.read_text().splitlines())


def test_conversations_with_earlier_turns_are_split_by_all_of_them(files, split):
    rows = [{"query": "go on", "response": "a", "history": [[f"tell me of {number}", "b"]]} for number in range(40)]
    report = split(files.lines("chats.jsonl", *rows))
    assert report.train_queries + report.eval_queries == 40


def test_a_history_beside_documents_is_nothing_to_split_by(files, split):
    rows = [{"query": f"q{number}", "content": "a", "label": 1, "history": "old"} for number in range(9)]
    report = split(files.lines("judged.jsonl", *rows))
    assert report.train_queries + report.eval_queries == 9


def test_a_class_that_is_left_with_one_text_for_training_is_named(files, orch):
    rows = [{"text": f"{name} {number}", "label": name} for name in ("sport", "law") for number in range(9)]
    lone = [{"text": "one", "label": "art"}, {"text": "ONE", "label": "art"}, {"text": "odd", "label": "food"}]
    path = files.lines("a.jsonl", *rows, *lone)
    code, told = orch("data", "split", path, "--eval-ratio", "0.01", "-o", files.folder / "out")
    assert code == 0
    assert "warning: of 4 classes 2 have one training text: art, food; a training on classes refuses" in told
    assert "--seed or a smaller --eval-ratio" in told


@pytest.mark.parametrize("names", [["sport", "law"], ["sport"]])
def test_classes_that_can_be_trained_on_are_split_without_a_warning(files, split, names):
    rows = [{"text": f"{name} {number}", "label": name} for name in names for number in range(30)]
    warning = split(files.lines("a.jsonl", *rows)).warning
    assert warning is None if len(names) > 1 else warning.startswith("of 1 classes 0 have one training text")


def test_what_a_split_of_classes_does_not_warn_of_is_trained_on(files, split):
    from orchestrator.data.prepare import main as prepare

    codes = set()
    for seed in range(12):
        rows = [{"text": f"{name} {number}", "label": name} for name in "abc" for number in range(3)]
        report = split(files.lines("a.jsonl", *rows), seed=seed)
        argv = [
            "--train",
            report.train,
            "--kind",
            "class",
            "--form",
            "embedding-classes",
            "--loss",
            "batch_all_triplet",
        ]
        code = prepare([*map(str, argv), "--out", str(files.folder / f"out{seed}")])
        assert code == (3 if report.warning else 0)
        codes.add(code)
        report.train.unlink()
        report.eval.unlink()
    assert codes == {0, 3}
