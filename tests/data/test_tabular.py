from __future__ import annotations

import builtins
import csv
import datetime as dt
import hashlib
import io
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.data.reading.readers import Source
from orchestrator.data.reasons import REASONS
from orchestrator.errors import DataError

relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path):
    return list(Source(path).rows())


def values(path):
    return [row.value for row in read(path)]


def refusal(path):
    with pytest.raises(DataError) as caught:
        read(path)
    [problem] = caught.value.problems
    assert problem.message.partition(":")[0] in REASONS
    assert problem.hint
    return problem


def test_a_csv_gives_strings_under_its_headers_names(files):
    path = files.raw("a.csv", "sentence1,sentence2, score\na,b,0.5\r\nc,,\n")
    assert values(path) == [
        {"sentence1": "a", "sentence2": "b", "score": "0.5"},
        {"sentence1": "c", "sentence2": "", "score": ""},
    ]


def test_a_quoted_field_may_hold_commas_quotes_and_line_breaks(files):
    path = files.raw("a.csv", 'a,b\n"x, ""y""\r\nz",1\n2,"3\n\n4"\n5,6')
    rows = read(path)
    assert [row.value for row in rows] == [
        {"a": 'x, "y"\r\nz', "b": "1"},
        {"a": "2", "b": "3\n\n4"},
        {"a": "5", "b": "6"},
    ]
    assert [row.line for row in rows] == [2, 4, 7]
    assert rows[1].raw == b'2,"3\n\n4"'


def test_a_byte_order_mark_and_empty_lines_change_nothing(files):
    rows = read(files.raw("a.csv", b"\xef\xbb\xbf\r\na,b\r\n\r\n1,2\r\n  \n3,4"))
    assert [(row.line, row.value["a"]) for row in rows] == [(4, "1"), (6, "3")]


def test_a_tsv_is_separated_by_tabs(files):
    assert values(files.raw("a.tsv", "a\tb\n1,5\t2\n")) == [{"a": "1,5", "b": "2"}]


def test_one_column_is_a_table_too(files):
    assert values(files.raw("a.csv", "text\none\ntwo\n")) == [{"text": "one"}, {"text": "two"}]


def test_a_field_longer_than_the_modules_default_limit_is_read(files):
    long = "word " * 100_000
    assert values(files.raw("a.csv", f"a,b\n{long},1\n"))[0]["a"] == long


def test_a_cell_of_a_list_column_that_is_json_becomes_a_list(files):
    header = "query,pos,neg,rejected_response,output"
    row = ["q [1]", '["a", "b"]', "[not json", "one answer", "[1, 2]"]
    text = io.StringIO()
    csv.writer(text).writerow(row)
    [value] = values(files.raw("a.csv", f"{header}\n{text.getvalue()}"))
    assert value == {
        "query": "q [1]",
        "pos": ["a", "b"],
        "neg": "[not json",
        "rejected_response": "one answer",
        "output": "[1, 2]",
    }


def test_a_csv_says_nothing_about_another_form_and_hashes_all_bytes(files):
    path = files.raw("a.csv", b"\xef\xbb\xbfa\n1\n\n2\n")
    sizes: list[int] = []
    source = Source(path, on_bytes=sizes.append)
    assert len(list(source.rows())) == source.rows_in == 2
    assert (source.holds_list, source.has_other_form) == (False, False)
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sum(sizes) == path.stat().st_size


@pytest.mark.parametrize("row", ["1", "1,2,3", '"1,2"'])
def test_a_row_with_too_many_or_too_few_fields_is_bad_at_the_line_where_it_begins(files, row):
    rows = read(files.raw("a.csv", f'a,b\n"x\ny",1\n{row}\n3,4\n'))
    assert [row.line for row in rows] == [2, 4, 5]
    assert [row.fault.code if row.fault else None for row in rows] == [None, "wrong-field-count", None]


