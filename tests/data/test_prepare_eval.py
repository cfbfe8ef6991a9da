"""Evaluation data prepared on its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from orchestrator.data import writers
from orchestrator.data.prepare_eval import main, parse_arguments, prepare_eval
from orchestrator.data.request import RowFiles
from orchestrator.data.rows.checks import RowRules
from orchestrator.errors import DataError, PreflightError


def hits(query, *labels):
    return {"query": query, "hits": [{"content": f"{query}{n}", "label": label} for n, label in enumerate(labels)]}


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_labelled_rows_become_an_eval_set_with_its_ledger_and_statistics(files):
    rows = [hits("e", 2, 0), hits("f", 1, 0), {"query": "E", "content": "x", "label": 1}]
    path, out = files.lines("e.jsonl", *rows), files.folder / "out"
    gathered = prepare_eval(RowFiles((path,), RowRules("labelled", max_label=2)), out)
    assert names(out) == ["eval.jsonl", "ledger.json", "stats.json"]
    rows = read(out / "eval.jsonl")
    assert [(row["qid"], len(row["documents"])) for row in rows] == [("q000001", 3), ("q000002", 2)]
    assert {found["text"]: found["label"] for found in rows[0]["documents"]} == {"e0": 1, "e1": 0, "x": 0.5}
    ledger, stats = (json.loads((out / name).read_text()) for name in ("ledger.json", "stats.json"))
    assert list(ledger["sides"]) == ["eval"]
    assert (ledger["sides"]["eval"]["rows_in"], ledger["sides"]["eval"]["merged"]) == (3, 1)
    assert list(stats) == ["version", "kind", "eval"]
    assert stats["eval"] == gathered.stats["eval"]


def test_groups_need_no_negatives(files):
    path = files.lines("e.jsonl", {"query": "q", "response": "r"}, {"query": "r", "pos": ["a"], "neg": ["b"]})
    found = prepare_eval(RowFiles((path,)), files.folder / "out")
    assert [warned.code for warned in found.ledger.warnings] == ["nothing-to-rank"]
    assert len(read(files.folder / "out" / "eval.jsonl")) == 2


def test_pairs_and_columns_are_read(files, capsys):
    path, out = files.raw("e.csv", "a,b,c\nx,y,0.5\n"), files.folder / "out"
    columns = ["--columns", "sentence1=a", "sentence2=b", "score=c"]
    assert main(["--eval", str(path), "--kind", "pair", *columns, "--out", str(out)]) == 0
    assert read(out / "eval.jsonl")[0]["score"] == 0.5
    assert "eval: 1 rows in = 1 kept" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["group", "labelled"])
def test_over_a_corpus_every_document_is_searched(files, kind):
    path, out = files.lines("e.jsonl", {"query": "q", "pos": ["a"], "neg": ["b", "c"]}), files.folder / "out"
    prepare_eval(RowFiles((path,), RowRules(kind)), out, corpus=True)
    assert "class" not in read(out / "eval.jsonl")[0]
    assert names(out) == ["corpus.jsonl", "eval.jsonl", "ledger.json", "stats.json"]
    texts = {row["docid"]: row["text"] for row in read(out / "corpus.jsonl")}
    assert sorted(texts.values()) == ["a", "b", "c"]
    assert [texts[docid] for docid in read(out / "eval.jsonl")[0]["relevant"]] == ["a"]


def test_texts_of_a_class_are_by_turns_what_is_searched_and_what_searches(files, monkeypatch):
    monkeypatch.setattr(writers, "QUERIES_A_CLASS", 2)
    rows = [{"text": f"{label}{number}", "label": label} for number in range(7) for label in ("x", 3)]
    path, out = files.lines("e.jsonl", *rows, {"text": "alone", "label": "z"}), files.folder / "out"
    prepare_eval(RowFiles((path,), RowRules("class")), out)  # a corpus is not asked for: there is no other way
    texts = {row["docid"]: row["text"] for row in read(out / "corpus.jsonl")}
    relevant = {row["query"]: {texts[docid] for docid in row["relevant"]} for row in read(out / "eval.jsonl")}
    found = {label: {f"{label}{number}" for number in (0, 2, 4, 5, 6)} for label in "x3"}
    assert relevant == {f"{label}{number}": found[label] for label in "x3" for number in (1, 3)}
    assert set(texts.values()) == found["x"] | found["3"] | {"alone"}
    assert {row["class"] for row in read(out / "eval.jsonl")} == {"x", "3"}
    assert all(row["query"].startswith(row["class"]) for row in read(out / "eval.jsonl"))


def test_texts_of_which_no_two_are_of_a_class_are_refused(files):
    path = files.lines("e.jsonl", {"text": "a", "label": "x"}, {"text": "b", "label": "y"})
    with pytest.raises(DataError, match="no two eval texts are of one class"):
        prepare_eval(RowFiles((path,), RowRules("class")), files.folder / "out", corpus=True)


def test_the_eval_set_is_the_one_that_the_prepare_stage_makes(files, stage):
    path = files.lines("e.jsonl", *[hits(f"e{number}", 1, 0, 0.5) for number in range(9)])
    train = files.lines("t.jsonl", hits("t", 1, 0))
    stage("--train", train, "--eval", path, "--kind", "labelled", "--form", "cross-encoder-lists", "--seed", 7)
    prepare_eval(RowFiles((path,), RowRules("labelled")), files.folder / "out", seed=7)
    assert (files.folder / "out" / "eval.jsonl").read_bytes() == (stage.out / "eval.jsonl").read_bytes()


def test_bad_rows_leave_only_the_ledger_of_why(files, capsys):
    path, out = files.lines("e.jsonl", hits("e", 1, 0), hits("f", 7)), files.folder / "out"
    prepare_eval(RowFiles((path,), RowRules("labelled"), max_dropped=1), out)
    assert (out / "eval.jsonl").exists()
    assert main(["--eval", str(path), "--kind", "labelled", "--out", str(out)]) == 3
    assert names(out) == ["ledger.failed.json"]
    assert f"{path}:2: label-out-of-range" in capsys.readouterr().err


def test_a_limit_keeps_the_first_queries(files):
    path, out = files.lines("e.jsonl", *[hits(query, 1, 0) for query in "abc"]), files.folder / "out"
    prepare_eval(RowFiles((path,), RowRules("labelled"), limit=2), out)
    assert [row["query"] for row in read(out / "eval.jsonl")] == ["a", "b"]


def test_no_usable_row_is_refused(files):
    path = files.lines("e.jsonl", hits("e", 7))
    with pytest.raises(DataError, match="no-rows-kept: no eval row is left of 1"):
        prepare_eval(RowFiles((path,), RowRules("labelled"), max_dropped=1), files.folder / "out")


def test_a_file_is_never_overwritten_by_what_is_made_of_it(files):
    path = files.lines("eval.jsonl", hits("e", 1, 0))
    with pytest.raises(DataError, match="input-is-output"):
        prepare_eval(RowFiles((path,), RowRules("labelled")), files.folder)


def test_a_folder_that_cannot_be_written_is_a_preflight_error(files):
    path = files.lines("e.jsonl", hits("e", 1, 0))
    with pytest.raises(PreflightError, match="the prepared data cannot be written"):
        prepare_eval(RowFiles((path,), RowRules("labelled")), path / "out")


def test_every_option_of_the_command_line_reaches_the_request(files):
    argv = ["--eval", "a", "b", "--kind", "labelled", "--columns", "query=q", "--min-label", "1", "--max-label", "5"]
    argv += ["--corpus", "--out", "o", "--max-dropped", "3", "--seed", "7", "--limit-eval", "9"]
    request, outputs = parse_arguments(argv)
    assert ([path.name for path in request.eval_files], outputs.folder.name) == (["a", "b"], "o")
    rules = request.rules
    assert (rules.kind, rules.columns, rules.min_label, rules.max_label) == ("labelled", {"query": "q"}, 1, 5)
    assert (request.corpus, outputs.max_dropped, request.seed, request.limit_eval) == (True, 3, 7, 9)


@pytest.mark.parametrize(
    "argv",
    [
        ("--kind", "chat"),
        ("--kind", "pair", "--corpus"),
        ("--max-label", "2"),
        ("--kind", "labelled", "--min-label", "0"),
        ("--columns", "query"),
        ("--limit-eval", "0"),
    ],
)
def test_an_argument_that_makes_no_sense_ends_with_code_2(files, argv):
    with pytest.raises(SystemExit) as caught:
        main(["--eval", str(files.lines("e.jsonl", hits("e", 1, 0))), "--out", str(files.folder / "out"), *argv])
    assert caught.value.code == 2


def test_the_module_runs_as_a_stage(files):
    path, out = files.lines("e.jsonl", hits("e", 1, 0)), files.folder / "out"
    argv = [sys.executable, "-m", "orchestrator.data.prepare_eval", "--eval", path, "--kind", "labelled", "--out", out]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("orch-progress ")
    assert "eval labels: 0 to 1 (mean 0.50)" in done.stdout
