from __future__ import annotations

import json

import pytest

from orchestrator.data.check import check_files
from orchestrator.data.convert import Conversion, convert_files
from orchestrator.errors import DataError


@pytest.fixture(name="convert")
def _convert(files):
    def convert(*paths, max_dropped=0, **options):
        out = files.folder / "out.jsonl"
        report = convert_files(paths, out, Conversion(**options), max_dropped=max_dropped)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert report.rows_out == len(rows)
        return rows

    return convert


@pytest.fixture(name="refusal")
def _refusal(files, convert):
    def refusal(*paths, **options):
        before = sorted(files.folder.iterdir())
        with pytest.raises(DataError) as caught:
            convert(*paths, **options)
        assert sorted(files.folder.iterdir()) == before
        return caught.value.problems

    return refusal


def test_the_csv_of_a_questionnaire_becomes_instruction_rows(files, convert):
    path = files.raw("a.csv", 'id,question_text,answer\n1,"What, then?",Nothing.\n2,Who?,"A\nB"\n')
    rows = convert(path, columns=(("instruction", "question_text"), ("output", "answer")))
    assert rows == [
        {"instruction": "What, then?", "output": "Nothing.", "id": "1"},
        {"instruction": "Who?", "output": "A\nB", "id": "2"},
    ]


def test_only_mapped_leaves_the_other_columns_out(files, convert):
    path = files.raw("a.csv", "id,question_text,answer\n1,Q,A\n")
    assert convert(path, columns=(("instruction", "question_text"),), only_mapped=True) == [{"instruction": "Q"}]


def test_a_constant_is_added_to_every_row(files, convert):
    path = files.lines("a.jsonl", {"input": "x", "output": "y"})
    assert convert(path, constants=(("instruction", "Translate."),)) == [
        {"input": "x", "output": "y", "instruction": "Translate."}
    ]


def test_two_columns_may_swap_their_names(files, convert):
    path = files.lines("a.jsonl", {"a": "1", "b": "2"})
    assert convert(path, columns=(("a", "b"), ("b", "a"))) == [{"a": "2", "b": "1"}]


def test_an_unknown_column_is_refused_with_those_that_exist(files, refusal):
    path = files.raw("a.csv", "question,answer\nQ,A\n")
    [problem] = refusal(path, columns=(("instruction", "question_text"),))
    assert problem.message == 'unknown-column: no row has "question_text"'
    assert problem.hint == 'the columns are "question", "answer"'


def test_a_key_that_only_some_rows_have_can_be_renamed(files, convert):
    path = files.lines("a.jsonl", {"q": "1"}, {"q": "2", "context": "c"})
    assert convert(path, columns=(("input", "context"),)) == [{"q": "1"}, {"q": "2", "input": "c"}]


def test_a_name_that_another_column_has_is_refused(files, refusal):
    path = files.lines("a.jsonl", {"text": "1", "query": "2"})
    [problem] = refusal(path, columns=(("query", "text"),))
    assert problem.message == 'column-exists: the row has a "query" already'
    assert problem.where.line == 1
    [problem] = refusal(path, constants=(("query", "text"),))
    assert problem.message.startswith("column-exists: ")


def test_an_existing_file_is_left_alone(files, convert):
    kept = files.raw("out.jsonl", "mine")
    with pytest.raises(DataError, match=r"^output-exists: "):
        convert(files.lines("a.jsonl", {}))
    assert kept.read_text() == "mine"


def test_an_output_that_is_not_named_as_json_lines_is_refused(files):
    with pytest.raises(DataError, match=r"^unknown-ending: "):
        convert_files([files.lines("a.jsonl", {})], files.folder / "b.csv", Conversion())


