from __future__ import annotations

import json
import tracemalloc

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.cli.data_commands import data_command
from orchestrator.data.check import check_files
from orchestrator.data.convert import Conversion, convert_files
from orchestrator.data.reshape import Regrouping, Reshaping
from orchestrator.data.rows.foreign_rows import convert_row
from orchestrator.data.rows.texts import BadRowError
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
        ("sharegpt", {"conversations": [{"from": "tool", "value": "x"}]}, '"conversations"[0] is a tool message'),
        ("sharegpt", {"conversations": [{"from": "gpt", "value": None}]}, 'the content of "conversations"[0] is null'),
        ("sharegpt", {"conversations": []}, '"conversations" is empty'),
        ("alpaca", {"instruction": "x"}, 'the key "output" is missing'),
        ("alpaca", {"instruction": "x", "output": 3}, '"output" is not a string'),
        ("alpaca", {"instruction": "x", "output": "y", "history": ["a"]}, '"history" is not a list of pairs'),
        ("swift3", {"query": "q"}, 'neither a "response"'),
        ("swift3", {"query": "q", "response": "p", "rejected_response": {}}, "neither a string nor a list"),
        ("swift3", {"query": "q", "response": "p", "rejected_response": ["n"], "label": 1}, "has 2 texts, and this one 3"),
        ("swift3", {"messages": "hi", "response": "p"}, '"messages" is a string, not a list of'),
    ],
)  # fmt: skip
def test_a_row_of_another_form_is_refused_with_its_place(files, refusal, form, row, sentence):
    [problem] = refusal(files.lines("a.jsonl", row), form=form)
    assert problem.message.startswith(f"not-convertible: this is no {form} row: ")
    assert sentence in problem.message
    assert problem.where.line == 1


def test_every_bad_row_is_named_or_counted(files, refusal):
    [problem] = refusal(files.raw("a.csv", "a,b\n" + "1\n" * 25))
    assert problem.where.line == 2
    assert problem.message.endswith("(also lines 3, 4, 5, 6, 7 and 19 more)")
    problems = refusal(files.raw("b.csv", "a,b\n" + "".join("1," * (2 + number) + "\n" for number in range(25))))
    assert [problem.where.line for problem in problems[:20]] == list(range(2, 22))
    assert problems[-1].message == "and 5 more bad rows; in all: wrong-field-count 25"


def test_bad_rows_up_to_the_limit_are_left_out_and_counted(files):
    path = files.raw("a.jsonl", '{"a": 1}\nnope\n[1]\n{"a": "\\ud800"}\n')
    report = convert_files([path], files.folder / "b.jsonl", Conversion(), max_dropped=3)
    assert (report.rows_in, report.rows_out) == (4, 1)
    assert report.dropped == {"lone-surrogate": 1, "not-an-object": 1, "not-json": 1}


# Ranking data in other forms; what becomes of one query is in test_reshape.py


def point(query, content, label=0, **more):
    return {"query": query, "content": content, "label": label, **more}


def test_rows_of_a_query_come_together_from_all_over_the_files_in_the_order_of_their_first(files, convert):
    one = files.lines("1.jsonl", point("b", "1"), point("a", "2"), point("b", "3", 1))
    two = files.lines("2.jsonl", point("c", "4"), point("a", "5", 1), point("b", "6"))
    rows = convert(one, two, reshaping=Reshaping("hits"))
    assert [(row["query"], [hit["content"] for hit in row["hits"]]) for row in rows] == [
        *(("b", ["1", "3", "6"]), ("a", ["2", "5"]), ("c", ["4"])),
    ]


def test_rows_of_different_forms_come_together(files, convert):
    path = files.lines("a.jsonl", {"query": "q", "pos": ["a"], "neg": ["b"]}, point("q", "c", 0.5), point("Q", "a", 1))
    assert convert(path, reshaping=Reshaping("pointwise")) == [
        *(point("q", "a", 1), point("q", "b"), point("q", "c", 0.5), point("Q", "a", 1)),
    ]


