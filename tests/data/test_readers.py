from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.data.reading.readers import Source
from orchestrator.errors import DataError, OrchError

relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path, **options):
    return list(Source(path, **options).rows())


def refusal(path, **options):
    with pytest.raises(DataError) as caught:
        read(path, **options)
    return caught.value.problems[0]


def test_json_lines_give_values_with_their_lines(files):
    rows = read(files.raw("a.jsonl", '{"a": 1}\n{"a": 2}\n'))
    assert [(row.line, row.value) for row in rows] == [(1, {"a": 1}), (2, {"a": 2})]


def test_empty_lines_are_skipped_and_counted_as_lines(files):
    assert [row.line for row in read(files.raw("a.jsonl", "\n{}\n  \n\n{}\n\n"))] == [2, 5]


def test_a_missing_last_newline_loses_no_row(files):
    assert len(read(files.raw("a.jsonl", "{}\n{}"))) == 2


def test_a_byte_order_mark_and_crlf_change_nothing(files):
    rows = read(files.raw("a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n'))
    assert [row.value for row in rows] == [{"a": 1}, {"a": 2}]


def test_a_byte_order_mark_where_files_were_joined_is_skipped(files):
    assert [row.value for row in read(files.raw("a.jsonl", b"{}\n\xef\xbb\xbf{}\n"))] == [{}, {}]


def test_unicode_line_separators_inside_a_text_do_not_end_the_line(files):
    rows = read(files.raw("a.jsonl", '{"a": "x\u2028y\x85z"}\n{}\n'))
    assert [row.line for row in rows] == [1, 2]


def test_a_list_gives_values_with_the_lines_where_they_begin(files):
    rows = read(files.raw("a.json", '[\n  {"a":\n 1},\n\n  {"a": 2}\n]\n'))
    assert [(row.line, row.value) for row in rows] == [(2, {"a": 1}), (5, {"a": 2})]


def test_json_lines_in_a_json_file_are_read_as_such(files):
    source = Source(files.raw("a.json", "{}\n{}\n"))
    assert len(list(source.rows())) == 2
    assert source.has_other_form


def test_a_list_in_a_jsonl_file_is_read_as_such(files):
    source = Source(files.raw("a.jsonl", "[{}, {}]"))
    assert len(list(source.rows())) == 2
    assert source.has_other_form


@pytest.mark.parametrize(("name", "text"), [("a.json", "[{}]"), ("a.jsonl", "{}")])
def test_a_file_that_is_what_its_name_says_is_not_remarked_on(files, name, text):
    source = Source(files.raw(name, text))
    list(source.rows())
    assert not source.has_other_form


def test_a_given_ending_stands_in_for_that_of_the_name(files):
    source = Source(files.raw("rows.txt", "a,b\n1,2\n"), ending=".csv")
    assert [row.value for row in source.rows()] == [{"a": "1", "b": "2"}]


def test_parquet_in_a_jsonl_file_is_refused_as_ever(files):
    problem = refusal(files.raw("a.jsonl", b"PAR1\x15\x04"))
    assert problem.message == "compressed: the file is Parquet, not text"
    assert problem.hint.startswith("rename it: mv ")


def test_the_hash_is_of_all_bytes(files):
    path = files.raw("a.jsonl", b"\xef\xbb\xbf{}\r\n\r\n")
    source = Source(path)
    list(source.rows())
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_sizes_told_add_up_to_the_file(files):
    path = files.raw("a.jsonl", b"{}\n" * 1000)
    sizes: list[int] = []
    read(path, on_bytes=sizes.append, chunk_bytes=64)
    assert sum(sizes) == path.stat().st_size


@relaxed
@given(
    st.lists(
        st.recursive(st.none() | st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False), st.lists)
    ),
    st.integers(8, 40),
)
def test_a_list_read_in_small_chunks_is_the_list(files, values, chunk_bytes):
    path = files.raw("a.json", json.dumps(values, indent=1, ensure_ascii=False).encode("utf-8", "replace"))
    expected = json.loads(path.read_bytes())
    try:
        assert [row.value for row in read(path, chunk_bytes=chunk_bytes)] == expected
    except DataError as error:
        assert error.problems[0].message.startswith("empty-file")  # noqa: PT017
        assert not expected


@relaxed
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), st.integers(8, 40))
def test_lines_read_in_small_chunks_are_the_lines(files, values, chunk_bytes):
    path = files.lines("a.jsonl", *values)
    assert [row.value for row in read(path, chunk_bytes=chunk_bytes)] == values


def test_a_number_at_the_end_of_a_chunk_is_read_to_its_end(files):
    text = "[1, 22, 123456789, -2500.0, 1.5e+10, 5]"
    for chunk_bytes in range(8, 40):
        assert [row.value for row in read(files.raw("a.json", text), chunk_bytes=chunk_bytes)] == json.loads(text)


def test_a_row_of_a_list_keeps_its_own_text(files):
    rows = read(files.raw("a.json", '[{"a" :  "é"},{}]'))
    assert [row.raw for row in rows] == ['{"a" :  "é"}'.encode(), b"{}"]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('[{"a": 1}\n {"a": 2}]', 2, 2),
        ('[{"a": 1},\n', 2, 1),
        ('[{"a": 1},\n {"a": ', 2, 8),
        ('[\n{"a": 1},\n{"a" 1}]', 3, 6),
        ("[{}]\n{}", 2, 1),
        ("[{},]", 1, 5),
        ("[" * 100_000, 1, 2),
        ("[" + "1" * 5000 + "]", 1, 2),
    ],
)
def test_a_broken_list_is_refused_with_line_and_column(files, text, line, column):
    path = files.raw("a.json", text)
    problem = refusal(path)
    assert problem.message.startswith("broken-list: ")
    assert (problem.where.path, problem.where.line, problem.where.column) == (str(path), line, column)