def test_scores_of_a_table_become_numbers_and_lists_become_lists_under_their_new_names(files, convert):
    path = files.raw("a.csv", 'a,b,similarity,positives\nx,y,0.5,"[""p""]"\nx,z,1,[]\n')
    columns = (("sentence1", "a"), ("sentence2", "b"), ("score", "similarity"), ("pos", "positives"))
    assert convert(path, columns=columns) == [
        {"sentence1": "x", "sentence2": "y", "score": 0.5, "pos": ["p"]},
        {"sentence1": "x", "sentence2": "z", "score": 1, "pos": []},
    ]


def test_files_of_several_formats_go_into_one(files, convert):
    one, two = files.raw("a.csv", "x\n1\n"), files.raw("b.json", '[{"x": 2}]')
    assert convert(one, two) == [{"x": "1"}, {"x": 2}]


def test_a_parquet_file_becomes_json_lines(files, convert):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{"anchor": "q", "pos": ["a", "b"]}]
    pq.write_table(pa.Table.from_pylist(rows), files.folder / "a.parquet")
    path = files.folder / "a.parquet"
    assert convert(path, columns=(("query", "anchor"),)) == [{"query": "q", "pos": ["a", "b"]}]


def test_a_file_without_a_telling_ending_is_read_as_the_form_that_is_named(files, convert):
    assert convert(files.raw("rows.txt", "a\tb\n1\t2\n"), form="tsv") == [{"a": "1", "b": "2"}]


def test_scores_are_divided(files, convert):
    path = files.lines("a.jsonl", {"score": 5}, {"score": "2.5"}, {"label": 0})
    assert convert(path, divide_score=5) == [{"score": 1.0}, {"score": 0.5}, {"label": 0.0}]


@pytest.mark.parametrize(
    ("row", "code"),
    [({"score": 5.5}, "score-out-of-range"), ({"score": "high"}, "wrong-type"), ({"text": "a"}, "missing-key")],
)
def test_a_score_that_cannot_be_a_similarity_is_refused_with_its_line(files, refusal, row, code):
    [problem] = refusal(files.lines("a.jsonl", {"score": 1}, row), divide_score=5)
    assert problem.message.startswith(f"{code}: ")
    assert problem.where.line == 2


def test_one_positive_gives_a_row_for_each(files, convert):
    row = {"query": "q", "pos": ["a", "b"], "neg": ["n"], "pos_scores": [1, 2], "neg_scores": [0]}
    assert convert(files.lines("a.jsonl", row, {"query": "r", "response": "s"}), one_positive=True) == [
        row | {"pos": ["a"], "pos_scores": [1]},
        row | {"pos": ["b"], "pos_scores": [2]},
        {"query": "r", "response": "s"},
    ]


SHAREGPT = {
    "id": "x1",
    "system": "Be brief.",
    "conversations": [
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
        {"from": "user", "value": "Bye"},
        {"from": "assistant", "value": "Bye!"},
    ],
}


