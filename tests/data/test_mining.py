"""Mining before and after the search: queries, positives and the corpus from rows, and rows from what was found."""

from __future__ import annotations

import io
import json

import pytest
from click.testing import CliRunner

from orchestrator.cli import orch
from orchestrator.data.mining import gather_for_mining, write_mined_rows
from orchestrator.data.request import RowFiles
from orchestrator.data.rows.checks import RowRules
from orchestrator.errors import DataError


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def collect(tmp_path, *paths, corpus_files=(), max_dropped=0, **reading):
    folder = tmp_path / "work"
    rows = RowFiles(paths, RowRules(**reading), max_dropped=max_dropped)
    given = gather_for_mining(rows, folder, corpus_files)
    texts = [row["text"] for row in read(folder / "corpus.jsonl")]
    queries = {
        row["query"]: tuple([texts[number] for number in row[key]] for key in ("positives", "negatives"))
        for row in read(folder / "queries.jsonl")
    }
    return given, queries, texts


def join(tmp_path, finds, **options):
    """Write what a search found, document numbers by query, and return rows, lineage and counts."""
    lines = [
        {"positive_scores": [0.9], "negatives": [{"document": n, "rank": n + 1, "score": 0.5} for n in numbers]}
        for numbers in finds
    ]
    (tmp_path / "work" / "mined.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows, lineage = io.BytesIO(), io.BytesIO()
    made = write_mined_rows(tmp_path / "work", (rows, lineage), **{"wanted": 2, "keep_negatives": False, **options})
    return *([json.loads(line) for line in stream.getvalue().splitlines()] for stream in (rows, lineage)), made


def test_the_corpus_is_every_document_of_every_shape_once(tmp_path, files, row):
    path = files.lines(
        "train.jsonl",
        row(1),
        {"query": "q", "hits": [{"content": "a", "label": 1}, {"content": "other 1", "label": 0}]},
        {"query": "r", "content": "b", "label": 0.5},
    )
    given, queries, texts = collect(tmp_path, path)
    assert texts == ["answer 1", "other 1", "more 1", "a", "b"]
    assert queries == {
        "question 1": (["answer 1"], ["other 1", "more 1"]), "q": (["a"], ["other 1"]), "r": (["b"], [])
    }  # fmt: skip
    assert (given.queries, given.documents, given.rows) == (3, 5, 3)


def test_all_rows_of_a_query_are_one_query_with_all_its_positives(tmp_path, files):
    path = files.lines(
        "train.jsonl", {"query": "Who?", "pos": ["a"], "neg": ["b"]}, {"query": " who? ", "pos": ["b", "c"], "neg": []}
    )
    _, queries, _ = collect(tmp_path, path)
    assert queries == {"Who?": (["a", "b", "c"], [])}


def test_a_document_in_another_spelling_is_the_same(tmp_path, files):
    path = files.lines("train.jsonl", {"query": "q", "pos": ["a  b"], "neg": ["c"]}, {"query": "r", "pos": ["a b"]})
    given, queries, _ = collect(tmp_path, path)
    assert given.documents == 2
    assert queries["r"] == (["a  b"], [])


def test_a_candidate_that_is_the_positive_in_another_width_or_case_is_no_other_document(tmp_path, files):
    path = files.lines("train.jsonl", {"query": "q", "pos": ["Ａ b"], "neg": ["c"]})
    given, _, texts = collect(tmp_path, path, corpus_files=(files.raw("more.txt", "a B\nA\u200b b\nd\n"),))
    assert (given.documents, texts) == (3, ["Ａ b", "c", "d"])


def test_labels_are_scaled_and_half_is_relevant(tmp_path, files):
    hits = [{"content": text, "label": label} for text, label in (("a", 3), ("b", 2), ("c", 1), ("d", 0))]
    path = files.lines("train.jsonl", {"query": "q", "hits": hits}, {"query": "r", "pos": ["e"], "neg": ["f"]})
    _, queries, _ = collect(tmp_path, path, max_label=3.0)
    assert queries == {"q": (["a", "b"], ["c", "d"]), "r": (["e"], ["f"])}


def test_a_query_without_a_positive_is_counted_and_left_out(tmp_path, files, row):
    path = files.lines("train.jsonl", row(1), {"query": "q", "content": "a", "label": 0})
    given, queries, texts = collect(tmp_path, path)
    assert (given.queries_without_positive, list(queries)) == (1, ["question 1"])
    assert "a" in texts


def test_corpus_files_are_rows_with_a_text_or_plain_lines(tmp_path, files, row):
    path = files.lines("train.jsonl", row(1))
    rows = files.lines("more.jsonl", {"text": "from rows", "id": 1}, {"text": "answer 1"})
    lines = files.raw("more.txt", "\ufefffirst line\n\n  second line \n")
    given, _, texts = collect(tmp_path, path, corpus_files=(rows, lines))
    assert texts[3:] == ["from rows", "first line", "second line"]
    assert [(found["role"], found["rows"], len(found["sha256"])) for found in given.inputs] == [
        ("rows", 1, 64), ("corpus", 2, 64), ("corpus", 2, 64)
    ]  # fmt: skip


def test_renamed_columns_and_tables_are_read(tmp_path, files):
    path = files.raw("train.csv", "question,content,label\nq,a,1\nq,b,0\n")
    _, queries, _ = collect(tmp_path, path, columns={"query": "question"})
    assert queries == {"q": (["a"], ["b"])}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"query": "q"}, 'missing-key: the key "pos" is missing'),
        ({"query": " ", "pos": ["a"]}, "empty-query"),
        ({"query": "q", "pos": ["a", ""]}, "empty-text"),
        ({"query": "q", "content": "a"}, 'no number as its "label"'),
        ({"query": "q", "content": "a", "label": 2}, "labels are between 0 and 1"),
    ],
)
def test_bad_rows_are_refused_with_their_place_unless_allowed(tmp_path, files, row, bad, said):
    path = files.lines("train.jsonl", row(1), bad)
    with pytest.raises(DataError, match=said) as error:
        collect(tmp_path, path)
    assert error.value.problems[0].where.line == 2
    given, _, _ = collect(tmp_path, path, max_dropped=1)
    assert list(given.dropped.values()) == [1]


