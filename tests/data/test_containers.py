"""Files in other containers, forms and encodings are read, or named with a command that makes a readable one."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from orchestrator.data.check import check_files
from orchestrator.data.mining import gather_for_mining
from orchestrator.data.reading import json_rows, tabular
from orchestrator.data.reading.packed import guess_encoding
from orchestrator.data.reading.readers import Source
from orchestrator.data.request import RowFiles
from orchestrator.data.rows.checks import RowRules
from orchestrator.data.teacher import write_pairs
from orchestrator.errors import DataError, Problem
from orchestrator.recipe.schema import require_encoding
from orchestrator.serving.evaluate_model import sniff_data

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
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, check=False, timeout=300)
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
def test_rows_in_the_one_list_of_an_object_are_rows_at_their_own_lines(files, orch, indent):
    path = files.raw("a.json", json.dumps({"corpus": {"path": "x"}, "data": ROWS, "n": [1]}, indent=indent))
    assert values(path) == ROWS
    assert [row.line for row in Source(path).rows()] == ([6, 15, 24] if indent else [1, 1, 1])
    assert check_files([path]).ok
    assert orch("data", "split", path, "--eval-ratio", "0.4", "-o", files.folder / "out")[0] == 0
    parts = [values(files.folder / "out" / f"a.{side}.json") for side in ("train", "eval")]
    assert sorted(map(json.dumps, parts[0] + parts[1])) == sorted(map(json.dumps, ROWS))


@pytest.mark.parametrize("indent", [None, 2])
def test_of_several_lists_in_one_object_the_command_takes_one(files, orch, indent):
    path = files.raw("a.json", json.dumps({"corpus": {"path": "x"}, "data": ROWS, "test": ROWS[:1]}, indent=indent))
    error = refusal(path)
    assert error.message.startswith("wrapped-rows: ")
    argv = [word.replace("a.rows.jsonl", str(files.folder / "new.jsonl")) for word in shlex.split(error.hint)]
    assert orch(*argv[1 : argv.index("or")])[0] == 0
    assert values(files.folder / "new.jsonl") == ROWS
    code, said = orch("data", "convert", path, "--rows", "dat", "-o", files.folder / "other.jsonl")
    assert (code, "the lists of objects are data, test" in said) == (3, True)


def test_one_row_alone_is_not_taken_for_a_wrapper(files):
    hits = {"query": "q", "hits": [{"content": "a", "label": 1}]}
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    judged = {"query": "q", "passages": [{"text": "a", "label": 1}]}
    for row in (hits, chat, judged):
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
def test_the_encoding_in_the_message_reads_it(files, encoding, text):
    rows = "".join(json.dumps({"query": f"{text} {number}"}, ensure_ascii=False) + "\n" for number in range(20))
    path = files.raw("rows of mine.jsonl", rows.encode(encoding))
    error = refusal(path)
    wanted = [json.loads(line) for line in rows.splitlines()]
    name = re.search(r"data\.encoding: (\S+) \(--encoding", error.hint)[1]
    assert require_encoding(name) == name
    for told in (name, "auto"):
        read = list(Source(path, encoding=told, chunk_bytes=33 if told != "auto" else 1 << 20).rows())
        assert [row.value for row in read] == wanted
        assert [row.line for row in read] == list(range(1, 21))


def test_a_table_in_gbk_is_named(files):
    path = files.raw("a.csv", f"查询,正文,标签\n{CHINESE},{CHINESE},1\n".encode("gbk"))
    error = refusal(path)
    assert "the file looks like GB18030" in error.message
    assert error.hint == "say data.encoding: GB18030 (--encoding GB18030), or save the file as UTF-8"


def test_every_verb_reads_another_encoding(files, orch, stage):
    rows = [{"query": f"{CHINESE}{number}", "pos": ["用醋"], "neg": ["用车"]} for number in range(20)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path, told = files.raw("a.jsonl", text.encode("gb18030")), ("--encoding", "gb18030")
    assert orch("data", "check", path)[0] == 3
    assert orch("data", "check", path, *told)[0] == 0
    assert orch("data", "split", path, *told, "-o", files.folder / "out")[0] == 0
    parts = [values(files.folder / "out" / f"a.{side}.jsonl") for side in ("train", "eval")]
    assert sorted(map(json.dumps, parts[0] + parts[1])) == sorted(map(json.dumps, rows))
    assert orch("data", "convert", path, "--to", "hits", *told, "-o", files.folder / "hits.jsonl")[0] == 0
    assert write_pairs(RowFiles((path,), RowRules(encoding="gb18030")), files.folder).pairs == 40
    assert gather_for_mining(RowFiles((path,), RowRules(encoding="gb18030")), files.folder).queries == 20
    assert sniff_data([path], {}, "gb18030") == "group"
    argv = ("--train", path, "--eval-ratio", 0.3, "--form", "flagembedding", "--encoding", "auto")
    assert stage(*argv) == 0
    assert "encoding-guessed: a.jsonl is not UTF-8: it was read as GB18030" in stage.stderr
    assert {row["query"] for row in stage.lines("train.jsonl")} < {row["query"] for row in rows}


def test_a_wrong_encoding_is_refused_with_its_line(files, orch):
    path = files.raw("a.jsonl", '{"query": "a"}\n{"query": "caf\xe9"}\n'.encode("latin-1"))
    error = refusal(path, encoding="ascii")
    assert (error.message, error.where.line) == ("bad-utf-8: a byte sequence is not ascii, as data.encoding says", 2)
    assert "for files of several encodings say auto" in error.hint
    assert orch("data", "check", path, "--encoding", "auto")[0] == 3  # read, and each row is refused as one
    code, said = orch("data", "check", path, "--encoding", "klingon")
    assert (code, "klingon is no encoding" in said) == (2, True)


def test_one_stray_byte_is_not_taken_for_chinese():
    assert guess_encoding(b'{"query": "caf\xe9 au lait"}') is None


def test_an_archive_is_unpacked_by_the_command_in_the_message(files):
    path = files.lines("a.jsonl", *ROWS)
    with zipfile.ZipFile(files.folder / "a.zip", "w") as archive:
        archive.write(path, "inner.jsonl")
    if shutil.which("unzip"):
        run(refusal(files.folder / "a.zip").hint.removeprefix("unpack it: "), files.folder)
        assert values(files.folder / "inner.jsonl") == ROWS


def test_zstandard_is_unpacked_frame_by_frame_and_one_that_is_cut_is_refused(files):
    zstandard = pytest.importorskip("zstandard")
    text = "".join(json.dumps(row) + "\n" for row in ROWS * 400).encode()
    pack = zstandard.ZstdCompressor().compress
    path = files.raw("a.jsonl.zst", pack(text[:900]) + pack(text[900:]))
    assert values(path) == ROWS * 400
    assert check_files([path]).ledger.sides["train"].kept == 3
    for damaged in (path.read_bytes()[:-7], path.read_bytes()[:-50] + bytes(50)):
        assert refusal(files.raw("b.jsonl.zst", damaged)).message.startswith("compressed: the compressed data are")


def sheet(rows):
    """Return one sheet as Excel writes it: a list of rows with texts and numbers."""
    cells = ""
    for number, row in enumerate(rows, 1):
        found = ""
        for column, cell in zip("ABCDEFG", row, strict=False):
            if isinstance(cell, str):
                text = cell.replace("&", "&amp;").replace("<", "&lt;")
                found += f'<c r="{column}{number}" t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'
            elif cell is not None:
                found += f'<c r="{column}{number}"><v>{cell}</v></c>'
        cells += f'<row r="{number}">{found}</row>'
    return f'<worksheet xmlns="{MAIN}"><sheetData>{cells}</sheetData></worksheet>'


MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def write_book(path, *sheets):
    numbers = range(1, len(sheets) + 1)
    names = "".join(f'<sheet name="S{n}" sheetId="{n}" r:id="r{n}"/>' for n in numbers)
    links = "".join(
        f'<Relationship Id="r{n}" Type="{_OFFICE}/worksheet" Target="worksheets/sheet{n}.xml"/>' for n in numbers
    )
    parts = "".join(
        f'<Override PartName="/xl/worksheets/sheet{n}.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/>'
        for n in numbers
    )
    workbook = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType="{workbook}"/>{parts}</Types>',
        )
        book.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="r" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        book.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{MAIN}" xmlns:r="{_OFFICE}"><sheets>{names}</sheets></workbook>'
        )
        book.writestr(
            "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{_PACKAGE}/relationships">{links}</Relationships>'
        )
        for number, rows in zip(numbers, sheets, strict=True):
            book.writestr(f"xl/worksheets/sheet{number}.xml", sheet(rows))
    return path


def test_the_sheet_of_an_excel_file_is_a_table(files, orch):
    pytest.importorskip("python_calamine")
    rows = [
        ["query", "content", "label", None],
        [],
        ["which bird & why", "a falcon", 1],
        [2024, "a car", 0.5],
        [" ", None],
    ]
    path = write_book(files.folder / "a.xlsx", rows, [])
    found = list(Source(path).rows())
    assert [row.line for row in found] == [3, 4, 5]
    assert found[0].value == {"query": "which bird & why", "content": "a falcon", "label": "1"}
    assert found[1].value == {"query": "2024", "content": "a car", "label": "0.5"}
    report = check_files([path], max_dropped=1)
    assert (report.stats["kind"], report.ledger.sides["train"].kept) == ("labelled", 2)
    assert check_files([path]).problems[0].where.line == 5
    assert orch("data", "convert", path, "--to", "hits", "--max-dropped", "1", "-o", files.folder / "b.jsonl")[0] == 0


def test_a_sheet_that_is_none_or_several_is_refused(files):
    pytest.importorskip("python_calamine")
    table = [["query", "pos"], ["q", '["a"]']]
    assert (
        'several of its sheets have rows: "S1", "S2"'
        in refusal(write_book(files.folder / "a.xlsx", table, table)).message
    )
    assert refusal(files.raw("b.xlsx", b"PK\x03\x04 and so on")).message.startswith("broken-sheet")
    assert refusal(write_book(files.folder / "c.xlsx", [["q", None, "pos"]])).message.startswith("bad-header")
    wide = write_book(files.folder / "d.xlsx", [*table, ["q", '["a"]', "more"]])
    assert [row.fault and row.fault.code for row in Source(wide).rows()] == [None, "wrong-field-count"]
    assert next(row.value for row in Source(wide).rows()) == {"query": "q", "pos": ["a"]}


def test_without_its_library_a_file_is_refused_with_the_command_that_installs_it(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    for path in (
        files.raw("a.jsonl.zst", b"\x28\xb5\x2f\xfd more"),
        write_book(files.folder / "a.xlsx", [["q"], ["a"]]),
    ):
        error = refusal(path)
        assert error.message.startswith("needs-library: it cannot be imported: ")
        assert error.hint == "pip install 'orch-finetune[tables]'"


def test_the_files_of_save_to_disk_are_read(files, orch):
    datasets = pytest.importorskip("datasets")
    folder = files.folder / "saved"
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(folder)
    code, said = orch("data", "check", folder)
    assert (code, "name one of its folders: train" in said) == (3, True)
    assert orch("data", "check", folder / "train")[0] == 0


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