def test_sharegpt_conversations_become_chat_messages(files, convert):
    [row] = convert(files.raw("a.json", json.dumps([SHAREGPT])), form="sharegpt")
    assert [(message["role"], message["content"]) for message in row.pop("messages")] == [
        *(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Bye!")),
    ]
    assert row == {"id": "x1"}


def test_alpaca_rows_become_chat_messages(files, convert):
    rows = [
        {"instruction": "Add.", "input": "1 + 1", "output": "2"},
        {"instruction": "Hi", "input": "", "output": "Hello", "system": "S", "history": [["a", "b"]]},
    ]
    first, second = convert(files.raw("a.json", json.dumps(rows)), form="alpaca")
    assert first == {"messages": [{"role": "user", "content": "Add.\n1 + 1"}, {"role": "assistant", "content": "2"}]}
    assert [message["content"] for message in second["messages"]] == ["S", "a", "b", "Hi", "Hello"]


def test_columns_are_renamed_before_a_form_is_read(files, convert):
    path = files.raw("a.csv", "question_text,answer\nQ,A\n")
    [row] = convert(path, form="alpaca", columns=(("instruction", "question_text"), ("output", "answer")))
    assert [message["content"] for message in row["messages"]] == ["Q", "A"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"query": "q", "response": "p", "rejected_response": ["n", "m"]}, {"query": "q", "pos": ["p"], "neg": ["n", "m"]}),
        ({"query": "q", "response": "p", "rejected_response": "n"}, {"query": "q", "pos": ["p"], "neg": ["n"]}),
        ({"query": "q", "response": "p"}, {"query": "q", "pos": ["p"], "neg": []}),
        ({"query": "q", "response": "p", "label": 0.5}, {"sentence1": "q", "sentence2": "p", "score": 0.5}),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "p"}], "rejected_messages": [[{"role": "assistant", "content": "n"}]]},
            {"query": "q", "pos": ["p"], "neg": ["n"]},
        ),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "positive_messages": [[{"role": "assistant", "content": "p"}]], "negative_messages": []},
            {"query": "q", "pos": ["p"], "neg": [], "prompt": "s"},
        ),
    ],
)  # fmt: skip
def test_rows_of_swift_3_become_groups_or_scored_pairs(files, convert, old, new):
    assert convert(files.lines("a.jsonl", old), form="swift3") == [new]


def test_converted_swift_rows_pass_the_check(files, convert):
    rows = [{"query": f"q{n}", "response": f"p{n}", "rejected_response": [f"n{n}", "m"]} for n in range(3)]
    convert(files.lines("a.jsonl", *rows), form="swift3")
    assert check_files([files.folder / "out.jsonl"]).ok


@pytest.mark.parametrize(
    ("form", "row", "sentence"),
    [
        ("sharegpt", {"messages": []}, 'the key "conversations" is missing; the row has "messages"'),
        ("sharegpt", {"conversations": [{"from": "tool", "value": "x"}]}, '"conversations"[0] has "from": "tool"'),
        ("sharegpt", {"conversations": [{"from": "gpt", "value": None}]}, 'no text in "value"'),
        ("sharegpt", {"conversations": []}, '"conversations" is empty'),
        ("alpaca", {"instruction": "x"}, 'the key "output" is missing'),
        ("alpaca", {"instruction": "x", "output": 3}, '"output" is not a string'),
        ("alpaca", {"instruction": "x", "output": "y", "history": ["a"]}, '"history" is not a list of'),
        ("swift3", {"query": "q"}, 'neither a "response"'),
        ("swift3", {"query": "q", "response": "p", "rejected_response": {}}, "neither a string nor a list"),
        ("swift3", {"query": "q", "response": "p", "rejected_response": ["n"], "label": 1}, "has 2 texts, and this one 3"),
        ("swift3", {"messages": "hi", "response": "p"}, '"messages" is not a list of'),
    ],
)  # fmt: skip
def test_a_row_of_another_form_is_refused_with_its_place(files, refusal, form, row, sentence):
    [problem] = refusal(files.lines("a.jsonl", row), form=form)
    assert problem.message.startswith(f"not-convertible: this is no {form} row: ")
    assert sentence in problem.message
    assert problem.where.line == 1


def test_every_bad_row_is_named_or_counted(files, refusal):
    problems = refusal(files.raw("a.csv", "a,b\n" + "1\n" * 25))
    assert [problem.where.line for problem in problems[:20]] == list(range(2, 22))
    assert problems[-1].message == "and 5 more bad rows; in all: wrong-field-count 25"


def test_bad_rows_up_to_the_limit_are_left_out_and_counted(files):
    path = files.raw("a.jsonl", '{"a": 1}\nnope\n[1]\n{"a": "\\ud800"}\n')
    report = convert_files([path], files.folder / "b.jsonl", Conversion(), max_dropped=3)
    assert (report.rows_in, report.rows_out) == (4, 1)
    assert report.dropped == {"lone-surrogate": 1, "not-an-object": 1, "not-json": 1}
