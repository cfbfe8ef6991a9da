"""A conversation is known by what comes before its answer, not by its first message."""

from __future__ import annotations

import json

import pytest

from orchestrator.data.split import split_file

STAGE = ("--kind", "chat", "--form", "swift-chat")


def talk(*contents, system=None, **marks):
    """Return a conversation of user and assistant in turn; `marks` are the last message's."""
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(contents)]
    turns[-1] |= marks
    return {"messages": [*([{"role": "system", "content": system}] if system else []), *turns]}


def greeted(number):
    return talk("你好", "您好，请问有什么可以帮您？", f"如何保养第{number}号水壶？", f"用醋煮沸第{number}号。")


@pytest.fixture
def sides(stage, files):
    def prepare(train, evaluation, *options):
        argv = ("--train", files.lines("t.jsonl", *train), "--eval", files.lines("e.jsonl", *evaluation))
        return stage(*argv, *STAGE, *options)

    return prepare


def dropped(stage):
    return stage.json("ledger.json")["sides"]["train"]["dropped"]


def test_conversations_that_only_open_alike_are_no_leak(stage, sides):
    assert sides([greeted(number) for number in range(24)], [greeted(number) for number in range(100, 106)]) == 0
    assert (len(stage.lines("train.jsonl")), dropped(stage), stage.json("ledger.json")["warnings"]) == (24, {}, [])


def test_conversations_that_only_open_alike_can_be_split(stage, files):
    train = files.lines("t.jsonl", *map(greeted, range(40)))
    assert stage("--train", train, "--eval-ratio", 0.25, *STAGE) == 0
    assert 2 < len(stage.lines("eval.jsonl")) < 20


@pytest.mark.parametrize(
    ("train", "leaks"),
    [
        (talk("hi", "hello", "how?", "so"), True),
        (talk("hi", "hello", "How? ", "another answer"), True),
        (talk("hi", "hello", "how?", "so", "and then?", "thus"), True),
        (talk("hi", "goodbye", "how?", "so"), False),
        (talk("hi", "hello"), False),
        (talk("how?", "so"), False),
        (talk("hi", "hello", "how?", "so", system="Be brief."), False),
    ],
)
def test_a_leak_has_the_system_message_and_all_turns_before_an_answer_that_is_measured(stage, sides, train, leaks):
    assert sides([greeted(1), train], [talk("hi", "hello", "how?", "so")]) == 0
    assert dropped(stage) == ({"query-also-in-eval": 1} if leaks else {})


def test_an_answer_that_is_not_learnt_leaks_nothing(stage, sides):
    [*turns, last] = talk("hi", "hello", "how?", "so")["messages"]
    turns[1]["loss"] = False
    assert sides([greeted(1), {"messages": [*turns, last]}], [talk("hi", "hello")]) == 0
    assert dropped(stage) == {}


def test_the_way_out_of_a_leak_that_takes_all_rows_is_told_and_works(stage, sides):
    rows = [greeted(number) for number in range(3)], [talk("你好", "您好！")]
    assert sides(*rows) == 3
    assert "no-rows-kept: no train row is left of 3 (query-also-in-eval 3)" in stage.stderr
    assert "data.overlap: keep (--allow-overlap)" in stage.stderr
    assert sides(*rows, "--allow-overlap") == 0
    assert len(stage.lines("train.jsonl")) == 3
    [warned] = stage.json("ledger.json")["warnings"]
    assert (warned["code"], warned["count"]) == ("query-also-in-eval", 3)


def test_an_earlier_answer_that_a_split_puts_on_both_sides_is_warned_about(stage, files):
    rows = [talk("hi", "hello"), *(talk("hi", "hello", f"question {number}", "so") for number in range(40))]
    codes = set()
    for seed in range(8):
        assert stage("--train", files.lines("t.jsonl", *rows), "--eval-ratio", 0.5, "--seed", seed, *STAGE) == 0
        on_eval = any(len(row["messages"]) == 1 for row in stage.lines("eval.jsonl"))
        warned = {found["code"]: found["count"] for found in stage.json("ledger.json")["warnings"]}
        assert warned.get("answer-also-in-eval", 0) == (len(stage.lines("train.jsonl")) if on_eval else 0)
        codes.add(on_eval)
    assert codes == {True, False}


def test_a_file_is_split_by_the_same_texts(files):
    path = files.lines("a.jsonl", *map(greeted, range(20)))
    train, held = files.folder / "train.jsonl", files.folder / "eval.jsonl"
    report = split_file(path, train, held, 0.3)
    assert (report.train_rows + report.eval_rows, min(report.train_rows, report.eval_rows) > 1) == (20, True)
    assert json.loads(held.read_text(encoding="utf-8").splitlines()[0])["messages"][0]["content"] == "你好"
