"""Answers that are marked as not to be learnt: read in every tool's form, handed on, counted, never lost."""

from __future__ import annotations

import json

import pytest

from orchestrator.data.check import check_files
from orchestrator.data.convert import Conversion, convert_files
from orchestrator.data.reasons import Fault
from orchestrator.data.rows.checks import RowRules, check_row

CHAT = RowRules("chat")
STAGE = ("--kind", "chat", "--form", "swift-chat")


def user(text, **marks):
    return {"role": "user", "content": text} | marks


def bot(text, **marks):
    return {"role": "assistant", "content": text} | marks


def corrected(number=1, **marks):
    turns = [user(f"question {number}"), bot("wrong", **marks), user("no"), bot("right")]
    return {"messages": turns}


def read(row, rules=CHAT):
    found = check_row(row, source="a", line=1, rules=rules)
    assert not isinstance(found, Fault), found
    return found


def learnt(row):
    return [message.learnt for message in read(row).record.messages]


@pytest.mark.parametrize("key", ["loss", "loss_scale", "weight", "loss_weight", "train", "training", "step_loss_mask"])
@pytest.mark.parametrize(("value", "said"), [(False, False), (0, False), (0.0, False), (1, True), (True, True)])
def test_a_mark_of_any_tool_says_whether_an_answer_is_learnt(key, value, said):
    found = read(corrected(**{key: value}))
    assert [message.learnt for message in found.record.messages] == [None, said, None, None]
    assert found.unknown_keys == ()


def test_what_is_masked_is_not_learnt_and_null_is_no_mark():
    assert learnt(corrected(masked=True))[1] is False
    assert learnt(corrected(masked=False))[1] is True
    assert learnt(corrected(loss=None))[1] is None


def test_sharegpt_turns_are_marked_alike():
    row = {"conversations": [{"from": "human", "value": "q", "weight": 0}, {"from": "gpt", "value": "a", "weight": 1}]}
    assert learnt(row) == [None, True]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (corrected(loss=0.5), '"messages"[1] has "loss": 0.5, and a message is learnt or is not'),
        (corrected(weight="0"), '"messages"[1] has "weight": a string, and a message is learnt or is not'),
        (corrected(loss_scale=[0, 1]), '"messages"[1] has "loss_scale": a list'),
        (corrected(mask=1), '"messages"[1] has "mask": 1, which does not say whether'),
        (corrected(train_detail=[{"begin_offset": 0, "end_offset": 4, "train": False}]), '"train_detail": a list'),
        (corrected(compute_loss=False), '"messages"[1] has "compute_loss": false, which does not say whether'),
        (corrected(Trainable=0), '"messages"[1] has "Trainable": 0, which does not say whether'),
        (corrected(ignore=True), '"messages"[1] has "ignore": true, which does not say whether'),
        (corrected(label=False), '"messages"[1] has "label": false, which does not say whether'),
        (corrected(训练=0), '"messages"[1] has "训练": 0, which does not say whether'),
        (corrected(loss=False, weight=1), '"messages"[1] has "loss" and "weight", and one of them says the opposite'),
        ({"messages": [user("q", train=True), bot("a")]}, '"messages"[0] is marked as to be learnt by "train"'),
        (corrected() | {"train": False}, 'the row itself has "train": false, and marks are obeyed in messages only'),
        (corrected() | {"loss_mask": [0, 1]}, 'the row itself has "loss_mask": a list'),
        ({"query": "q", "response": "a", "weight": 0.5}, 'the row itself has "weight": 0.5'),
    ],
)
def test_a_mark_that_cannot_be_obeyed_is_a_fault(files, row, says):
    report = check_files([files.lines("a.jsonl", row)], kind="chat")
    assert says in report.problems[0].message
    assert report.problems[0].message.startswith("loss-mark: ")
    assert '"loss": true or false' in report.problems[0].hint


ASKED = {"instruction": "q", "output": "a"}


@pytest.mark.parametrize(
    "marked",
    [{"label": False}, {"kto_tag": False}, {"is_train": False}, {"sample_weight": 0.1}, {"excluded": True}],
    ids=str,
)
@pytest.mark.parametrize("row", [ASKED, {"messages": [user("q"), bot("a")]}], ids=["alpaca", "messages"])
def test_a_row_whose_answer_is_not_wanted_is_a_fault_until_its_mark_is_ignored(files, orch, row, marked):
    [key] = marked
    path = files.lines("a.jsonl", row | marked)
    code, said = orch("data", "check", path, "--kind", "chat")
    assert (code, f'loss-mark: the row itself has "{key}"' in said, f"--ignore {key}" in said) == (3, True, True)
    assert orch("data", "check", path, "--kind", "chat", "--ignore", key)[0] == 0