def test_queries_that_are_spelt_differently_stay_apart(files, convert):
    path = files.lines("a.jsonl", point("Q", "a"), point("q", "b"), point("q ", "c"))
    assert [row["query"] for row in convert(path, reshaping=Reshaping("hits"))] == ["Q", "q", "q "]


def test_columns_are_renamed_and_numbers_of_a_table_read_before_rows_are_reshaped(files, convert):
    path = files.raw("a.csv", "query,passage,grade\nq,a,2\nq,b,0\n")
    columns = (("content", "passage"), ("label", "grade"))
    [row] = convert(path, columns=columns, reshaping=Reshaping("ranking", relevant_from=1, labels_as_scores=True))
    assert row == {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [2], "neg_scores": [0]}


def test_hits_of_a_table_are_read_as_a_list(files, convert):
    path = files.raw("a.tsv", 'query\thits\nq\t"[{""content"": ""a"", ""label"": 1}]"\n')
    assert convert(path, reshaping=Reshaping("pointwise")) == [point("q", "a", 1)]


def test_rows_of_swift_3_are_reshaped_after_they_are_read(files, convert):
    path = files.lines("a.jsonl", {"query": "q", "response": "a", "rejected_response": ["b"]})
    assert convert(path, form="swift3", reshaping=Reshaping("pointwise")) == [point("q", "a", 1), point("q", "b")]


def test_what_would_be_lost_is_refused_with_file_and_line_and_nothing_is_written(files, refusal):
    good, path = (
        files.lines("a.jsonl", point("q", "a", 1), point("q", "b")),
        files.lines("b.jsonl", {}, point("r", "c", 2)),
    )
    problems = refusal(good, path, max_dropped=1, reshaping=Reshaping("ranking"))
    assert [(str(problem.where), problem.message.split(":")[0]) for problem in problems] == [
        (f"{path}:2", "would-be-lost")
    ]
    assert problems[0].hint.startswith("--relevant-from L ")


def test_two_labels_of_one_document_are_refused_with_both_places(files, refusal):
    one, two = files.lines("1.jsonl", point("q", "a", 1)), files.lines("2.jsonl", point("q", "a", 0))
    [problem] = refusal(one, two, reshaping=Reshaping("hits"))
    assert problem.message.startswith("conflicting-judgements: ")
    assert problem.message.endswith("(the first in an earlier file)")
    assert str(problem.where) == f"{two}:1"


def test_the_first_queries_that_are_refused_are_shown_and_the_rest_counted(files, refusal):
    path = files.lines("a.jsonl", *(point(str(number), "a", 1) for number in range(25)))
    problems = refusal(path, reshaping=Reshaping("ranking"))
    assert [problem.where.line for problem in problems[:20]] == list(range(1, 21))
    assert problems[-1].message == "and 5 more queries; in all: would-be-lost 25"


def test_grades_do_not_stand_beside_the_1_and_0_of_ranking_rows(files, refusal, convert):
    path = files.lines("a.jsonl", point("q", "a", 2), {"query": "r", "pos": ["b"], "neg": ["c"]})
    [problem] = refusal(path, reshaping=Reshaping("pointwise"))
    assert "ranking rows say 1 and 0" in problem.message
    assert "--max-label" in problem.hint
    assert problem.where.line == 1
    assert len(convert(path, reshaping=Reshaping("pointwise", max_label=2))) == 3


def test_bad_rows_up_to_the_limit_are_left_out_of_what_is_reshaped(files):
    path = files.raw(
        "a.jsonl", json.dumps(point("q", "a")) + '\nnope\n{"query": "\\ud800", "content": "b", "label": 1}\n'
    )
    report = convert_files([path], files.folder / "b.jsonl", Conversion(reshaping=Reshaping("hits")), max_dropped=2)
    assert report.dropped == {"lone-surrogate": 1, "not-json": 1}
    assert (report.rows_in, report.rows_out) == (3, 1)


