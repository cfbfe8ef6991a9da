"""Teacher scores on the way: the pairs of rows in any shape and file, and the rows with a score a document."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from orchestrator.cli import orch
from orchestrator.data.digests import digest
from orchestrator.data.request import RowFiles
from orchestrator.data.rows.checks import RowRules
from orchestrator.data.teacher import join_scores, main, write_pairs
from orchestrator.errors import DataError

GRADED = {"query": "q", "hits": [{"content": "a", "label": 2, "id": 7}, {"content": "b", "label": 0}]}
POINT = {"query": "q", "content": "a", "label": 0.7, "from": "shop"}


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pair_up(tmp_path, *paths, limit=None, replace=False, **reading):
    counts = write_pairs(RowFiles(paths, RowRules(**reading), limit, replace=replace), tmp_path / "pairs")
    return counts, read(tmp_path / "pairs" / "pairs.jsonl")


def score_all(tmp_path, pairs, value=lambda pair: len(pair["query"] + pair["document"]) + 0.1):
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps({"pid": pair["pid"], "score": value(pair)}) + "\n" for pair in reversed(pairs)))
    return path


def teach(tmp_path, *paths, limit=None, replace=False, **reading):
    _, pairs = pair_up(tmp_path, *paths, limit=limit, replace=replace, **reading)
    out = tmp_path / "out" / "train.jsonl"
    rows = RowFiles(paths, RowRules(**reading), limit, replace=replace)
    return join_scores(rows, score_all(tmp_path, pairs), out), read(out)


def test_every_pair_is_written_once_whatever_the_shape(tmp_path, files, row):
    path = files.lines("train.jsonl", row(1), GRADED, POINT, row(1))
    counts, pairs = pair_up(tmp_path, path)
    texts = [(pair["query"], pair["document"]) for pair in pairs]
    assert texts == [
        ("question 1", "answer 1"), ("question 1", "other 1"), ("question 1", "more 1"), ("q", "a"), ("q", "b")
    ]  # fmt: skip
    assert (counts.rows, counts.documents, counts.pairs) == (4, 9, 5)


def test_rows_keep_their_keys_and_order_and_get_scores_in_full_precision(tmp_path, files, row):
    path = files.lines("train.jsonl", row(1, prompt="p"), GRADED, POINT)
    _, pairs = pair_up(tmp_path, path)
    third = 1 / 3
    join_scores(RowFiles((path,)), score_all(tmp_path, pairs, lambda _: third), tmp_path / "joined.jsonl")
    ranking, hits, point = read(tmp_path / "joined.jsonl")
    assert ranking == row(1, prompt="p") | {"pos_scores": [third], "neg_scores": [third, third]}
    assert hits["hits"] == [hit | {"score": third} for hit in GRADED["hits"]]
    assert point == POINT | {"score": third}


def test_a_ranking_row_may_have_a_content_that_is_ignored(tmp_path, files, row):
    path = files.lines("train.jsonl", row(1, content="a summary of what the row is about"))
    _, rows = teach(tmp_path, path, ignore=("content",))
    assert len(rows[0]["neg_scores"]) == 2
    with pytest.raises(DataError, match="text-not-read"):
        write_pairs(RowFiles((path,)), tmp_path / "pairs")


def test_each_document_gets_its_own_score(tmp_path, files):
    path = files.lines("train.jsonl", {"query": "q", "pos": ["1", "22"], "neg": ["333"]})
    _, rows = teach(tmp_path, path)
    assert rows[0]["pos_scores"] == [2.1, 3.1]
    assert rows[0]["neg_scores"] == [4.1]


def test_whole_numbers_become_floats(tmp_path, files, row):
    path = files.lines("train.jsonl", row(1))
    _, pairs = pair_up(tmp_path, path)
    join_scores(RowFiles((path,)), score_all(tmp_path, pairs, lambda _: 2), tmp_path / "joined.jsonl")
    assert '"pos_scores": [2.0]' in (tmp_path / "joined.jsonl").read_text()


@pytest.mark.parametrize(("negatives", "scores"), [({}, {}), ({"neg": None}, {}), ({"neg": []}, {"neg_scores": []})])
def test_a_row_without_negatives_gets_no_scores_for_them(tmp_path, files, negatives, scores):
    path = files.lines("train.jsonl", {"query": "q", "pos": ["a"], **negatives})
    _, rows = teach(tmp_path, path)
    assert rows == [{"query": "q", "pos": ["a"], **negatives, "pos_scores": [2.1], **scores}]


def test_renamed_columns_keep_their_own_names(tmp_path, files):
    path = files.lines("train.jsonl", {"question": "q", "docs": [{"content": "a", "label": 1}], "id": 3})
    _, rows = teach(tmp_path, path, columns={"query": "question", "hits": "docs"})
    assert rows == [{"question": "q", "docs": [{"content": "a", "label": 1, "score": 2.1}], "id": 3}]


def test_a_table_becomes_rows_that_can_be_read_as_json(tmp_path, files):
    table = "query,content,label,id\nq,a,1,007\nq,bb,0.5,8\n"
    _, rows = teach(tmp_path, files.raw("train.csv", table))
    assert rows == [
        {"query": "q", "content": "a", "label": 1, "id": "007", "score": 2.1},
        {"query": "q", "content": "bb", "label": 0.5, "id": "8", "score": 3.1},
    ]


def test_lists_in_the_cells_of_a_renamed_column_are_read(tmp_path, files):
    table = 'query,good,bad\nq,"[""a""]","[""bb""]"\n'
    _, rows = teach(tmp_path, files.raw("train.csv", table), columns={"pos": "good", "neg": "bad"})
    assert rows == [{"query": "q", "good": ["a"], "bad": ["bb"], "pos_scores": [2.1], "neg_scores": [3.1]}]


def test_a_json_list_and_parquet_are_read_too(tmp_path, files, row):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = __import__("pyarrow").Table.from_pylist([row(2)])
    parquet.write_table(table, tmp_path / "b.parquet")
    counts, rows = teach(tmp_path, files.raw("a.json", json.dumps([row(1)], indent=1)), tmp_path / "b.parquet")
    assert [found["query"] for found in rows] == ["question 1", "question 2"]
    assert counts.documents == 6


def test_bad_rows_stay_where_and_as_they_are(tmp_path, files, row, capsys):
    broken = '{"query": "q", "pos": "a"}\nnot json\n{"query": "q", "query": "r", "pos": ["a"]}\n[1]\n'
    path = files.raw("train.jsonl", json.dumps(row(1)) + "\n" + broken + json.dumps(row(2)) + "\n")
    counts, pairs = pair_up(tmp_path, path)
    assert counts.bad.counts == {"wrong-type": 1, "not-json": 1, "duplicate-key": 1, "not-an-object": 1}
    join_scores(RowFiles((path,)), score_all(tmp_path, pairs), tmp_path / "joined.jsonl")
    lines = (tmp_path / "joined.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert "".join(line + "\n" for line in lines[1:5]) == broken
    assert json.loads(lines[5])["query"] == "question 2"
    assert main(["pairs", "--rows", str(path), "--out", str(tmp_path / "again")]) == 0
    said = capsys.readouterr()
    assert "4 bad ones left as they are (duplicate-key 1, not-an-object 1, not-json 1, wrong-type 1)" in said.out
    assert f'bad: {path}:2: wrong-type: "pos" is a string' in said.err


def test_a_bad_row_of_a_table_is_one_bad_line(tmp_path, files):
    path = files.raw("train.csv", 'query,content,label\nq,a,1\n"q\n2",b\n')
    _, pairs = pair_up(tmp_path, path)
    join_scores(RowFiles((path,)), score_all(tmp_path, pairs), tmp_path / "joined.jsonl")
    assert (tmp_path / "joined.jsonl").read_text().splitlines()[1] == '"q 2",b'


def test_a_text_that_utf_8_cannot_hold_makes_a_bad_row_that_stays(tmp_path, files, row):
    path = files.raw("train.jsonl", '{"query": "\\ud800", "pos": ["a"], "neg": []}\n' + json.dumps(row(1)) + "\n")
    counts, rows = teach(tmp_path, path)
    assert counts.bad.counts == {"lone-surrogate": 1}
    assert rows[0]["query"] == "\ud800"
    assert "pos_scores" not in rows[0]


def test_the_limit_counts_rows_of_all_files_together(tmp_path, files, row):
    paths = (files.lines("a.jsonl", row(1), row(2)), files.lines("b.jsonl", row(3), row(4)))
    counts, rows = teach(tmp_path, *paths, limit=3)
    assert counts.rows == 3
    assert [found["query"] for found in rows] == ["question 1", "question 2", "question 3"]


@pytest.mark.parametrize(
    "scored",
    [
        {"query": "q", "pos": ["a"], "neg": [], "pos_scores": [1.0]},
        {"query": "q", "content": "a", "label": 1, "score": 0},
        {"query": "q", "hits": [{"content": "a", "label": 1}, {"content": "b", "label": 0, "score": 1}]},
    ],
)
def test_a_row_with_scores_is_refused_unless_they_are_to_be_replaced(tmp_path, files, row, scored):
    path = files.lines("train.jsonl", row(1), scored)
    with pytest.raises(DataError, match="has teacher scores already") as error:
        write_pairs(RowFiles((path,)), tmp_path / "pairs")
    assert error.value.problems[0].where.line == 2
    assert "--replace" in error.value.problems[0].hint
    _, rows = teach(tmp_path, path, replace=True)
    assert "2.1" in json.dumps(rows[1])


def test_replaced_scores_leave_none_of_the_old(tmp_path, files):
    path = files.lines("train.jsonl", {"query": "q", "pos": ["a"], "pos_scores": [9], "neg_scores": [8]})
    _, rows = teach(tmp_path, path, replace=True)
    assert rows == [{"query": "q", "pos": ["a"], "pos_scores": [2.1]}]


def test_a_missing_score_is_refused_with_the_row_and_nothing_is_written(tmp_path, files, row):
    path = files.lines("train.jsonl", row(1), row(2))
    _, pairs = pair_up(tmp_path, path)
    with pytest.raises(DataError, match="no teacher score") as error:
        join_scores(RowFiles((path,)), score_all(tmp_path, pairs[:-1]), tmp_path / "joined.jsonl")
    assert error.value.problems[0].where.line == 2
    assert not list(tmp_path.glob("*joined*"))


@pytest.mark.parametrize(
    "line", ['{"pid": "00", "score": 1.0}', '{"pid": "' + "0" * 32 + '", "score": NaN}', "x", "[]"]
)
def test_a_broken_line_of_the_scores_is_refused_with_its_place(tmp_path, files, row, line):
    path, scores = files.lines("train.jsonl", row(1)), files.raw("scores.jsonl", line + "\n")
    with pytest.raises(DataError, match="finite score") as error:
        join_scores(RowFiles((path,)), scores, tmp_path / "joined.jsonl")
    assert str(error.value.problems[0].where) == f"{scores}:1"


def test_the_rows_themselves_are_never_overwritten(tmp_path, files, row):
    path = files.lines("train.jsonl", row(1))
    _, pairs = pair_up(tmp_path, path)
    with pytest.raises(DataError, match="input-is-output"):
        join_scores(RowFiles((path,)), score_all(tmp_path, pairs), path)


@pytest.mark.parametrize(
    "given",
    [
        {"query": "q", "response": "a", "rejected_response": ["b"]},
        {"messages": [{"role": "user", "content": "q"}], "positive_messages": ["a"], "negative_messages": ["b"]},
    ],
)
def test_rows_of_swift_are_scored_and_written_as_groups_which_have_a_place_for_scores(tmp_path, files, given):
    path = files.lines("train.jsonl", given)
    _, pairs = pair_up(tmp_path, path)
    out = tmp_path / "joined.jsonl"
    join_scores(RowFiles((path,)), score_all(tmp_path, pairs), out)
    [found] = map(json.loads, out.read_text().splitlines())
    assert (found["query"], found["pos"], found["neg"]) == ("q", ["a"], ["b"])
    assert len(found["pos_scores"] + found["neg_scores"]) == 2


def test_a_file_without_any_row_to_score_is_refused_with_the_rows_faults(tmp_path, files, capsys):
    path = files.lines("train.jsonl", {"sentence1": "a", "sentence2": "b", "score": 1})
    assert main(["pairs", "--rows", str(path), "--out", str(tmp_path / "pairs")]) == 3
    assert 'missing-key: the key "query" is missing' in capsys.readouterr().err
    assert not (tmp_path / "pairs" / "pairs.jsonl").exists()


def test_the_command_line_joins_with_columns_and_limit(tmp_path, files, capsys):
    path = files.lines("train.jsonl", {"q": "q", "content": "a", "label": 1}, {"q": "r", "content": "b", "label": 0})
    asked = ["--rows", str(path), "--columns", "query=q", "--limit", "1"]
    assert main(["pairs", *asked, "--out", str(tmp_path / "p")]) == 0
    scores = score_all(tmp_path, read(tmp_path / "p" / "pairs.jsonl"))
    assert main(["join", *asked, "--scores", str(scores), "--out", str(tmp_path / "o" / "train.jsonl")]) == 0
    assert read(tmp_path / "o" / "train.jsonl") == [{"q": "q", "content": "a", "label": 1, "score": 2.1}]
    assert capsys.readouterr().out == "1 rows, 1 distinct pairs\n1 rows, 1 documents with scores\n"


def test_a_folder_that_cannot_be_written_ends_with_code_4(tmp_path, files, row, capsys):
    path = files.lines("train.jsonl", row(1))
    (tmp_path / "taken").write_text("")
    assert main(["pairs", "--rows", str(path), "--out", str(tmp_path / "taken" / "x")]) == 4
    assert "cannot be written" in capsys.readouterr().err


def test_thousands_of_scores_are_told_apart_and_the_first_of_two_counts(tmp_path, files):
    path = files.lines("train.jsonl", {"query": "q", "pos": [str(number) for number in range(3000)]})
    pairs = [{"pid": digest(("q", str(number))).hex(), "score": number + 0.5} for number in range(3000)]
    scores = files.lines("scores.jsonl", *pairs, pairs[0] | {"score": 9})
    join_scores(RowFiles((path,)), scores, tmp_path / "joined.jsonl")
    assert read(tmp_path / "joined.jsonl")[0]["pos_scores"] == [number + 0.5 for number in range(3000)]


# orch data score, as far as no model is loaded


def score(*argv):
    done = CliRunner().invoke(orch, ["data", "score", *map(str, argv)])
    return done, str(done.exception)


def model_folder(path, architecture):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architectures": [architecture], "model_type": "bert"}))
    return path


def test_scoring_refuses_a_model_that_no_head_scores_with(tmp_path, files, row):
    path = files.lines("train.jsonl", row(1))
    done, said = score(path, "--model", model_folder(tmp_path / "bert", "BertModel"), "-o", tmp_path / "out.jsonl")
    assert done.exception.exit_code == 4
    assert "no head" in said
    assert done.exception.problems[0].hint == "say how it is scored: embedding"


@pytest.mark.parametrize("chosen", ["cross-encoder", "qwen3-native", "flag-llm-reranker", "reward-model"])
def test_a_format_that_a_model_does_not_fit_is_answered_with_those_that_it_fits(tmp_path, files, row, chosen):
    path, model = files.lines("train.jsonl", row(1)), model_folder(tmp_path / "bert", "BertModel")
    told = ("--family", "encoder", "--format", chosen)
    done, _ = score(path, "--model", model, *told, "-o", tmp_path / "out.jsonl")
    assert done.exception.problems[0].hint == "say how it is scored: embedding"


def test_scoring_refuses_an_output_that_exists(tmp_path, files, row):
    path, out = files.lines("train.jsonl", row(1)), files.raw("out.jsonl", "mine")
    done, said = score(path, "--model", "no/model", "-o", out)
    assert "output-exists" in said
    assert "--force" in done.exception.problems[0].hint
    assert out.read_text() == "mine"


def test_scoring_refuses_its_input_as_output_even_with_force(tmp_path, files, row):
    path = files.lines("train.jsonl", row(1))
    assert "input-is-output" in score(path, "--model", "no/model", "-o", path, "--force")[1]


def test_scoring_refuses_another_ending(tmp_path, files, row):
    path = files.lines("train.jsonl", row(1))
    assert "unknown-ending" in score(path, "--model", "no/model", "-o", tmp_path / "out.csv")[1]


def test_scoring_says_that_there_is_no_such_file(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "orchestrator.serving.chosen_models.require_chosen_load", lambda _: None
    )  # the folder has no weights
    model = model_folder(tmp_path / "reranker", "BertForSequenceClassification")
    done, said = score(tmp_path / "none.jsonl", "--model", model, "-o", tmp_path / "out.jsonl")
    assert "file-not-found" in said
    assert done.exception.exit_code == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reranker"]


def test_scoring_refuses_a_column_map_that_is_none(tmp_path, files, row):
    path = files.lines("train.jsonl", row(1))
    done, _ = score(path, "--model", "no/model", "--map", "query", "-o", tmp_path / "out.jsonl")
    assert done.exit_code == 2
    assert "query is not NEW=OLD" in done.output