def test_a_deeply_nested_line_is_that_lines_fault(files):
    rows = read(files.raw("a.jsonl", "{}\n" + '{"a":' * 100_000 + "\n{}\n"))
    assert [(row.line, row.fault.code if row.fault else None) for row in rows] == [
        (1, None),
        (2, "not-json"),
        (3, None),
    ]


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_that_is_not_json_is_named(files, constant):
    [row] = read(files.raw("a.jsonl", f'{{"a": [{constant}]}}'))
    assert row.fault
    assert row.fault.message == f"{constant} is not JSON"


def test_a_row_after_a_faulty_row_is_read_afresh(files):
    rows = read(files.raw("a.jsonl", '{"a": NaN}\n{"a": 1, "a": 2}\n{"a": 1}\n'))
    assert [row.fault.code if row.fault else None for row in rows] == ["not-json", "duplicate-key", None]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{'query': 'q'}", "JSON needs double quotes: write rows with json.dumps, not str"),
        ('{\n{"query": "q"}\n}', "write each row on one line, or all rows as a JSON list"),
    ],
)
def test_a_line_that_is_not_json_comes_with_a_remedy_that_fits(files, text, hint):
    row = read(files.raw("a.jsonl", text))[0]
    assert row.fault
    assert row.fault.hint == hint


def test_bad_utf_8_is_refused_with_its_line_in_lines_and_lists(files):
    for name, data in (("a.jsonl", b'{}\n{}\n"\xff"\n'), ("a.json", b'[{},\n{},\n"\xff"]')):
        problem = refusal(files.raw(name, data))
        assert problem.message.startswith("bad-utf-8: ")
        assert problem.where.line == 3


def test_bad_utf_8_late_in_a_list_is_refused_with_its_line(files):
    data = b"[" + b'{"a": "b"},\n' * 100 + b'"\xff"]'
    assert refusal(files.raw("a.json", data), chunk_bytes=64).where.line == 101


def test_a_nul_byte_is_refused_with_its_line(files):
    data = b'{"a": "b"}\n' * 100 + b'{"a": "\0"}\n'
    problem = refusal(files.raw("a.jsonl", data), chunk_bytes=64)
    assert problem.message.startswith("nul-byte: ")
    assert problem.where.line == 101


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_and_utf_32_are_refused_with_the_command_that_converts(files, encoding):
    problem = refusal(files.raw("a.jsonl", '{"query": "q"}'.encode(encoding)))
    assert problem.message.startswith("utf-16: ")
    assert "data.encoding: UTF-" in problem.hint


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_a_compressed_file_is_read_as_what_is_in_it_and_hashed_as_it_is(files, ending, pack):
    rows = b'{"query": "q1"}\n{"query": "q2"}\n'
    for name in (f"a.jsonl.{ending}", "a.jsonl"):
        source = Source(files.raw(name, pack(rows)))
        assert [row.value["query"] for row in source.rows()] == ["q1", "q2"]
        assert source.sha256 == hashlib.sha256(pack(rows)).hexdigest()
    table = list(Source(files.raw(f"a.csv.{ending}", pack(b"query,pos\nq,p\n"))).rows())
    assert table[0].value == {"query": "q", "pos": "p"}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_damaged_archive_is_refused(files, pack):
    data = pack(b'{"query": "q"}\n' * 500)
    assert refusal(files.raw("a.jsonl.gz", data[: len(data) // 2])).message.startswith("compressed: ")


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n \r\n\n"])
def test_a_file_without_rows_is_refused(files, data):
    assert refusal(files.raw("a.jsonl", data)).message.startswith("empty-file: ")


def test_an_empty_list_is_refused(files):
    assert refusal(files.raw("a.json", b" [ ] ")).message.startswith("empty-file: ")


def test_a_missing_file_is_refused_with_what_the_folder_holds(files):
    files.raw("trian.jsonl", "{}")
    problem = refusal(files.folder / "train.jsonl")
    assert problem.message.startswith("file-not-found: ")
    assert "trian.jsonl" in problem.hint


def test_a_folder_is_refused(files):
    assert refusal(files.folder).message == "not-a-file: this is a folder"


def test_a_pipe_is_refused_and_not_waited_for(files):
    os.mkfifo(files.folder / "a.jsonl")
    assert refusal(files.folder / "a.jsonl").message.startswith("not-a-file: ")


def test_a_path_that_the_system_cannot_use_is_refused(files):
    assert refusal(files.folder / ("a" * 300 + ".jsonl")).message.startswith("not-readable: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_refused(files):
    path = files.raw("a.jsonl", "{}")
    path.chmod(0)
    assert refusal(path).message.startswith("not-readable: ")


@pytest.mark.parametrize("name", ["a.xls", "a.txt.gz", "rows"])
def test_an_unknown_ending_is_refused(files, name):
    assert refusal(files.raw(name, "{}")).message.startswith("unknown-ending: ")


@relaxed
@given(
    st.binary(max_size=200),
    st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv"]),
    st.sampled_from([b"", b"[", b'{"a":', b"[1,", b"a,b\n", b'a\n"']),
)
def test_arbitrary_bytes_give_rows_or_an_error_of_ours(files, data, name, start):
    with contextlib.suppress(OrchError):
        read(files.raw(name, start + data), chunk_bytes=16)