@pytest.mark.parametrize("to", [None, "pointwise", "hits", "ranking"])
def test_a_value_that_is_nested_too_deeply_is_a_bad_row_wherever_that_shows(files, to):
    deep = (
        '{"query": "q", "pos": ["a"], "neg": ["b"], "x": ' + "[" * depth + "]" * depth + "}"
        for depth in range(900, 1000)
    )
    good = '{"query": "r", "pos": ["a"], "neg": ["b"]}'
    path = files.raw(
        "a.jsonl",
        "".join(f"{line}\n" for line in (good, *(row.replace('"q"', f'"{n}"') for n, row in enumerate(deep)))),
    )
    conversion = Conversion(reshaping=Reshaping(to) if to else None)
    report = convert_files([path], files.folder / "b.jsonl", conversion, max_dropped=100)
    assert set(report.dropped) <= {"not-json"}


def test_what_is_left_out_or_said_twice_is_counted(files):
    rows = point("q", "a", 1), point("q", "a", 1), point("q", "b"), point("r", "c")
    conversion = Conversion(reshaping=Reshaping("ranking", drop_queries_without_both=True))
    report = convert_files([files.lines("a.jsonl", *rows)], files.folder / "b.jsonl", conversion)
    found = report.regrouped
    assert (report.rows_out, found.queries, found.queries_dropped, found.repeated) == (1, 1, 1, 1)


def test_no_file_is_written_when_no_query_is_left(files, refusal):
    path = files.lines("a.jsonl", point("q", "a"))
    [problem] = refusal(path, reshaping=Reshaping("ranking", drop_queries_without_both=True))
    assert problem.message.startswith("no-rows-kept: ")


def test_texts_wait_on_disk_and_not_in_memory(files):
    rows = (point(f"q{number % 20}", f"{number} " + "x" * 500_000) for number in range(40))
    path = files.lines("a.jsonl", *rows)
    tracemalloc.start()
    convert_files([path], files.folder / "b.jsonl", Conversion(reshaping=Reshaping("hits")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2


def run(*argv):
    return CliRunner().invoke(data_command, ["convert", *map(str, argv)], catch_exceptions=False)


def test_the_command_reshapes_and_says_what_it_left_out(files):
    path = files.lines("a.jsonl", point("q", "a", 3), point("q", "b", 1), point("q", "b", 1), point("r", "c", 1))
    out = files.folder / "b.jsonl"
    options = ("--relevant-from", 2, "--labels-as-scores", "--drop-queries-without-both", "--max-label", 4)
    done = run(path, "-o", out, "--to", "ranking", *options)
    assert done.output.splitlines() == [
        f"{out}: 4 rows in, 1 rows out",
        "1 queries, 1 left out without a positive or a negative; 1 repeated documents written once",
    ]
    assert json.loads(out.read_text()) == {
        "query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [0.75], "neg_scores": [0.25],
    }  # fmt: skip


def test_the_command_counts_queries_for_programs(files):
    path = files.lines("a.jsonl", point("q", "a", 1), point("q", "a", 1))
    data = json.loads(run(path, "-o", files.folder / "b.jsonl", "--to", "hits", "--json").output)["data"]
    assert data["rows"] == {"in": 2, "out": 1, "dropped": {}}
    assert (data["queries"], data["documents"]) == ({"out": 1, "dropped": 0}, {"repeated": 1})


def test_the_command_ends_with_3_where_something_would_be_lost(files, capsys):
    path = files.lines("a.jsonl", point("q", "a", 0.5))
    with pytest.raises(SystemExit) as caught:
        main(["data", "convert", str(path), "-o", str(files.folder / "b.jsonl"), "--to", "ranking"])
    assert caught.value.code == 3
    assert f"{path}:1: would-be-lost: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--relevant-from", "1"], "it needs --to pointwise, hits or ranking"),
        (["--max-label", "2"], "it needs --to pointwise, hits or ranking"),
        (["--drop-keys"], "it needs --to pointwise, hits or ranking"),
        (["--to", "hits", "--labels-as-scores"], "it needs --to ranking, and this is --to hits"),
        (["--to", "hits", "--min-label", "1"], "--max-label, which is missing"),
        (["--to", "hits", "--min-label", "2", "--max-label", "2"], "it must lie above --min-label"),
        (["--to", "ranking", "--one-positive"], "convert twice"),
        (["--to", "hits", "--divide-score", "5"], "use --max-label"),
    ],
)
def test_an_option_without_a_meaning_for_the_form_is_refused(files, options, sentence):
    done = run(files.lines("a.jsonl", point("q", "a")), "-o", files.folder / "b.jsonl", *options)
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("form", "row", "why"),
    [
        (
            "swift3",
            {"query": "a", "response": "b", "rejected_messages": 5},
            '"rejected_messages" is neither a string nor a list',
        ),
        (
            "swift3",
            {"query": "a", "response": "b", "negative_messages": True},
            '"negative_messages" is neither a string nor a list',
        ),
        ("swift3", {"query": "a", "positive_messages": 5}, '"positive_messages" is neither a string nor a list'),
        ("swift3", {"query": "a", "response": {"b": 1}}, '"response" is neither a string nor a list'),
        ("alpaca", {"instruction": "a", "output": "b", "history": 5}, '"history" is not a list'),
        ("alpaca", {"instruction": "a", "output": "b", "history": {"c": "d"}}, '"history" is not a list'),
    ],
)
def test_a_value_of_another_type_is_the_row_s_fault(form, row, why):
    with pytest.raises(BadRowError) as error:
        convert_row(form, row)
    assert (error.value.fault.code, why in error.value.fault.message) == ("not-convertible", True)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"query": "q", "content": "d", "label": "1.0"}, "labelled"),
        ({"query": "q", "content": "d", "label": True}, "labelled"),
        ({"query": "q", "hits": [{"content": "d", "label": "0.5", "score": "7"}]}, "labelled"),
        ({"sentence1": "a", "sentence2": "b", "score": "0.8"}, "pair"),
        ({"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": ["2"], "neg_scores": ["-1"]}, "group"),
    ],
)
def test_labels_and_scores_that_stand_there_as_text_become_numbers(files, orch, row, kind):
    path, out = files.lines("text.jsonl", row), files.folder / "new.jsonl"
    code, said = orch("data", "check", path, "--kind", kind)
    assert code == 3
    if "pos" not in row and "hits" not in row:
        assert "orch data convert FILE -o NEW.jsonl writes it as a number" in said
    assert orch("data", "convert", path, "-o", out)[0] == 0
    assert orch("data", "check", out, "--kind", kind)[0] == 0


