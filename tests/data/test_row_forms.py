"""Every form of rows in every verb: what check, prepare, convert, score, mine, evaluate and split make of it is alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.data.check import check_files
from orchestrator.data.convert import Conversion, convert_files
from orchestrator.data.mining import gather_for_mining
from orchestrator.data.prepare import main as prepare
from orchestrator.data.prepare_eval import prepare_eval
from orchestrator.data.request import RowFiles
from orchestrator.data.reshape import Reshaping
from orchestrator.data.rows.checks import RowRules
from orchestrator.data.rows.foreign_rows import _PASSAGES
from orchestrator.data.rows.shapes import SHAPES
from orchestrator.data.split import split_file
from orchestrator.data.teacher import join_scores, write_pairs
from orchestrator.errors import DataError
from orchestrator.serving.evaluate_model import sniff_data

ASK, YES, NO = "how is kettle {} cleaned?", "with vinegar, number {}", "with a car"
USER, ASSISTANT = {"role": "user", "content": ASK}, {"role": "assistant", "content": YES}
PASSAGE = {"docid": "d{}", "title": "Kettles", "text": YES}

# A query with one document that answers it and one that does not, as tools write it. What the rows of a form are.
GROUPS = {
    "ranking": {"query": ASK, "pos": [YES], "neg": [NO]},
    "swift-3": {"query": ASK, "response": YES, "rejected_response": [NO]},
    "swift-4": {"messages": [USER], "positive_messages": [[ASSISTANT]], "negative_messages": [[ASSISTANT | {"content": NO}]]},
    "tevatron": {"query_id": "7", "query": ASK, "positive_passages": [PASSAGE], "negative_passages": [{"docid": "n", "title": "", "text": NO}]},
    "dpr": {"question": ASK, "positive_ctxs": [PASSAGE | {"score": 1000}], "hard_negative_ctxs": [{"text": NO, "score": 9}], "answers": ["clean"]},
    "lists of columns": {"query": ASK, "positive_passages": {"docid": ["1"], "text": [YES]}, "negative_passages": {"docid": ["2"], "text": [NO]}},
    "objects and texts": {"query": ASK, "pos": [{"text": YES}], "neg": [NO]},
    "scored documents": {"query": ASK, "pos": [{"text": YES, "score": 0.9}], "neg": [{"text": NO, "score": 0.1}]},
    "triplet": {"anchor": ASK, "positive": YES, "negative": NO},
    "numbered negatives": {"anchor": ASK, "positive": YES, "negative_1": NO},
    "preference": {"prompt": ASK, "chosen": YES, "rejected": NO},
    "list of texts": [ASK, YES, NO],
    "list of lists": [ASK, [YES], [NO]],
}  # fmt: skip
# A query with its documents and a label each.
JUDGED = {
    "hits": {"query": ASK, "hits": [{"content": YES, "label": 1}, {"content": NO, "label": 0}]},
    "two lists": {"query": ASK, "docs": [YES, NO], "labels": [1, 0]},
    "objects": {"query": ASK, "passages": [{"docid": "d", "text": YES, "relevance": 1}, {"text": NO, "relevance": 0}]},
    "ms-marco": {"query": ASK, "passages": {"passage_text": [YES, NO], "is_selected": [1, 0], "url": ["a", "b"]}},
}
# A question and its answer: query and document where the task is retrieval, a conversation where it is sft.
ANSWERED = {
    "swift": {"query": ASK, "response": YES},
    "question": {"question": ASK, "answer": YES},
    "prompt": {"prompt": ASK, "completion": YES},
    "prompt and response": {"prompt": ASK, "response": YES},
    "list": [ASK, YES],
}
CHATS = {
    "messages": {"messages": [USER, ASSISTANT]},
    "alpaca": {"instruction": ASK, "input": "", "output": YES},
    "dolly": {"instruction": ASK, "response": YES, "category": "open_qa"},
    "flan": {"input": ASK, "output": YES},
    "openorca": {"id": "x", "question": ASK, "response": YES},
    "trl": {"prompt": [USER], "completion": [ASSISTANT]},
    "list of messages": [USER, ASSISTANT],
    **{name: row for name, row in ANSWERED.items() if name != "swift"},
}
PREFERENCES = {
    "texts": {"prompt": ASK, "chosen": YES, "rejected": NO},
    "whole conversations": {"chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT | {"content": NO}]},
    "the prompt said twice": {"prompt": ASK, "chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT | {"content": NO}], "score_chosen": 8.5},
    "trl": {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [ASSISTANT | {"content": NO}]},
    "sharegpt": {"conversations": [{"from": "human", "value": ASK}], "chosen": {"from": "gpt", "value": YES}, "rejected": {"from": "gpt", "value": NO}},
    "alpaca": {"instruction": ASK, "input": "", "chosen": YES, "rejected": NO},
}  # fmt: skip
COUNT = 12


def fill(value, number):
    if isinstance(value, str):
        return value.format(number)
    if isinstance(value, list):
        return [fill(one, number) for one in value]
    return {key: fill(one, number) for key, one in value.items()} if isinstance(value, dict) else value


@pytest.fixture
def write(files):
    return lambda row: files.lines("rows.jsonl", *(fill(row, number) for number in range(COUNT)))


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(number=0):
    return fill(ASK, number), fill(YES, number), NO


def prepare_rows(path, out, kind, form):
    argv = ["--train", str(path), "--eval-ratio", "0.2", "--kind", kind, "--form", form, "--out", str(out)]
    assert prepare(argv) == 0
    return {json.dumps(row, sort_keys=True) for row in read_lines(out / "train.jsonl")}, json.loads(
        (out / "ledger.json").read_text()
    )


def split(path, folder):
    report = split_file(path, folder / "a.jsonl", folder / "b.jsonl", 0.3)
    assert report.train_rows + report.eval_rows == COUNT
    assert sorted(map(json.dumps, read_lines(report.train) + read_lines(report.eval))) == sorted(
        map(json.dumps, read_lines(path))
    )
    return report.train_rows


def score_and_mine(path, folder):
    """Return the scored documents of the first row and how many queries can be mined."""
    write_pairs(RowFiles((path,)), folder)
    scores = folder / "scores.jsonl"
    scores.write_text(
        "".join(json.dumps({"pid": pair["pid"], "score": 0.5}) + "\n" for pair in read_lines(folder / "pairs.jsonl"))
    )
    counts = join_scores(RowFiles((path,), replace=True), scores, folder / "scored.jsonl")
    assert not counts.bad.counts
    return counts.documents, gather_for_mining(RowFiles((path,)), folder / "mined").queries


@pytest.mark.parametrize("name", GROUPS)
def test_a_query_with_what_answers_it_and_what_does_not_is_read_alike_by_every_verb(write, tmp_path, name):
    path = write(GROUPS[name])
    assert check_files([path], kind="group").ok
    assert check_files([path], kind="labelled").ok
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps(fill(GROUPS["ranking"], number)) + "\n" for number in range(COUNT)))
    scored = "scored" in name
    for kind, form in (("group", "swift-reranker"), ("labelled", "cross-encoder-pairs")):
        rows, ledger = prepare_rows(path, tmp_path / kind, kind, form)
        rows = {row.replace("Kettles\\n", "") for row in rows}
        assert rows == prepare_rows(plain, tmp_path / f"{kind}-plain", kind, form)[0]
        assert (
            not scored or any(warning["code"] == "scores-not-used" for warning in ledger["warnings"]) or kind != "group"
        )
    report = convert_files([path], tmp_path / "hits.jsonl", Conversion(reshaping=Reshaping("hits", drop_keys=True)))
    query, yes, no = texts()
    hits = read_lines(tmp_path / "hits.jsonl")[0]
    assert (report.rows_out, hits["query"]) == (COUNT, query)
    assert [(hit["content"].removeprefix("Kettles\n"), hit["label"]) for hit in hits["hits"]] == [(yes, 1), (no, 0)]
    assert [hit.get("score") for hit in hits["hits"]] == ([0.9, 0.1] if scored else [None, None])
    (tmp_path / "mined").mkdir()
    assert prepare_eval(RowFiles((path,), RowRules("group")), tmp_path / "eval").ledger.sides["eval"].kept == COUNT
    assert split(path, tmp_path) == split_file(plain, tmp_path / "c.jsonl", tmp_path / "d.jsonl", 0.3).train_rows
    if name != "scored documents":
        assert score_and_mine(path, tmp_path) == (2 * COUNT, COUNT)


@pytest.mark.parametrize("name", JUDGED)
def test_documents_with_labels_are_read_alike_by_every_verb(write, tmp_path, name):
    path = write(JUDGED[name])
    report = check_files([path])
    assert (report.ok, report.stats["kind"]) == (True, "labelled")
    rows, _ = prepare_rows(path, tmp_path / "out", "labelled", "cross-encoder-lists")
    query = json.loads(min(rows))["query"]
    documents = [YES.format(query.split()[3]), NO]
    assert min(rows) == json.dumps({"query": query, "documents": documents, "labels": [1.0, 0.0]}, sort_keys=True)
    convert_files([path], tmp_path / "hits.jsonl", Conversion(reshaping=Reshaping("ranking", drop_keys=True)))
    assert read_lines(tmp_path / "hits.jsonl")[0] == fill(GROUPS["ranking"], 0)
    (tmp_path / "mined").mkdir()
    assert score_and_mine(path, tmp_path) == (2 * COUNT, COUNT)
    assert sniff_data([path], {}) == "labelled"
    assert prepare_eval(RowFiles((path,), RowRules("labelled")), tmp_path / "eval").ledger.sides["eval"].kept == COUNT
    split(path, tmp_path)


@pytest.mark.parametrize("name", ANSWERED)
def test_a_question_and_its_answer_are_query_and_document_where_the_task_is_retrieval(write, tmp_path, name):
    path = write(ANSWERED[name])
    rows, _ = prepare_rows(path, tmp_path / "out", "group", "swift-embedding")
    query = next(number for number in range(COUNT) if ASK.format(number) in min(rows))
    wanted = {
        "messages": [fill(USER, query)],
        "positive_messages": [[{"role": "user", "content": YES.format(query)}]],
        "negative_messages": [],
    }
    assert json.loads(min(rows)) == wanted
    (tmp_path / "mined").mkdir()
    assert score_and_mine(path, tmp_path) == (COUNT, COUNT)
    convert_files([path], tmp_path / "hits.jsonl", Conversion(reshaping=Reshaping("pointwise")))
    assert read_lines(tmp_path / "hits.jsonl")[0] == {"query": texts()[0], "content": texts()[1], "label": 1}
    measured = prepare_eval(RowFiles((path,), RowRules("group")), tmp_path / "eval", corpus=True)
    assert measured.ledger.sides["eval"].kept == COUNT
    split(path, tmp_path)


@pytest.mark.parametrize("name", CHATS)
def test_a_question_and_its_answer_are_a_conversation_where_the_task_is_sft(write, tmp_path, name):
    path = write(CHATS[name])
    assert check_files([path], kind="chat").ok
    rows, _ = prepare_rows(path, tmp_path / "out", "chat", "swift-chat")
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps(fill(CHATS["messages"], number)) + "\n" for number in range(COUNT)))
    assert rows == prepare_rows(plain, tmp_path / "plain", "chat", "swift-chat")[0]
    split(path, tmp_path)


@pytest.mark.parametrize("name", PREFERENCES)
def test_of_a_preference_a_conversation_learns_what_was_chosen_and_the_ledger_says_so(write, tmp_path, name):
    path = write(PREFERENCES[name])
    rows, ledger = prepare_rows(path, tmp_path / "out", "chat", "swift-chat")
    assert all(len(json.loads(row)["messages"]) == 2 and NO not in row for row in rows)
    [warning] = [one for one in ledger["warnings"] if one["code"] == "rejected-not-learnt"]
    assert (warning["count"], warning["message"].startswith("preferences: 12;")) == (COUNT, True)
    split(path, tmp_path)


# What may mean two things, or holds a text that nothing reads, is asked about; what the remedy says is enough.
UNCLEAR = [
    ({"query": ASK, "docs": [YES, NO], "scores": [0.9, 0.1]}, (), "--from lists", ("--map", "labels=scores")),
    ({"query": ASK, "documents": [{"text": YES, "score": 1}, {"text": NO, "score": 0}]}, ("--kind", "labelled"),
     "--scores-as-labels", ("--scores-as-labels",)),
    ({"frage": ASK, "positive_passages": [PASSAGE], "negative_passages": [{"text": NO}]}, (), "--map query=NAME",
     ("--map", "query=frage")),
    ({"query": ASK, "positive_passages": [PASSAGE | {"summary": "all that there is to say"}],
      "negative_passages": [{"text": NO}]}, (), "data.ignore: [summary]", ("--ignore", "summary")),
    ({"query": ASK, "passages": [{"text": YES}]}, (), "data.columns: {pos: passages}", ("--map", "pos=passages", "--kind", "labelled")),
    ({"instruction": ASK, "context": "a kettle is made of steel", "response": YES}, ("--kind", "chat"),
     "--map input=context", ("--map", "input=context")),
    ({"question": ASK, "context": "a kettle is made of steel", "answer": YES}, ("--kind", "chat"),
     "data.ignore: [context]", ("--ignore", "context")),
]  # fmt: skip


@pytest.mark.parametrize(("row", "told", "remedy", "given"), UNCLEAR, ids=str)
def test_what_is_unclear_is_asked_about_and_the_remedy_is_enough(write, orch, row, told, remedy, given):
    path = write(row)
    code, said = orch("data", "check", path, *told)
    assert (code, remedy in said) == (3, True), said
    assert orch("data", "check", path, *told, *given)[0] == 0


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"query": ASK, "positive_passages": [PASSAGE, {"id": 5}]}, '"positive_passages"[1] is not a list of objects'),
        ({"query": ASK, "pos": [{"text": YES, "score": 1}, {"text": NO}], "neg": [NO]}, 'a document in "pos" has no'),
        ({"query": ASK, "negative_passages": [PASSAGE]}, "there is none of pos, positive_passages, "),
        ({"query": ASK, "pos": [{"t": 1}], "neg": [NO]}, '"pos"[0] is an object, not a string'),
        ({"prompt": "another question", "chosen": [USER, ASSISTANT], "rejected": []}, '"chosen"[0] is of the role user'),
    ],
    ids=str,
)  # fmt: skip
def test_a_document_that_is_none_is_a_fault_in_the_row_s_own_words(write, row, says):
    kind = "chat" if "chosen" in row else "group"
    problem = check_files([write(row)], kind=kind).problems[0]
    assert says in problem.message
    with pytest.raises(DataError) as error:
        convert_files([write(row)], write(row).with_name("new.jsonl"), Conversion(form="passages"))
    assert error.value.problems


def build_table():
    """Return the table of docs/data-formats.md: every entry of the registry that is read by its keys."""
    lines = ["| kind | keys | and perhaps |", "|---|---|---|"]
    for shape in SHAPES:
        optional = ", ".join(f"`{key}`" for key in shape.optional)
        line = f"| {shape.kind} | {', '.join(f'`{key}`' for key in (*shape.needs, *shape.given))} | {optional} |"
        if shape.needs and shape.read and line not in lines:
            lines.append(line)
    return "\n".join(lines)


def test_the_documentation_lists_every_form_of_the_registry():
    page = (Path(__file__).parents[2] / "docs/data-formats.md").read_text(encoding="utf-8")
    assert build_table() in page, build_table()
    assert all(f"`{key}`" in page for keys in (_PASSAGES["pos"], _PASSAGES["neg"]) for key in keys)