@pytest.mark.parametrize("bad", ['{"title": "a"}', '{"text": 1}', '{"text": " "}', "{"])
def test_a_bad_row_of_the_corpus_is_refused_with_its_place(tmp_path, files, row, bad):
    corpus = files.raw("more.jsonl", '{"text": "good"}\n' + bad + "\n")
    with pytest.raises(DataError) as error:
        collect(tmp_path, files.lines("train.jsonl", row(1)), corpus_files=(corpus,))
    assert str(error.value.problems[0].where) == f"{corpus}:2"


def test_many_bad_rows_are_summed_up(tmp_path, files):
    path = files.lines("train.jsonl", *[{"query": "q"}] * 50)
    with pytest.raises(DataError) as error:
        collect(tmp_path, path)
    assert error.value.problems[-1].message.endswith("(also lines 2, 3, 4, 5, 6 and 44 more)")


@pytest.mark.parametrize(
    ("name", "code"), [("none.txt", "file-not-found"), ("empty.txt", "empty-file"), ("latin.txt", "bad-utf-8")]
)
def test_a_corpus_that_cannot_be_read_is_refused(tmp_path, files, row, name, code):
    files.raw("empty.txt", "")
    files.raw("latin.txt", b"caf\xe9\n")
    with pytest.raises(DataError, match=code):
        collect(tmp_path, files.lines("train.jsonl", row(1)), corpus_files=(tmp_path / name,))


def test_rows_without_any_positive_are_refused(tmp_path, files):
    with pytest.raises(DataError, match="no-rows-kept"):
        collect(tmp_path, files.lines("train.jsonl", {"query": "q", "content": "a", "label": 0}))


def test_finds_become_rows_with_their_lineage(tmp_path, files, row):
    collect(tmp_path, files.lines("train.jsonl", row(1), row(2)))
    rows, lineage, made = join(tmp_path, [[5, 4], [1]])
    assert rows == [
        {"query": "question 1", "pos": ["answer 1"], "neg": ["more 2", "other 2"]},
        {"query": "question 2", "pos": ["answer 2"], "neg": ["other 1"]},
    ]
    assert lineage[0] == {
        "query": "question 1", "positive_scores": [0.9], "kept": 0,
        "mined": [{"rank": 6, "score": 0.5}, {"rank": 5, "score": 0.5}],
    }  # fmt: skip
    assert (made.rows_written, made.mined, made.queries_with_too_few, made.queries_with_none) == (2, 3, 1, 0)


