"""A shape of rows is added from here, in one place each time, and every verb reads it."""

from __future__ import annotations

import json

import pytest

from orchestrator.data.check import check_files
from orchestrator.data.convert import Conversion, convert_files
from orchestrator.data.mining import gather_for_mining
from orchestrator.data.prepare import main as prepare
from orchestrator.data.prepare_eval import main as prepare_eval
from orchestrator.data.prepare_eval import prepare_eval as prepare_eval_files
from orchestrator.data.request import RowFiles
from orchestrator.data.reshape import Reshaping
from orchestrator.data.rows import shapes
from orchestrator.data.rows.checks import RowRules
from orchestrator.data.rows.shapes import Fields, Shape
from orchestrator.data.rows.texts import bad_row
from orchestrator.data.split import split_file
from orchestrator.data.teacher import join_scores, write_pairs
from orchestrator.errors import DataError
from orchestrator.serving.evaluate_model import sniff_data


def read_exam(row):
    """{"task", "right", "wrong"}: a question with its right answer and its wrong ones."""
    names = {"query": "task", "pos": "right", "neg": "wrong"}
    return Fields({"query": row["task"], "pos": [row["right"]], "neg": row["wrong"]}, names, frozenset({"pos"}))


def rewrite_exam(row):
    rest = {key: value for key, value in row.items() if key not in {"task", "right", "wrong"}}
    return {"query": row["task"], "pos": [row["right"]], "neg": row["wrong"]} | rest


KEYS = ("task", "right", "wrong")
READ = Shape("exam", "group", KEYS, read_exam, lists=("wrong",))
REWRITTEN = Shape("exam", "group", KEYS, rewrite=rewrite_exam, lists=("wrong",))


@pytest.fixture(params=[READ, REWRITTEN], ids=["read", "rewritten"])
def exam(request):
    shapes.register(request.param)
    yield request.param
    shapes.SHAPES.remove(request.param)
    shapes.forget_order()


def build_row(number, **changes):
    return {"task": f"question {number}", "right": f"answer {number}", "wrong": [f"other {number}", "none"]} | changes


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "exam.jsonl"
    path.write_text("".join(json.dumps(build_row(number)) + "\n" for number in range(20)))
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_of_it_are_checked_prepared_and_split(exam, path, tmp_path):
    assert check_files([path]).ok
    argv = ["--train", str(path), "--eval-ratio", "0.3", "--form", "flagembedding", "--out", str(tmp_path / "out")]
    assert prepare(argv) == 0
    found = read_lines(tmp_path / "out/train.jsonl")
    assert set(map(tuple, found)) == {("query", "pos", "neg")}
    assert len(found) + len(read_lines(tmp_path / "out/eval.jsonl")) == 20
    report = split_file(path, tmp_path / "a.jsonl", tmp_path / "b.jsonl", 0.3)
    assert report.train_rows + report.eval_rows == 20
    assert read_lines(report.train)[0].keys() == set(KEYS)
    assert prepare_eval(["--eval", str(path), "--out", str(tmp_path / "eval")]) == 0


def test_a_table_of_it_is_read(exam, tmp_path):
    path = tmp_path / "exam.csv"
    path.write_text('task,right,wrong\nquestion,answer,"[""other"", ""none""]"\n')
    assert check_files([path]).ok


def test_a_fault_is_told_in_the_words_of_the_row(exam, path):
    path.write_text(json.dumps(build_row(1, wrong="other")) + "\n")
    [problem] = check_files([path]).problems[:1]
    assert problem.message.startswith("wrong-type: ")
    assert ('"wrong"' if exam is READ else '"neg"') in problem.message


def score_all(rows, folder):
    """Score every pair 0.5, and return the rows with their scores and what was counted."""
    write_pairs(rows, folder)
    pairs = read_lines(folder / "pairs.jsonl")
    scores = folder / "scores.jsonl"
    scores.write_text("".join(json.dumps({"pid": pair["pid"], "score": 0.5}) + "\n" for pair in pairs))
    counts = join_scores(rows, scores, folder / "scored.jsonl")
    return read_lines(folder / "scored.jsonl"), counts


