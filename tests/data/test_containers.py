"""Files in other containers, forms and encodings are read, or named with a command that makes a readable one."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from orchestrator.data.check import check_files
from orchestrator.data.reading import json_rows, tabular
from orchestrator.data.reading.readers import Source, guess_encoding
from orchestrator.errors import DataError, Problem

ROWS = [{"query": f"which bird {number}", "pos": ["a falcon"], "neg": ["a car"]} for number in range(3)]
CHINESE = "如何保养水壶？用醋煮沸以后冲洗干净，再擦干保存。"


def refusal(path: Path, **options: object) -> Problem:
    with pytest.raises(DataError) as error:
        list(Source(path, **options).rows())
    [problem] = error.value.problems
    return problem


def values(path: Path) -> list[object]:
    return [row.value for row in Source(path).rows()]


def run(command: str, folder: Path) -> None:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_rows_that_span_lines_are_rows(files):
    path = files.raw("a.jsonl", "\n".join(json.dumps(row, indent=2) for row in ROWS))
    assert values(path) == ROWS
    assert [row.line for row in Source(path).rows()] == [1, 10, 19]
    assert values(files.raw("b.json", json.dumps(ROWS[0], indent=2))) == ROWS[:1]


def test_rows_that_span_lines_are_split_onto_lines(files, orch):
    path = files.raw("a.jsonl", "\n".join(json.dumps(row, indent=2) for row in ROWS))
    assert orch("data", "split", path, "--eval-ratio", "0.4", "-o", files.folder / "out")[0] == 0
    parts = [values(files.folder / "out" / f"a.{side}.jsonl") for side in ("train", "eval")]
    assert sorted(map(json.dumps, parts[0] + parts[1])) == sorted(map(json.dumps, ROWS))


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_inside_one_object_are_named_with_the_command_that_takes_them(files, orch, indent):
    path = files.raw("a.json", json.dumps({"corpus": {"path": "x"}, "data": ROWS}, indent=indent))
    error = refusal(path)
    assert error.message.startswith("wrapped-rows: ")
    argv = [word.replace("a.rows.jsonl", str(files.folder / "new.jsonl")) for word in shlex.split(error.hint)]
    assert orch(*argv[1:])[0] == 0
    assert values(files.folder / "new.jsonl") == ROWS
    code, said = orch("data", "convert", path, "--rows", "dat", "-o", files.folder / "other.jsonl")
    assert (code, "the lists of objects are data" in said) == (3, True)


def test_one_row_alone_is_not_taken_for_a_wrapper(files):
    hits = {"query": "q", "hits": [{"content": "a", "label": 1}]}
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    for row in (hits, chat):
        assert values(files.raw("a.json", json.dumps(row))) == [row]


@pytest.mark.parametrize(
    ("row", "kind", "wanted"),
    [
        (["which bird?", "a falcon", 1.0], "pair", "group"),
        (["which bird?", "a falcon"], "group", "pair"),
        (["which bird?", "a falcon", "a car"], "group", "chat"),
        (["which bird?", ["a falcon"], ["a car"]], "group", "chat"),
        ([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "chat", "group"),
    ],
)
def test_rows_that_are_lists_are_read_where_one_kind_fits_and_get_names_by_the_command_elsewhere(
    files, orch, row, kind, wanted
):
    path = files.lines("a.jsonl", row, [*row[:-1], row[-1]])
    assert orch("data", "check", path)[0] == orch("data", "check", path, "--kind", kind)[0] == 0
    code, said = orch("data", "check", path, "--kind", wanted)
    assert code == 3
    given = shlex.split(re.search(r"orch data convert FILE (--names \S+)", said)[1])
    out = files.folder / "new.jsonl"
    assert orch("data", "convert", path, *given, "-o", out)[0] == 0
    assert orch("data", "check", out, "--kind", kind)[0] == 0
    code, said = orch("data", "convert", path, "--names", "a,b,c,d,e", "-o", files.folder / "o.jsonl")
    assert (code, "5 names were given" in said) == (3, True)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gbk", CHINESE),
        ("gb18030", CHINESE + "㐀"),
        ("utf-16", CHINESE),
        ("utf-16-le", "ascii first " + CHINESE),
        ("utf-16-be", "ascii first " + CHINESE),
        ("big5", "如何保養水壺？用醋煮沸以後沖洗乾淨，再擦乾保存，這樣就可以用很久。"),
        ("shift_jis", "やかんの手入れはどうすればいいですか。酢で沸かしてから洗って乾かします。"),
        ("cp1251", "Как ухаживать за чайником? Очистите его и держите сухим."),
    ],
)
def test_the_command_in_the_message_makes_utf_8_of_it(files, encoding, text):
    rows = "".join(json.dumps({"query": f"{text} {number}"}, ensure_ascii=False) + "\n" for number in range(20))
    path = files.raw("rows of mine.jsonl", rows.encode(encoding))
    error = refusal(path)
    command = error.hint.partition("iconv")[1:]
    run("".join(command), files.folder)
    assert values(files.folder / "rows of mine.utf8.jsonl") == [json.loads(line) for line in rows.splitlines()]


def test_a_table_in_gbk_is_named(files):
    path = files.raw("a.csv", f"查询,正文,标签\n{CHINESE},{CHINESE},1\n".encode("gbk"))
    error = refusal(path)
    assert "the file looks like GB18030" in error.message
    assert error.hint == f"iconv -f GB18030 -t UTF-8 {path} > {path.with_name('a.utf8.csv')}"


def test_one_stray_byte_is_not_taken_for_chinese():
    assert guess_encoding(b'{"query": "caf\xe9 au lait"}') is None


def test_an_archive_is_unpacked_by_the_command_in_the_message(files):
    path = files.lines("a.jsonl", *ROWS)
    with zipfile.ZipFile(files.folder / "a.zip", "w") as archive:
        archive.write(path, "inner.jsonl")
    for name in ("a.zip", "a.jsonl.zst"):
        tool = "unzip" if name.endswith("zip") else "unzstd"
        if shutil.which(tool) is None or (tool == "unzstd" and shutil.which("zstd") is None):
            continue
        if tool == "unzstd":
            run("zstd -q a.jsonl && rm a.jsonl", files.folder)
        error = refusal(files.folder / name)
        run(error.hint.removeprefix("unpack it: "), files.folder)
    assert values(files.folder / "inner.jsonl") == ROWS


def test_a_file_under_the_name_of_another_form_is_renamed_by_the_command(files):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), files.folder / "a.jsonl")
    run(refusal(files.folder / "a.jsonl").hint.removeprefix("rename it: "), files.folder)
    assert values(files.folder / "a.parquet") == ROWS


@pytest.mark.parametrize(
    ("text", "says"),
    [("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"), ("<!DOCTYPE html>", "web page")],
)
def test_what_was_downloaded_in_place_of_data_is_named(files, orch, text, says):
    path = files.folder / "rows.jsonl"
    path.write_text(text)
    code, said = orch("data", "check", path)
    assert (code, says in said) == (3, True)


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_files_are_read(files, kind):
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(ROWS)
    new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream  # the datasets library writes streams
    with new(str(files.folder / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert values(files.folder / "a.arrow") == ROWS
    assert check_files([files.folder / "a.arrow"]).ok


def test_a_compressed_file_is_split_into_plain_ones(files, orch):
    import gzip

    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    path = files.raw("a.jsonl.gz", gzip.compress(text.encode()))
    assert orch("data", "check", path)[0] == 0
    assert orch("data", "split", path, "--eval-ratio", "0.4", "-o", files.folder)[0] == 0
    assert {row["query"] for side in ("train", "eval") for row in values(files.folder / f"a.{side}.jsonl")} == {
        row["query"] for row in ROWS
    }


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "b.json", "a.csv", "a.parquet"])
def test_a_row_that_is_too_large_is_refused_and_not_held_in_memory(files, monkeypatch, name):
    monkeypatch.setattr(json_rows, "LONGEST_ROW", 5000)
    monkeypatch.setattr(tabular, "LONGEST_ROW", 5000)
    monkeypatch.setattr(tabular, "_LONGEST_FIELD", 5000)
    text = "x" * 20000
    if name == "a.parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist([{"query": "q"}] * 50 + [{"query": text}]), files.folder / name)
        path = files.folder / name
    elif name == "a.csv":
        path = files.raw(name, f"query,pos\nq,{text}\n")
    else:
        row = json.dumps({"query": text})
        path = files.raw(name, f"[{row}]" if name == "b.json" else row)
    error = refusal(path, chunk_bytes=1024)
    assert error.message.startswith("row-too-large: the row takes more than")
    if name == "a.parquet":
        assert error.where.line == 51


def test_one_cell_that_fills_the_memory_is_refused_before_it_is_unpacked(files):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = files.folder / "bomb.parquet"
    pq.write_table(pa.Table.from_pylist([{"query": "x" * (json_rows.LONGEST_ROW + 1)}]), path, use_dictionary=False)
    assert path.stat().st_size < 10_000_000
    assert refusal(path).message.startswith("row-too-large")