@pytest.mark.parametrize(
    "marked", [{"label": True}, {"label": 3}, {"train_on_inputs": False}, {"train_id": 7}, {"skip": False}], ids=str
)
def test_what_only_describes_a_row_is_no_mark(files, orch, marked):
    assert orch("data", "check", files.lines("a.jsonl", ASKED | marked))[0] == 0


def test_a_key_that_is_no_mark_can_be_left_unread():
    rules = RowRules("chat", ignore=("weight", "train_id"))
    found = read(corrected(weight=0.3, train_id=7, loss=False) | {"weight": 0.7}, rules)
    assert [message.learnt for message in found.record.messages] == [None, False, None, None]


def test_a_mask_where_no_trainer_has_one_is_a_fault():
    row = {"messages": [user("q")], "positive_messages": [[bot("p", loss=False)]]}
    rules = RowRules("group", needs_negatives=False)
    assert check_row(row, source="a", line=1, rules=rules).code == "loss-mark"
    row["positive_messages"] = [[bot("p", loss=True)]]
    assert read(row, rules).unknown_keys == ()


def test_ms_swift_gets_the_marks_and_the_ledger_counts_them(stage, files):
    train = files.lines("t.jsonl", corrected(0), corrected(1, weight=0), corrected(2, masked=True))
    assert stage("--train", train, "--eval", files.lines("e.jsonl", corrected(9, loss=False)), *STAGE) == 0
    first, *others = stage.lines("train.jsonl")
    assert first["messages"] == corrected(1, loss=False)["messages"]  # in front, though it came second
    assert [row["messages"][1].get("loss") for row in others] == [None, False]
    [warned] = stage.json("ledger.json")["warnings"]
    assert (warned["code"], warned["count"], warned["examples"][0]) == (
        "answers-not-learnt",
        3,
        f"{files.folder}/e.jsonl:1",
    )


def test_the_last_answer_that_is_learnt_ends_the_conversation_on_both_sides(stage, files):
    rows = [{"messages": [user(f"q{n}"), bot(f"good {n}"), user("more"), bot("bad", loss=False)]} for n in range(2)]
    argv = ("--train", files.lines("t.jsonl", rows[0]), "--eval", files.lines("e.jsonl", rows[1]), *STAGE)
    assert stage(*argv) == 0
    assert stage.lines("train.jsonl") == [{"messages": [user("q0"), bot("good 0")]}]
    [row] = stage.lines("eval.jsonl")
    assert (row["messages"], row["reference"]) == ([user("q1")], "good 1")
    warned = {found["code"]: found["count"] for found in stage.json("ledger.json")["warnings"]}
    assert warned == {"answers-not-learnt": 2, "turns-left-out": 4}


def test_a_conversation_without_a_learnt_answer_is_dropped_and_counted(stage, files):
    train = files.lines("t.jsonl", corrected(1), {"messages": [user("q"), bot("bad", loss=0)]})
    assert stage("--train", train, "--eval", files.lines("e.jsonl", corrected(9)), *STAGE) == 0
    side = stage.json("ledger.json")["sides"]["train"]
    assert (side["kept"], side["dropped"]) == (1, {"nothing-to-learn": 1})


def test_conversations_that_are_marked_otherwise_are_no_duplicates(stage, files):
    train = files.lines("t.jsonl", corrected(1), corrected(1, loss=False))
    assert stage("--train", train, "--eval", files.lines("e.jsonl", corrected(9)), *STAGE) == 0
    assert stage.json("ledger.json")["sides"]["train"]["kept"] == 2


def test_converting_sharegpt_keeps_the_marks(files):
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "bad", "loss": False, "id": 3}]}
    out = files.folder / "out.jsonl"
    convert_files([files.lines("a.jsonl", row)], out, Conversion("sharegpt"))
    [message] = json.loads(out.read_text(encoding="utf-8"))["messages"][1:]
    assert message == bot("bad", loss=False, id=3)


def test_converting_a_conversation_keeps_the_mark_that_it_is_not_wanted(files, orch):
    path, out = files.lines("a.jsonl", ASKED | {"label": False}), files.folder / "new.jsonl"
    assert orch("data", "convert", path, "--from", "alpaca", "-o", out)[0] == 0
    code, said = orch("data", "check", out)
    assert (code, '"label": false' in said) == (3, True)