# the file's name and contents, the code, the line
UNUSABLE = {
    "a_semicolon_between_names": ("a.csv", b"a;b;c\n1;2;3\n", "wrong-separator", 1),
    "tabs_in_a_csv": ("a.csv", b"a\tb\n1\t2\n", "wrong-separator", 1),
    "commas_in_a_tsv": ("a.tsv", b"a,b\n1,2\n", "wrong-separator", 1),
    "a_name_twice": ("a.csv", b"\na,b,a\n1,2,3\n", "bad-header", 2),
    "an_empty_name": ("a.csv", b",a\n0,x\n", "bad-header", 1),
    "no_header": ("a.csv", b"a man plays,a man sings,0.4\n", "bad-header", 1),
    "json_lines": ("a.csv", b'{"a": 1, "b": 2}\n', "bad-header", 1),
    "an_open_quote": ("a.csv", b'a,b\n1,2\n3,"4\n5,6\n', "broken-csv", 3),
    "text_after_a_quote": ("a.csv", b'a,b\n1,2\n"x "y" z",4\n', "broken-csv", 3),
    "old_line_ends": ("a.csv", b"a,b\r1,2\r", "broken-csv", 1),
    "a_nul": ("a.csv", b"a,b\n1,2\n3,\0\n", "nul-byte", 3),
    "latin_1": ("a.csv", b"a,b\n1,caf\xe9\n", "bad-utf-8", 2),
    "utf_16": ("a.csv", "a,b\n1,2\n".encode("utf-16"), "utf-16", 1),
    "a_zip": ("a.csv", b"PK\x03\x04 an xlsx", "compressed", 1),
    "only_a_header": ("a.csv", b"a,b\n", "empty-file", None),
    "no_parquet": ("a.parquet", b"a,b\n1,2\n", "broken-parquet", None),
    "cut_parquet": ("a.parquet", b"PAR1\x15\x04\x15", "broken-parquet", None),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_table_is_refused_with_its_line(files, case):
    name, data, code, line = UNUSABLE[case]
    path = files.raw(name, data)
    problem = refusal(path)
    assert problem.message.startswith(f"{code}: ")
    assert (problem.where.path, problem.where.line) == (str(path), line)


@relaxed
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=2, max_size=2),
        min_size=1,
    )
)
def test_what_the_csv_module_writes_is_read_back(files, rows):
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([["a", "b"], *rows])
    assert [list(value.values()) for value in values(files.raw("a.csv", text.getvalue()))] == rows


@pytest.fixture(name="parquet")
def _parquet(files):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def write(rows, schema=None, **options):
        path = files.folder / "a.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)
        return path

    return write


def test_parquet_rows_have_lists_and_objects_and_their_numbers(parquet):
    rows = [
        {"query": "q1", "pos": ["a", "b"], "messages": [{"role": "user", "content": "hi"}]},
        {"query": "q2", "pos": [], "messages": []},
    ]
    found = read(parquet(rows))
    assert [row.value for row in found] == rows
    assert [row.line for row in found] == [1, 2]


def test_nulls_and_nan_leave_their_key_out_at_any_depth(parquet):
    rows = [
        {"a": "x", "score": math.nan, "message": {"role": "user", "name": None}},
        {"a": None, "score": 0.5, "message": None},
    ]
    assert values(parquet(rows)) == [{"a": "x", "message": {"role": "user"}}, {"score": 0.5}]


def test_parquet_is_streamed_through_all_its_batches_and_hashed(parquet):
    path = parquet([{"number": number} for number in range(5000)], row_group_size=700)
    source = Source(path)
    assert [row.value["number"] for row in source.rows()] == list(range(5000))
    assert source.rows_in == 5000
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not source.has_other_form


def test_dates_and_decimals_become_what_json_has(parquet):
    from decimal import Decimal

    rows = [
        {
            "day": dt.date(2026, 1, 2),
            "at": dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC),
            "price": Decimal("1.50"),
            "text": b"caf\xc3\xa9",
        }
    ]
    [value] = values(parquet(rows))
    assert json.loads(json.dumps(value)) == {
        "day": "2026-01-02",
        "at": "2026-01-02T03:04:00+00:00",
        "price": 1.5,
        "text": "café",
    }


def test_bytes_that_are_no_text_make_a_row_bad(parquet):
    rows = read(parquet([{"image": b"\x89PNG\xff"}, {"image": b"ok"}]))
    assert [row.fault.code if row.fault else None for row in rows] == ["wrong-type", None]


def test_an_empty_parquet_file_is_refused(parquet):
    import pyarrow as pa

    assert refusal(parquet([], pa.schema([("a", pa.string())]))).message.startswith("empty-file: ")


def test_without_pyarrow_the_command_that_installs_it_is_named(parquet, monkeypatch):
    path = parquet([{"a": 1}])
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError("No module named 'pyarrow'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    problem = refusal(path)
    assert problem.message.startswith("needs-library: ")
    assert problem.hint == "pip install 'orch-finetune[tables]'"
