"""Data files that must not be trained on, in every format, each with the line and the remedy of its message."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

from tests.bad_input.case import ROW, ROWS, BadInput, Special


def _rows(
    name: str,
    story: str,
    content: str | bytes | Special | None,
    *,
    line: int | None = None,
    says: str,
    remedy: str,
    ending: str = "jsonl",
    options: tuple[str, ...] = (),
) -> BadInput:
    """Return the case of one data file with this content, checked by `orch data check`."""
    file = f"rows.{ending}"
    where = f"{file}:{line}:" if line else f"{file}: "
    locked = isinstance(content, Special) and content.kind == "locked"
    return BadInput(name, story, ("data", "check", file, *options), 3, where, says, remedy, {file: content}, locked)


def _row(name: str, story: str, row: str, *, says: str, remedy: str, options: tuple[str, ...] = ()) -> BadInput:
    """Return the case of one bad row behind eight good ones."""
    return _rows(name, story, ROWS + row + "\n", line=9, says=says, remedy=remedy, options=options)


def _messages(*turns: dict[str, Any]) -> str:
    return json.dumps({"messages": list(turns)}) + "\n"


_USER, _ANSWER = {"role": "user", "content": "which bird"}, {"role": "assistant", "content": "a falcon"}
_CHATS = _messages(_USER, _ANSWER) * 2


def _chat(name: str, story: str, *turns: dict[str, Any], says: str, remedy: str) -> BadInput:
    """Return the case of one bad conversation behind two good ones."""
    return _rows(name, story, _CHATS + _messages(*turns), line=3, says=says, remedy=remedy)


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


_LABELLED = '{"query": "q", "hits": [{"content": "a", "label": 0}, {"content": "b", "label": %s}]}\n'
_TABLE = "query,pos,neg\nwhich bird,a falcon,a car\n"
_PARQUET = _parquet({"query": ["q"], "pos": [["a"]], "neg": [["b"]]})

FILES = (
    _rows("no-data", "names data that is not there", None, says="file-not-found", remedy="holds eval.jsonl"),
    _rows("data-is-folder", "names a folder", Special("folder"), says="without data files", remedy="files end in"),
    _rows("data-is-pipe", "names a pipe", Special("fifo"), says="not-a-file", remedy="name the"),
    _rows("data-is-device", "names a device", Special("link", "/dev/zero"), says="not-a-file", remedy="name the"),
    _rows("data-loop", "names a link to itself", Special("link", "rows.jsonl"), says="not-readable", remedy="check"),
    _rows("data-locked", "may not read it", Special("locked"), says="not-readable", remedy="permissions"),
    _rows("data-ending", "gives a .txt", ROWS, ending="txt", says="unknown-ending", remedy="JSON Lines"),
    _rows("data-empty", "gives an empty file", "", says="empty-file", remedy="fill it"),
    _rows("data-blank", "gives blank lines only", "\n \n\n", says="empty-file", remedy="fill it"),
    _rows("gzip-cut", "copies half", gzip.compress(ROWS.encode())[:40], says="compressed: the", remedy="unpack"),
    _rows("zip", "zips it", b"PK\x03\x04" + ROWS.encode(), line=1, says="a zip archive", remedy="unzip"),
    _rows(
        "gbk",
        "saves it in GBK",
        (ROWS * 9).replace("bird", "鸟类动物").encode("gbk"),
        line=1,
        says="GB18030",
        remedy="data.encoding: ",
    ),
    _row(
        "text-unread",
        "misnames a key",
        ROW.replace('"neg"', '"hard_negs"'),
        says='has "hard_negs"',
        remedy="--map neg=",
    ),
    _rows(
        "chat-context",
        "adds a context",
        '{"instruction": "Which bird is fast?", "context": "A falcon dives.", "output": "a falcon"}\n',
        line=1,
        says="text-not-read",
        remedy="data.ignore: [context]",
    ),
    _rows(
        "grades-in-scores",
        "writes grades as scores",
        '{"query": "q", "pos": ["a", "b"], "pos_scores": [2, 0]}\n',
        line=1,
        says="scores-or-labels",
        remedy="--scores-as-labels",
        options=("--max-label", "2"),
    ),
    _rows(
        "two-lists",
        "writes scores in a list, which may be labels",
        '{"query": "q", "docs": ["a", "b"], "scores": [1, 0]}\n',
        line=1,
        says="two lists",
        remedy="--from lists",
    ),
    _rows(
        "wrapped",
        "wraps it twice",
        f'{{"data": [{ROW.strip()}], "test": [{ROW.strip()}]}}',
        line=1,
        says='"data"',
        remedy="--rows data",
        ending="json",
    ),
    _row("list-row", "writes lists", '["which bird", "a falcon", 1.0]', says="a list of 3", remedy="--names sentence1"),
    _rows("parquet-as-jsonl", "renames Parquet", _PARQUET, line=1, says="compressed", remedy="rename it: mv"),
    _rows("data-utf-16", "saves it as UTF-16", ROWS.encode("utf-16"), line=1, says="utf-16", remedy="data.encoding: "),
    _rows(
        "data-latin-1",
        "saves it as Latin-1",
        (ROWS + ROW.replace("car", "caf\xe9")).encode("latin-1"),
        line=9,
        says="bad-utf-8",
        remedy="UTF-8",
    ),
    _rows(
        "data-nul",
        "has a NUL in it",
        ROWS + ROW.replace("car", "c\0r"),
        line=9,
        says="nul-byte",
        remedy="write the file again",
    ),
)

LINES = (
    _row("broken-line", "cuts a line", '{"query": "which', says="not-json", remedy="JSON library"),
    _row("trailing-comma", "ends an object in a comma", '{"query": "a",}', says="not-json", remedy="JSON library"),
    _row("single-quotes", "writes Python", "{'query': 'a'}", says="not-json", remedy="json.dumps"),
    _row("pretty", "writes one row on many lines", "{\n", says="not-json", remedy="each row on one line"),
    _row("two-rows", "writes two rows on a line", ROW.strip() * 2, says="not-json", remedy="JSON library"),
    _row("nan", "writes NaN", ROW.replace('["a falcon"]', "NaN").strip(), says="not-json", remedy="number"),
    _row("data-deep", "nests 100,000 lists", '{"query": ' + "[" * 100_000, says="not-json", remedy='{"query"'),
    _row("digits", "writes 6,000 digits", '{"query": ' + "9" * 6000 + "}", says="not-json", remedy="numbers"),
    _row("number-row", "writes a number as row", "42", says="not-an-object", remedy='{"query"'),
    _row(
        "repeated-key",
        "gives a key twice",
        ROW.replace('"neg"', '"pos"').strip(),
        says="duplicate-key",
        remedy="keep one",
    ),
    _row("no-pos", "leaves out pos", '{"query": "a", "neg": ["b"]}', says="missing-key", remedy="pos"),
    _row("near-key", "misspells neg", '{"query": "a", "pos": ["b"], "negs": ["c"]}', says="missing-key", remedy="neg"),
    _row(
        "text-as-list",
        "gives pos as text",
        '{"query": "a", "pos": "b", "neg": ["c"]}',
        says="wrong-type",
        remedy="list",
    ),
    _row(
        "null-query",
        "gives null as query",
        '{"query": null, "pos": ["b"], "neg": ["c"]}',
        says="wrong-type",
        remedy="write one string",
    ),
    _row(
        "object-in-list",
        "gives objects as documents",
        '{"query": "a", "pos": [{"t": 1}], "neg": ["c"]}',
        says="wrong-type",
        remedy="the document's text itself",
    ),
    _row(
        "empty-query",
        "leaves the query empty",
        '{"query": " ", "pos": ["b"], "neg": ["c"]}',
        says="empty-query",
        remedy="fill it",
    ),
    _row("empty-pos", "gives no positive", '{"query": "a", "pos": [], "neg": ["c"]}', says="no-positive", remedy="add"),
    _row(
        "empty-neg", "gives no negative", '{"query": "a", "pos": ["b"], "neg": []}', says="no-negative", remedy="mine"
    ),
    _row(
        "empty-document",
        "leaves a document empty",
        '{"query": "a", "pos": ["b"], "neg": [""]}',
        says="empty-text",
        remedy="fill it",
    ),
    _row(
        "both-sides",
        "has a positive among the negatives",
        '{"query": "a", "pos": ["b"], "neg": ["b"]}',
        says="positive-among-negatives",
        remedy="remove it",
    ),
    _row(
        "surrogate",
        "has half a surrogate pair",
        '{"query": "\\ud800", "pos": ["b"], "neg": ["c"]}',
        says="lone-surrogate",
        remedy="repair",
    ),
    _row(
        "scores-short",
        "gives too few scores",
        '{"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": [], "neg_scores": [1]}',
        says="scores-length",
        remedy="one score",
    ),
    _row(
        "scores-nan",
        "gives NaN as score",
        '{"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": [NaN], "neg_scores": [1]}',
        says="not-json",
        remedy="number",
    ),
    _row(
        "scores-text",
        "gives text as score",
        '{"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": ["1"], "neg_scores": [1]}',
        says="scores-not-numbers",
        remedy="finite",
    ),
    _row(
        "scores-huge",
        "gives a score of 10^999",
        '{"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": [1e999], "neg_scores": [1]}',
        says="scores-not-numbers",
        remedy="finite",
    ),
    _rows(
        "label-range",
        "labels 0 to 4 without saying so",
        _LABELLED % 4,
        line=1,
        says="label-out-of-range",
        remedy="max_label",
    ),
    _rows(
        "label-text",
        "labels in words",
        _LABELLED % '"relevant"',
        line=1,
        says="label-not-a-number",
        remedy="write finite numbers",
    ),
    _rows(
        "label-null", "leaves a label empty", _LABELLED % "null", line=1, says="label-not-a-number", remedy="numbers"
    ),
    _rows(
        "label-truth",
        "labels by true and false",
        _LABELLED % "true",
        line=1,
        says="label-not-a-number",
        remedy="writes it as a number",
    ),
    _rows(
        "mixed-kinds",
        "mixes conversations and rankings",
        ROWS + _CHATS,
        line=9,
        says="other-kind",
        remedy="for chat rows",
    ),
)

LISTS = (
    _rows(
        "open-list",
        "does not close a list",
        f"[{ROW.strip()},\n{ROW.strip()}\n",
        ending="json",
        line=3,
        says="broken-list",
        remedy="correct it",
    ),
    _rows(
        "list-comma",
        "forgets a comma in a list",
        f"[{ROW}{ROW}]",
        ending="json",
        line=2,
        says="broken-list",
        remedy="correct it",
    ),
    _rows(
        "list-end",
        "writes on behind a list",
        f"[{ROW}]\nmore",
        ending="json",
        line=3,
        says="broken-list",
        remedy="correct it",
    ),
    _rows("list-of-text", "lists texts", '["a", "b"]', ending="json", line=1, says="not-an-object", remedy='{"query"'),
    _rows("list-empty", "gives an empty list", "[]", ending="json", says="empty-file", remedy="fill it"),
    _rows(
        "list-deep",
        "nests 100,000 lists",
        "[" * 100_000,
        ending="json",
        line=1,
        says="broken-list",
        remedy="correct it",
    ),
)

TABLES = (
    _rows(
        "csv-ragged",
        "gives a row one field more",
        _TABLE + "a,b,c,d\n",
        ending="csv",
        line=3,
        says="wrong-field-count",
        remedy="quote",
    ),
    _rows(
        "csv-no-header",
        "leaves the header out",
        f"{'which bird is it ' * 20},a falcon,a car\n",
        ending="csv",
        line=1,
        says="bad-header",
        remedy="name each column",
    ),
    _rows(
        "csv-semicolons",
        "separates by semicolons",
        _TABLE.replace(",", ";"),
        ending="csv",
        line=1,
        says="wrong-separator",
        remedy="commas",
    ),
    _rows(
        "csv-nul",
        "has a NUL in a table",
        _TABLE + "a,\0,c\n",
        ending="csv",
        line=3,
        says="nul-byte",
        remedy="write the file again",
    ),
    _rows(
        "csv-quote",
        "does not close a quote",
        _TABLE + '"a,b,c\n',
        ending="csv",
        line=3,
        says="broken-csv",
        remedy="CSV library",
    ),
    _rows(
        "csv-same-name",
        "names two columns alike",
        "query,pos,pos\na,b,c\n",
        ending="csv",
        line=1,
        says="bad-header",
        remedy="rename",
    ),
    _rows(
        "csv-empty-cell",
        "leaves a cell empty",
        'query,pos,neg\n"a","[""""]","[""c""]"\n',
        ending="csv",
        line=2,
        says="empty-text",
        remedy="fill it",
    ),
    _rows(
        "csv-header-only", "gives a header only", "query,pos,neg\n", ending="csv", says="empty-file", remedy="fill it"
    ),
    _rows(
        "csv-latin-1",
        "saves a table as Latin-1",
        (_TABLE + "\xe9,b,c\n").encode("latin-1"),
        ending="csv",
        line=3,
        says="bad-utf-8",
        remedy="UTF-8",
    ),
    _rows(
        "tsv-commas", "separates a .tsv by commas", _TABLE, ending="tsv", line=1, says="wrong-separator", remedy="tabs"
    ),
    _rows("json-as-csv", "renames JSON Lines to .csv", ROWS, ending="csv", line=1, says="bad-header", remedy=".jsonl"),
    _rows(
        "parquet-cut",
        "cuts a Parquet file",
        _PARQUET[:-20],
        ending="parquet",
        says="broken-parquet",
        remedy="write the file again",
    ),
    _rows(
        "parquet-text",
        "renames text to .parquet",
        ROWS,
        ending="parquet",
        says="broken-parquet",
        remedy="write the file again",
    ),
    _rows(
        "parquet-nested",
        "gives mappings as documents",
        _parquet({"query": ["q"], "pos": [[{"t": 1}]], "neg": [["b"]]}),
        ending="parquet",
        line=1,
        says="wrong-type",
        remedy="the document's text itself",
    ),
    _rows(
        "parquet-bytes",
        "gives bytes as texts",
        _parquet({"query": [b"\xff"], "pos": [["a"]], "neg": [["b"]]}),
        ending="parquet",
        line=1,
        says="wrong-type",
        remedy="leave the column out",
    ),
)

