"""Keys that hold a person's text are read, or asked about: never left out in silence."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from orchestrator.data.check import check_files
from orchestrator.data.mining import gather_for_mining
from orchestrator.data.prepare_eval import prepare_eval
from orchestrator.data.request import RowFiles
from orchestrator.data.rows.checks import RowRules, check_row
from orchestrator.data.rows.records import RankingGroup
from orchestrator.data.teacher import write_pairs
from orchestrator.errors import DataError

SHIPPED = Path(__file__).parents[2] / "datasets_example"
TEXT = "The garden hose was sold in spring for a small price."
PAIR = {"query": "how do I take care of a kettle?", "response": "Clean it and keep it dry."}
TASK = {"instruction": "Answer from the context.", "output": "Clean it and keep it dry."}
GROUP = {"query": "q", "pos": ["p"], "neg": ["n"]}
CHAT = {"messages": [{"role": "user", "content": "which bird?"}, {"role": "assistant", "content": "a falcon"}]}
HITS = {"query": "q", "hits": [{"content": "a", "label": 1}, {"content": "b", "label": 0}]}

# a row, its kind, the key that nothing reads, what it is read as (None: nothing near)
UNREAD = [
    (PAIR | {"rejected_responses": [TEXT, "no"]}, "group", "rejected_responses", "rejected_response"),
    (PAIR | {"neg_doc": "no"}, "group", "neg_doc", "rejected_response"),
    ({"query": "q", "pos": ["p"], "hard_negs": ["n"]}, "labelled", "hard_negs", "neg"),
    (TASK | {"inputs": "Kettles rust."}, "chat", "inputs", "input"),
    (TASK | {"context": "Kettles rust."}, "chat", "context", "input"),
    (CHAT | {"system_prompt": "Be brief."}, "chat", "system_prompt", "system"),
    (TASK | {"chat_history": [["hello", "hi"]]}, "chat", "chat_history", "history"),
    (TASK | {"explanation": TEXT}, "chat", "explanation", None),
    (TASK | {"解释": "水壶要保持干燥，避免生锈"}, "chat", "解释", None),
    (PAIR | {"history": [["what is a kettle for?", "It boils water."]]}, "group", "history", None),
    (GROUP | {"candidates": [{"id": 7, "text": TEXT}]}, "group", "candidates", None),
    ({"query": "q", "hits": [{"content": "a", "label": 1, "title": TEXT}]}, "labelled", "hits[].title", None),
    ({"sentence1": "a", "sentence2": "b", "score": 1, "explanation_1": TEXT}, "pair", "explanation_1", None),
    (TASK | {"系统提示": "你是助手"}, "chat", "系统提示", "system"),
    (TASK | {"背景": "蜂蜜不坏"}, "chat", "背景", "input"),
    ({"query": "q", "pos": ["p"], "负例": ["n"]}, "labelled", "负例", "neg"),
    (GROUP | {"instruction": "Find it"}, "group", "instruction", "prompt"),
    (CHAT | {"rejected_response": "no"}, "chat", "rejected_response", None),
    (GROUP | {"hard_negatives": ["x"]}, "group", "hard_negatives", None),
    (TASK | {"思维链": "先想一想"}, "chat", "思维链", None),
    # what judges documents otherwise than what is read of them
    (PAIR | {"score": 0.1}, "group", "score", None),
    (PAIR | {"is_relevant": False}, "group", "is_relevant", None),
    (PAIR | {"标签": "0"}, "group", "标签", None),
    (GROUP | {"label": 0}, "group", "label", None),
    ({"query": "q", "pos": ["p", "r"], "labels": [1, 0]}, "labelled", "labels", None),
    (GROUP | {"positive_score": [0.9]}, "labelled", "positive_score", None),
    (GROUP | {"teacher_scores": [0.9, 0.1]}, "group", "teacher_scores", None),
    ({"sentence1": "a", "sentence2": "b", "score": 0.2, "label": 1}, "pair", "label", None),
]


@pytest.mark.parametrize(
    ("row", "kind", "key", "near"), UNREAD, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_key_with_a_text_that_nothing_reads_is_refused_until_that_is_said_to_be_meant(
    files, orch, row, kind, key, near
):
    path = files.lines("rows.jsonl", row)
    code, said = orch("data", "check", path, "--kind", kind)
    assert (code, f'rows.jsonl:1: text-not-read: the row has "{key}"' in said) == (3, True)
    name = key.rpartition(".")[2]
    assert f"data.ignore: [{name}] (--ignore {name})" in said
    assert orch("data", "check", path, "--kind", kind, "--ignore", name)[0] == 0
    if near:
        [advice] = re.findall(r"--map \S+", said)
        assert advice == f"--map {near}={key}"
        assert orch("data", "check", path, "--kind", kind, *shlex.split(advice))[0] == 0


@pytest.mark.parametrize(
    "row",
    [
        GROUP | {"id": "a b c d e", "source": "Wikipedia, the free encyclopedia in English", "type": "normal"},
        GROUP | {"doc_ids": ["1", "2"], "docUrl": "https://example.org/a b c d", "meta": {"note": TEXT}},
        GROUP | {"pos_ids": [1], "bm25_scores": [0.5], "createdAt": "Mon Nov 29 in the year 2021", "is_hard": True},
        CHAT | {"prompt": "which bird?", "prompt_id": "abc", "category": "birds"},
        CHAT | {"text": "### User: which bird? ### Assistant: a falcon"},
        TASK | {"input": "", "text": f"Below is an instruction. {TASK['instruction']} Response: {TASK['output']}"},
        TASK | {"context": "", "history": [], "system_prompt": None, "rank": 3},
    ],
)
def test_keys_that_describe_a_row_or_repeat_it_are_no_texts(row):
    kind = "chat" if {"messages", "instruction"} & row.keys() else "group"
    found = check_row(row, source="a", line=1, rules=RowRules(kind))
    assert found.unread == ()


def test_labels_and_scores_under_other_names_are_read_as_advised(files, orch):
    pairs = [PAIR | {"score": number, "query": f"q {number}"} for number in (0.1, 1)]
    path = files.lines("pairs.jsonl", *pairs)
    assert "--map label=score" in orch("data", "check", path)[1]
    assert "scores: 0.1 to 1" in orch("data", "check", path, "--map", "label=score")[1]
    path = files.lines("lists.jsonl", {"query": "q", "pos": ["p", "r"], "labels": [1, 0]})
    command = re.search(r"convert FILE (.+) -o NEW", orch("data", "check", path, "--kind", "labelled")[1])[1]
    assert orch("data", "convert", path, *shlex.split(command), "-o", files.folder / "new.jsonl")[0] == 0
    assert "labels: 0 to 1" in orch("data", "check", files.folder / "new.jsonl")[1]
    path = files.lines("scored.jsonl", GROUP | {"positive_score": [0.9], "negative_scores": [0.1]})
    advised = re.findall(r"--map (\S+)", orch("data", "check", path)[1])
    assert advised == ["pos_scores=positive_score", "neg_scores=negative_scores"]
    assert orch("data", "check", path, *(word for one in advised for word in ("--map", one)))[0] == 0


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.jsonl")), ids=lambda path: path.name)
def test_no_shipped_file_has_an_unread_text(path):
    if path.name.startswith("handbook"):
        return  # what the others are built of
    report = check_files([path])
    assert not [problem for problem in report.problems if problem.message.startswith("text-not-read")]


@pytest.mark.parametrize(
    ("row", "negatives"),
    [
        (PAIR | {"negative_1": "no", "negative_2": "nor this", "negative_10": "last"}, ("no", "nor this", "last")),
        ({"query": "q", "pos": ["p"], "neg_2": "b", "neg_1": "a", "neg_3": None}, ("a", "b")),
    ],
)
def test_numbered_negatives_are_negatives(row, negatives):
    found = check_row(row, source="a", line=1).record
    assert isinstance(found, RankingGroup)
    assert found.negatives == negatives


def test_numbered_negatives_are_scored_and_written_as_a_list(files):
    path = files.lines("t.jsonl", {"query": "q", "pos": ["p"], "negative_1": "a", "negative_2": "b"})
    assert write_pairs(RowFiles((path,)), files.folder).pairs == 3


def test_a_column_that_a_row_need_not_have_may_be_missing_on_some_rows_and_not_on_all(files):
    path = files.lines("t.jsonl", TASK, TASK | {"output": "other", "context": "Kettles rust."})
    assert check_files([path], kind="chat", columns={"input": "context"}).ok
    [problem] = check_files([path], kind="chat", columns={"input": "contxt"}, ignore=["context"]).problems
    assert problem.message == 'unknown-column: no row has "contxt"'


def test_a_text_that_another_column_takes_the_place_of_is_not_lost_in_silence(files):
    path = files.lines("t.jsonl", GROUP | {"query": "how do I clean a kettle?", "rewritten": "kettle cleaning"})
    report = check_files([path], columns={"query": "rewritten"})
    assert [problem.message.split(",")[0] for problem in report.problems] == ['text-not-read: the row has "query"']
    assert check_files([path], columns={"query": "rewritten"}, ignore=["query"]).ok


def test_the_same_rows_are_refused_when_they_are_measured_scored_mined_and_converted(files, orch):
    path = files.lines("t.jsonl", {"query": "q", "pos": ["p"], "negs": ["n"]})
    with pytest.raises(DataError, match='text-not-read: the row has "negs"'):
        prepare_eval(RowFiles((path,)), files.folder / "eval")
    with pytest.raises(DataError, match="text-not-read"):
        write_pairs(RowFiles((path,)), files.folder)
    with pytest.raises(DataError, match="text-not-read"):
        gather_for_mining(RowFiles((path,)), files.folder)
    out = files.folder / "new.jsonl"
    code, said = orch("data", "convert", path, "--to", "hits", "-o", out)
    assert (code, "--map neg=negs" in said, out.exists()) == (3, True, False)
    assert orch("data", "convert", path, "--to", "hits", "--map", "neg=negs", "-o", out)[0] == 0
    assert write_pairs(RowFiles((path,), RowRules(ignore=("negs",))), files.folder).pairs == 1
    assert gather_for_mining(RowFiles((path,), RowRules(columns={"neg": "negs"})), files.folder).documents == 2


def test_mining_takes_no_document_for_a_positive_that_its_label_denies(files):
    path = files.lines("t.jsonl", {"query": "q", "pos": ["p", "r"], "labels": [1, 0]})
    with pytest.raises(DataError, match="labels or scores"):
        gather_for_mining(RowFiles((path,)), files.folder)
    assert gather_for_mining(RowFiles((path,), RowRules(ignore=("labels",))), files.folder).documents == 2


def test_a_foreign_form_s_unread_text_is_refused_by_the_conversion(files, orch):
    path, out = files.lines("t.jsonl", TASK | {"inputs": "Kettles rust."}), files.folder / "new.jsonl"
    code, said = orch("data", "convert", path, "--from", "alpaca", "-o", out)
    assert (code, "text-not-read" in said) == (3, True)
    assert orch("data", "convert", path, "--from", "alpaca", "--map", "input=inputs", "-o", out)[0] == 0
    assert "Kettles rust." in json.loads(out.read_text())["messages"][0]["content"]


def test_reasoning_is_not_left_out_and_can_be_kept(files, orch):
    answer = {"role": "assistant", "content": "a falcon", "reasoning_content": "Birds of prey come to mind."}
    path, out = files.lines("t.jsonl", {"messages": [CHAT["messages"][0], answer]}), files.folder / "new.jsonl"
    code, said = orch("data", "check", path)
    assert (code, "orch data convert FILE --keep-reasoning -o NEW.jsonl" in said) == (3, True)
    assert orch("data", "convert", path, "--keep-reasoning", "-o", out)[0] == 0
    assert json.loads(out.read_text())["messages"][1] == {
        "role": "assistant",
        "content": "<think>\nBirds of prey come to mind.\n</think>\n\na falcon",
    }
    assert orch("data", "check", out)[0] == 0


def test_reasoning_beside_one_answer_is_kept_too(files, orch):
    path, out = files.lines("t.jsonl", TASK | {"Complex_CoT": "Water makes rust."}), files.folder / "new.jsonl"
    assert "--keep-reasoning" in orch("data", "check", path)[1]
    assert orch("data", "convert", path, "--keep-reasoning", "-o", out)[0] == 0
    assert json.loads(out.read_text())["output"] == f"<think>\nWater makes rust.\n</think>\n\n{TASK['output']}"
    assert orch("data", "check", out)[0] == 0


def test_the_stage_takes_the_recipe_s_word_for_it(stage, files):
    path = files.lines("t.jsonl", GROUP | {"comment_of_annotator": TEXT, "note": TEXT})
    assert stage("--train", path, "--form", "flagembedding") == 3
    assert stage("--train", path, "--form", "flagembedding", "--ignore", "note", "comment_of_annotator") == 0