CONVERTED = {
    "ranking": {"query": "question 3", "pos": ["answer 3"], "neg": ["other 3", "none"]},
    "hits": {
        "query": "question 3",
        "hits": [
            {"content": "answer 3", "label": 1},
            {"content": "other 3", "label": 0},
            {"content": "none", "label": 0},
        ],
    },
    "pointwise": {"query": "question 1", "content": "answer 1", "label": 1},  # three rows a query
}


@pytest.mark.parametrize("form", CONVERTED)
def test_rows_of_it_are_converted_to_every_form(exam, path, tmp_path, form):
    convert_files([path], tmp_path / "new.jsonl", Conversion(reshaping=Reshaping(form)))
    assert read_lines(tmp_path / "new.jsonl")[3] == CONVERTED[form]


def test_rows_of_it_are_scored_and_mined(exam, path, tmp_path):
    scored, _ = score_all(RowFiles((path,)), tmp_path)
    assert scored[0]["neg_scores"] == [0.5, 0.5]
    assert gather_for_mining(RowFiles((path,)), tmp_path).queries == 20


def test_its_columns_may_have_other_names_in_every_verb(exam, tmp_path):
    path = tmp_path / "exam.csv"
    path.write_text('frage,right,wrong\nquestion,answer,"[""other"", ""none""]"\n')
    columns = {"task": "frage"}
    scored, _ = score_all(RowFiles((path,), RowRules(columns=columns)), tmp_path)
    row = {"query": "question", "pos": ["answer"], "neg": ["other", "none"]}
    assert scored == [row | {"pos_scores": [0.5], "neg_scores": [0.5, 0.5]}]
    assert gather_for_mining(RowFiles((path,), RowRules(columns=columns)), tmp_path).queries == 1
    renamed = Conversion(columns=tuple(columns.items()), reshaping=Reshaping("ranking"))
    convert_files([path], tmp_path / "new.jsonl", renamed)
    assert read_lines(tmp_path / "new.jsonl") == [row]


def find_faults(path, folder):
    """Return what convert, score and mine say of a file whose second row is bad."""
    with pytest.raises(DataError) as converted:
        convert_files([path], folder / "new.jsonl", Conversion(reshaping=Reshaping("hits")))
    with pytest.raises(DataError) as mined:
        gather_for_mining(RowFiles((path,)), folder)
    _, counts = score_all(RowFiles((path,)), folder)
    return [found[0].message for found in (converted.value.problems, mined.value.problems, counts.bad.sum_up())]


def test_its_faults_are_told_in_the_words_of_the_row_by_every_verb(exam, path, tmp_path):
    path.write_text("".join(json.dumps(row) + "\n" for row in (build_row(1), build_row(2, wrong=["other", 5]))))
    name = "wrong" if exam is READ else "neg"
    for message in find_faults(path, tmp_path):
        assert message.startswith(f'wrong-type: "{name}"[1] is a number, not a string')


def test_models_are_evaluated_on_rows_of_it(exam, path, tmp_path):
    request = RowFiles((path,), RowRules(sniff_data([path], {})))
    assert request.rules.kind == "group"
    assert prepare_eval_files(request, tmp_path).ledger.sides["eval"].kept == 20
    assert {document["label"] for document in read_lines(tmp_path / "eval.jsonl")[0]["documents"]} == {0, 1}


def read_votes(row):
    """{"task", "answers", "votes"}: a question, its answers, and a grade each."""
    if row["task"] == "?":
        raise bad_row("not-text", 'the "task" is only a question mark')
    names = {"query": "task", "documents": "answers", "labels": "votes"}
    return Fields({"query": row["task"], "documents": row["answers"], "labels": row["votes"]}, names)


VOTES = {"task": "q", "answers": ["a", "b"], "votes": [1, 0], "id": 7}
HITS = [{"content": "a", "label": 1}, {"content": "b", "label": 0}]