CONTRADICTIONS = (
    _rows(
        "two-sides",
        "has a document as positive in one row and, in wide letters, as negative in the next",
        '{"query": "q", "pos": ["A falcon"], "neg": ["b"]}\n{"query": "q", "pos": ["c"], "neg": ["Ａ ｆａｌｃｏｎ"]}\n',
        line=2,
        says="conflicting-labels",
        remedy="keep the right one",
    ),
)

CONVERSATIONS = (
    _chat("role", "invents a role", {"role": "wizard", "content": "a"}, _ANSWER, says="unknown-role", remedy="system"),
    _chat(
        "half-learnt",
        "weighs an answer by a half",
        _USER,
        _ANSWER | {"weight": 0.5},
        says="loss-mark",
        remedy='"loss": true or false',
    ),
    _chat("no-answer", "ends with the user", _USER, says="no-answer", remedy="add the answer"),
    _chat("two-users", "lets the user speak twice", _USER, _USER, _ANSWER, says="broken-turns", remedy="merge"),
    _chat(
        "empty-answer",
        "answers nothing",
        _USER,
        {"role": "assistant", "content": ""},
        says="empty-answer",
        remedy="fill",
    ),
    _chat(
        "images",
        "gives an image",
        {"role": "user", "content": [{"type": "image"}]},
        _ANSWER,
        says="not-text",
        remedy="text",
    ),
    _chat("no-turns", "gives no messages", says="no-answer", remedy="remove what follows"),
    _rows(
        "sharegpt-role",
        "has an odd role in ShareGPT",
        json.dumps({"conversations": [{"from": "elf", "value": "a"}, {"from": "gpt", "value": "b"}]}),
        line=1,
        says="unknown-role",
        remedy="human",
        options=("--kind", "chat"),
    ),
    _rows(
        "alpaca-output",
        "leaves out Alpaca's output",
        '{"instruction": "a", "input": "b"}\n',
        line=1,
        says="missing-key",
        remedy="output",
        options=("--kind", "chat"),
    ),
)

CASES = FILES + LINES + LISTS + TABLES + CONTRADICTIONS + CONVERSATIONS