def test_a_label_that_is_no_number_stays_as_it_is_and_is_not_promised_to_become_one(files, orch):
    path = files.lines("text.jsonl", {"query": "q", "content": "d", "label": "relevant"})
    code, said = orch("data", "check", path, "--kind", "labelled")
    assert (code, "writes it as a number" in said) == (3, False)


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"query": "q", "response": "p", "rejected_response": ["n"]}, ()),
        ({"messages": [{"role": "user", "content": "q"}], "positive_messages": ["p"], "negative_messages": []}, ()),
        ({"query": "q", "response": "p", "label": 1}, ("--map", "content=response")),
    ],
)
def test_swift_s_rows_become_ranking_data_or_are_told_what_reads_them(files, orch, row, options):
    path, out = files.lines("swift.jsonl", row), files.folder / "new.jsonl"
    if options:
        code, said = orch("data", "convert", path, "--to", "hits", "-o", out)
        assert (code, " ".join(options) in said) == (3, True)
    assert orch("data", "convert", path, "--to", "hits", *options, "-o", out)[0] == 0
    assert json.loads(out.read_text())["hits"][0] == {"content": "p", "label": 1}


def test_a_row_that_became_several_is_taken_whole_or_not_at_all(tmp_path):
    with (tmp_path / "spool").open("w+b") as spool, (tmp_path / "out").open("w+b") as stream:
        regrouping = Regrouping(Reshaping("hits"), spool)
        good, bad = {"query": "q", "pos": ["a"], "neg": ["b"]}, {"query": "q", "pos": "c"}
        with pytest.raises(BadRowError):
            regrouping.take([good, bad], tmp_path, 1)
        assert regrouping.write(stream).rows == 0
