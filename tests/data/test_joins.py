"""Rows that name texts by ids: a folder as BEIR's, and rows of ids beside a corpus, in every verb."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest

from orchestrator.data.check import check_files
from orchestrator.data.mining import gather_for_mining
from orchestrator.data.prepare_eval import prepare_eval
from orchestrator.data.reading.file_sets import expand_name, list_inputs
from orchestrator.data.reading.readers import Source
from orchestrator.data.request import RowFiles
from orchestrator.data.rows.checks import RowRules
from orchestrator.data.teacher import write_pairs
from orchestrator.errors import Problem
from orchestrator.serving.evaluate_model import sniff_data

COUNT = 10


def write_lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.fixture(params=["", ".gz"], ids=["plain", "packed"])
def beir(tmp_path, request):
    """A folder of BEIR's: ten queries with two relevant documents each, and one that is not."""
    folder = tmp_path / "nf"
    documents = [
        {"_id": f"d{n}", "title": "T" if n % 2 else "", "text": f"document {n}", "metadata": {}} for n in range(40)
    ]
    write_lines(folder / f"corpus.jsonl{request.param}", documents)
    write_lines(
        folder / f"queries.jsonl{request.param}", ({"_id": f"q{n}", "text": f"which is {n}?"} for n in range(12))
    )
    return folder


def write_qrels(folder, name, scores):
    lines = ["query-id\tcorpus-id\tscore"]
    lines += [f"q{n}\td{n + 10 * place}\t{score}" for place, score in enumerate(scores) for n in range(COUNT)]
    (folder / "qrels").mkdir(exist_ok=True)
    path = folder / "qrels" / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_folder_of_beir_is_groups_in_every_verb(beir, orch, stage):
    path = write_qrels(beir, "train.tsv", (1, 1, 0))
    rows = list(Source(path).rows())
    assert [row.line for row in rows] == list(range(2, 12))
    assert rows[1].value == {
        "query": "which is 1?",
        "pos": ["T\ndocument 1", "T\ndocument 11"],
        "neg": ["T\ndocument 21"],
    }
    for kind in ("group", "labelled"):
        assert check_files([path], kind=kind).ok
    assert expand_name(beir.parent, "nf") == ("nf/qrels/train.tsv",)
    assert orch("data", "check", beir)[0] == 0
    assert sniff_data([path], {}) == "group"
    assert stage("--train", path, "--eval-ratio", 0.3, "--form", "flagembedding") == 0
    side = stage.json("ledger.json")["sides"]["train"]
    assert [(file["path"].rpartition("/")[2].removesuffix(".gz"), file["rows_in"]) for file in side["files"]] == [
        *(("train.tsv", 10), ("corpus.jsonl", 40), ("queries.jsonl", 12)),
    ]
    corpus = next(beir.glob("corpus.*"))
    assert side["files"][1]["sha256"] == hashlib.sha256(corpus.read_bytes()).hexdigest()
    assert write_pairs(RowFiles((path,)), beir).pairs == 30
    assert gather_for_mining(RowFiles((path,)), beir / "mined").queries == 10
    found = prepare_eval(RowFiles((path,), RowRules("group")), beir / "eval", corpus=True)
    assert found.ledger.sides["eval"].kept == 10
    (warned,) = found.ledger.warnings
    assert (warned.code, "has 40 documents: those that no row names are not searched" in warned.message) == (
        "corpus-in-part",
        True,
    )
    assert not prepare_eval(RowFiles((path,), RowRules("group")), beir / "candidates").ledger.warnings
    out = beir / "new.jsonl"
    assert orch("data", "split", path, "-o", beir / "x")[0] == 3
    assert orch("data", "convert", path, "-o", out)[0] == 0
    assert orch("data", "split", out, "-o", beir / "x")[0] == 0
    assert set(list_inputs((str(path),))) == {str(path), str(corpus), str(next(beir.glob("queries.*")))}


def test_grades_of_beir_are_labels(beir):
    path = write_qrels(beir, "train.tsv", (2, 1, 0))
    assert [hit["label"] for hit in next(Source(path).rows()).value["hits"]] == [2, 1, 0]
    report = check_files([path], max_label=2)
    assert (report.ok, report.stats["kind"]) == (True, "labelled")
    assert "label-out-of-range" in check_files([path]).problems[0].message


def test_of_several_splits_one_is_named(beir):
    for name in ("train.tsv", "test.tsv"):
        write_qrels(beir, name, (1, 0))
    problem = expand_name(beir.parent, "nf")
    assert isinstance(problem, Problem)
    assert problem.hint == "name one of them: nf/qrels/test.tsv, nf/qrels/train.tsv"
    assert expand_name(beir.parent, "nf/qrels/test.tsv") == ("nf/qrels/test.tsv",)


def test_an_id_without_a_text_makes_the_row_bad(beir):
    path = write_qrels(beir, "train.tsv", (1, 0))
    path.write_text(path.read_text() + "q1\tnowhere\t1\nq99\td1\t1\nq11\td1\thigh\n")
    report = check_files([path])
    assert [(problem.where.line, problem.message.partition(" has ")[0]) for problem in report.problems[:3]] == [
        (3, f"id-not-found: no row of {next(beir.glob('corpus.*')).name}"),
        (23, f"id-not-found: no row of {next(beir.glob('queries.*')).name}"),
        (24, "label-not-a-number: the judgement"),
    ]
    assert report.ledger.sides["train"].kept == 9


IDS = [
    {"query": "which is {}?", "positive_ids": ["d{}"], "negative_ids": ["d1{}", "d2{}"]},
    {"query_id": "q{}", "pos_ids": ["d{}"], "neg_ids": ["d1{}", "d2{}"]},
]


@pytest.mark.parametrize("row", IDS, ids=["query", "query-id"])
def test_lists_of_ids_beside_a_corpus_are_groups(beir, orch, row):
    rows = [json.loads(json.dumps(row).replace("{}", str(number))) for number in range(COUNT)]
    path = write_lines(beir / "rows.jsonl", rows)
    assert check_files([path]).ok
    found = next(Source(path).rows())
    assert found.value == {"query": "which is 0?", "pos": ["document 0"], "neg": ["document 10", "document 20"]}
    assert orch("data", "split", path, "--eval-ratio", "0.3", "-o", beir / "out")[0] == 0
    lines = [line for side in ("train", "eval") for line in (beir / f"out/rows.{side}.jsonl").read_text().splitlines()]
    assert sorted(lines) == sorted(path.read_text().splitlines())
    for one in beir.glob("corpus.*"):
        one.rename(one.with_name(one.name.replace("corpus", "texts")))
    problem = check_files([path]).problems[0]
    assert problem.message.startswith("missing-key")


def test_judgements_without_their_corpus_are_told_where_they_belong(files):
    path = files.lines("a.jsonl", {"query-id": "1", "corpus-id": "2", "score": 1})
    problem = check_files([path]).problems[0]
    assert "no corpus.jsonl is beside or above it" in problem.message
    assert problem.hint.startswith("put the judgements into qrels/")


def test_rows_with_texts_beside_a_corpus_stay_as_they_are(beir):
    rows = [{"query": f"q{n}", "pos": [f"a{n}"], "neg": ["b"], "corpus": "x"} for n in range(3)]
    path = write_lines(beir / "rows.jsonl", rows)
    assert [row.value for row in Source(path).rows()] == rows