@pytest.fixture
def votes(tmp_path):
    shape = Shape("votes", "labelled", ("task", "answers", "votes"), read_votes, lists=("answers", "votes"))
    shapes.register(shape)
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(VOTES | {"task": f"q{number}"}) + "\n" for number in range(20)))
    yield path
    shapes.SHAPES.remove(shape)
    shapes.forget_order()


def test_graded_rows_of_a_new_shape_go_through_every_verb(votes, tmp_path):
    assert check_files([votes], kind="labelled").ok
    assert sniff_data([votes], {}) == "labelled"
    argv = ["--train", str(votes), "--kind", "labelled", "--form", "cross-encoder-pairs", "--eval-ratio", "0.3"]
    assert prepare([*argv, "--out", str(tmp_path / "out")]) == 0
    sides = [{row["query"] for row in read_lines(tmp_path / f"out/{side}.jsonl")} for side in ("train", "eval")]
    assert sum(map(len, sides)) == len(sides[0] | sides[1]) == 20
    assert prepare_eval(["--eval", str(votes), "--kind", "labelled", "--out", str(tmp_path / "eval")]) == 0
    report = split_file(votes, tmp_path / "a.jsonl", tmp_path / "b.jsonl", 0.3)
    assert report.train_rows + report.eval_rows == 20
    convert_files([votes], tmp_path / "hits.jsonl", Conversion(reshaping=Reshaping("hits")))
    assert read_lines(tmp_path / "hits.jsonl")[0] == {"query": "q0", "hits": HITS, "id": 7}
    scored, _ = score_all(RowFiles((votes,)), tmp_path)
    assert scored[0] == {"query": "q0", "hits": [hit | {"score": 0.5} for hit in HITS], "id": 7}
    assert gather_for_mining(RowFiles((votes,)), tmp_path).queries == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": ["a", 5]}, 'wrong-type: "answers"[1] is a number, not a string'),
        ({"answers": "a"}, 'wrong-type: "answers" is a string, not a list'),
        ({"answers": []}, 'scores-length: "votes" holds 2 and "answers" 0'),
        ({"votes": [1, "high"]}, 'label-not-a-number: "votes"[1] is '),
        ({"votes": [1]}, 'scores-length: "votes" holds 1 and "answers" 2'),
        ({"task": "?"}, 'not-text: the "task" is only a question mark'),
    ],
)
def test_faults_of_graded_rows_are_told_in_the_words_of_the_row(votes, tmp_path, changes, message):
    votes.write_text("".join(json.dumps(row) + "\n" for row in (VOTES, VOTES | changes)))
    [problem] = check_files([votes], kind="labelled").problems
    for found in (problem.message, *find_faults(votes, tmp_path)):
        assert found.startswith(message)


def test_a_grade_of_a_table_is_a_number(tmp_path):
    def read_note(row):
        single = frozenset({"documents", "labels"})
        values = {"query": row["task"], "documents": [row["answer"]], "labels": [row["note"]]}
        return Fields(values, {"query": "task", "documents": "answer", "labels": "note"}, single)

    shape = Shape("note", "labelled", ("task", "answer", "note"), read_note)
    path = tmp_path / "notes.csv"
    path.write_text("task,answer,note\nq,a,1\nq,b,0\n")
    shapes.register(shape)
    try:
        assert check_files([path], kind="labelled").ok
        convert_files([path], tmp_path / "hits.jsonl", Conversion(reshaping=Reshaping("hits")))
        assert gather_for_mining(RowFiles((path,)), tmp_path).queries == 1
        scored, _ = score_all(RowFiles((path,)), tmp_path)
    finally:
        shapes.SHAPES.remove(shape)
        shapes.forget_order()
    assert read_lines(tmp_path / "hits.jsonl") == [{"query": "q", "hits": HITS}]
    assert scored == [{"query": "q", "hits": [hit | {"score": 0.5}]} for hit in HITS]