def test_the_rows_own_negatives_are_kept_in_front_and_not_repeated(tmp_path, files, row):
    collect(tmp_path, files.lines("train.jsonl", row(1), row(2)))
    rows, lineage, made = join(tmp_path, [[2, 4], []], keep_negatives=True)
    assert rows[0]["neg"] == ["other 1", "more 1", "other 2"]
    assert (lineage[0]["kept"], len(lineage[0]["mined"])) == (2, 1)
    assert rows[1]["neg"] == ["other 2", "more 2"]
    assert (made.mined, made.queries_with_none) == (1, 1)


def test_a_query_without_any_negative_is_left_out_and_counted(tmp_path, files, row):
    collect(tmp_path, files.lines("train.jsonl", row(1), row(2)))
    rows, lineage, made = join(tmp_path, [[], [1, 2]])
    assert [found["query"] for found in rows] == [found["query"] for found in lineage] == ["question 2"]
    assert made.queries_with_none == 1


def test_a_positive_that_a_search_returns_is_taken_out(tmp_path, files, row):
    collect(tmp_path, files.lines("train.jsonl", row(1), row(2)))
    rows, _, made = join(tmp_path, [[0, 4], [4]])
    assert rows[0]["neg"] == ["other 2"]
    assert made.positives_removed == 1


# orch data mine, as far as no model is loaded


def mine(*argv):
    done = CliRunner().invoke(orch, ["data", "mine", *map(str, argv)])
    return done, str(done.exception)


def embedder(path, *, modules=True, architecture="BertModel"):
    (path / "1_Pooling").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    if modules:
        (path / "modules.json").write_text('[{"path": "", "type": "sentence_transformers.models.Transformer"}]')
    return path


def test_a_corpus_smaller_than_what_is_passed_over_is_refused(tmp_path, files, row, monkeypatch):
    monkeypatch.setattr(
        "orchestrator.serving.chosen_models.require_chosen_load", lambda _: None
    )  # the folder has no weights
    done, said = mine(files.lines("t.jsonl", row(1)), "--model", embedder(tmp_path / "m"), "-o", tmp_path / "out.jsonl")
    assert "the corpus has 3 documents, and the 10 nearest" in said
    assert "--range-min" in done.exception.problems[0].hint
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("name", ["out.jsonl", "out.ledger.json", "out.lineage.jsonl"])
def test_mining_refuses_any_output_that_exists(tmp_path, files, row, name):
    files.raw(name, "mine")
    _, said = mine(files.lines("t.jsonl", row(1)), "--model", "no/model", "-o", tmp_path / "out.jsonl")
    assert "output-exists" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [({"architecture": "BertForSequenceClassification"}, None), ({"modules": False}, "makes one vector of a text")],
)
def test_mining_refuses_a_model_that_makes_no_vectors(tmp_path, files, row, change, said):
    model = embedder(tmp_path / "m", **change)
    if said is None:
        (model / "1_Pooling").rmdir()
    done, message = mine(files.lines("t.jsonl", row(1)), "--model", model, "-o", tmp_path / "out.jsonl")
    assert (said or "scores pairs and makes no vectors") in message
    assert done.exception.exit_code == 4


def test_mining_refuses_a_window_that_is_smaller_than_what_is_asked(tmp_path, files, row):
    asked = ["--model", "no/model", "--range-min", 10, "--range-max", 12, "-o", tmp_path / "out.jsonl"]
    done, _ = mine(files.lines("t.jsonl", row(1)), *asked)
    assert done.exit_code == 2
    assert "fewer than 5 documents" in done.output


def test_mining_refuses_a_cross_encoder_that_would_not_be_asked(tmp_path, files, row):
    asked = ["--model", "no/model", "--cross-encoder", "no/reranker", "-o", tmp_path / "out.jsonl"]
    done, _ = mine(files.lines("t.jsonl", row(1)), *asked)
    assert done.exit_code == 2
    assert "give at least one of these" in done.output


def test_mining_refuses_labels_that_cannot_be_scaled(tmp_path, files, row):
    asked = ["--model", "no/model", "--min-label", 1, "-o", tmp_path / "out.jsonl"]
    done, _ = mine(files.lines("t.jsonl", row(1)), *asked)
    assert done.exit_code == 2
