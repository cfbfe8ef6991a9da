from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.reading.readers import sniff_kind
from orchestrator.data.reasons import REASONS, Fault
from orchestrator.data.rows.checks import RowRules, check_row
from orchestrator.data.rows.records import KINDS, Chat, Message, RankingGroup, ScoredPair
from orchestrator.data.rows.shapes import find_shape, parse_columns

OPEN = RowRules("group", needs_negatives=False)
PAIR = RowRules("pair", takes_prompt=False)
CHAT = RowRules("chat")


def user(text):
    return {"role": "user", "content": text}


def read(value, rules, **options):
    found = check_row(value, source="a.jsonl", line=7, rules=rules, **options)
    return found if isinstance(found, Fault) else found.record


def fault(value, rules, **options):
    found = read(value, rules, **options)
    assert isinstance(found, Fault), found
    return found


def group(query, positives, negatives=(), prompt=None):
    return RankingGroup(query, tuple(positives), tuple(negatives), "a.jsonl", 7, prompt=prompt)


def chat(*turns):
    return Chat(tuple(Message(role, content) for role, content in turns), "a.jsonl", 7)


SYSTEM = {"role": "system", "content": "Judge."}
GROUPS = [
    ({"query": "q", "pos": ["p"]}, group("q", "p")),
    ({"query": "q", "pos": ["p"], "neg": []}, group("q", "p")),
    ({"query": "q", "response": "p"}, group("q", "p")),
    ({"query": "q", "response": "p", "label": None, "rejected_response": None}, group("q", "p")),
    ({"query": "q", "response": "p", "rejected_response": "n"}, group("q", "p", "n")),
    ({"query": "q", "response": "p", "rejected_response": ["n", "m"]}, group("q", "p", "nm")),
    ({"query": "q", "response": "p", "rejected_response": ["n"], "label": 1.0}, group("q", "p", "n")),
    ({"messages": [user("q")], "positive_messages": [[user("p")]]}, group("q", "p")),
    ({"messages": "q", "positive_messages": ["p"], "negative_messages": ["n"]}, group("q", "p", "n")),
    (
        {"messages": [user("q")], "positive_messages": [[user("p")]], "negative_messages": [[user("n")]], "label": 1},
        group("q", "p", "n"),
    ),
    (
        {
            "messages": [SYSTEM, user([{"type": "text", "text": "q"}])],
            "positive_messages": [[{"role": "assistant", "content": "p"}], [{"role": "assistant", "content": "r"}]],
            "negative_messages": [[{"role": "assistant", "content": "n"}]],
        },
        group("q", "pr", "n", "Judge."),
    ),
]
PAIRS = [
    ({"query": "q", "response": "p", "label": 0}, 0.0),
    ({"query": "q", "response": "p", "label": 0, "rejected_response": []}, 0.0),
    ({"sentence1": "q", "sentence2": "p", "score": 0.25}, 0.25),
    ({"messages": [user("q")], "positive_messages": [[user("p")]], "label": 1}, 1.0),
    ({"messages": [user("q")], "positive_messages": [[user("p")]], "negative_messages": [], "label": -1}, -1.0),
]
CHATS = [
    ({"instruction": "i", "output": "o"}, chat(("user", "i"), ("assistant", "o"))),
    ({"instruction": "i", "input": "", "output": "o"}, chat(("user", "i"), ("assistant", "o"))),
    ({"instruction": "i", "input": "x", "output": " o "}, chat(("user", "i\nx"), ("assistant", " o "))),
    ({"query": "q", "response": "r"}, chat(("user", "q"), ("assistant", "r"))),
    (
        {"query": "q", "response": "r", "system": "S", "history": [["a", "b"]]},
        chat(("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "q"), ("assistant", "r")),
    ),
    (
        {"messages": [SYSTEM, user("q"), {"role": "assistant", "content": "r"}]},
        chat(("system", "Judge."), ("user", "q"), ("assistant", "r")),
    ),
    (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}], "system": "S"},
        chat(("system", "S"), ("user", "q"), ("assistant", "r")),
    ),
]


@pytest.mark.parametrize(("row", "record"), GROUPS)
def test_every_shape_of_a_group_becomes_one(row, record):
    assert read(row, OPEN) == record


@pytest.mark.parametrize(("row", "score"), PAIRS)
def test_every_shape_of_a_pair_becomes_one(row, score):
    assert read(row, PAIR) == ScoredPair("q", "p", score, "a.jsonl", 7)


@pytest.mark.parametrize(("row", "record"), CHATS)
def test_every_shape_of_a_conversation_becomes_one(row, record):
    assert read(row, CHAT) == record


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        *[(row, "chat") for row, _ in PAIRS],
        *[(row, "group") for row, _ in PAIRS],
        *[(row, "pair") for row, _ in GROUPS if "label" not in row],
        *[(row, "group") for row, _ in CHATS if "query" not in row],
    ],
)
def test_a_row_of_another_kind_is_called_so(row, wanted):
    found = fault(row, RowRules(wanted, needs_negatives=False))
    assert found.code == "other-kind"
    assert f"and {wanted} rows are wanted" in found.message


@pytest.mark.parametrize(
    ("row", "rules", "code", "sentence"),
    [
        ({"query": "q", "response": "p", "rejected_response": "n", "label": 0}, OPEN, "label-and-negatives", '"0"'),
        (
            {"messages": "q", "positive_messages": ["p"], "negative_messages": ["n"], "label": 0.5},
            OPEN,
            "label-and-negatives",
            '"0.5"',
        ),
        ({"query": "q", "response": "p"}, RowRules(), "no-negative", '"rejected_response" is missing or empty'),
        ({"query": "q", "response": ["p"]}, OPEN, "wrong-type", '"response" is a list, not a string'),
        ({"query": "q", "response": "p", "rejected_response": ["n", 3]}, OPEN, "wrong-type", '"rejected_response"[1]'),
        ({"query": "q", "response": " "}, OPEN, "empty-text", '"response" is empty'),
        ({"messages": [user("q"), user("r")], "positive_messages": ["p"]}, OPEN, "broken-turns", "one user message"),
        ({"messages": "q", "positive_messages": [[user("p"), user("r")]]}, OPEN, "broken-turns", "a document is one"),
        ({"messages": "q", "positive_messages": "p"}, OPEN, "wrong-type", '"positive_messages" is a string'),
        ({"messages": "q", "positive_messages": ["p"], "images": ["a.png"]}, OPEN, "not-text", '"images"'),
        ({"messages": "q", "positive_messages": ["p", "r"], "label": 1}, PAIR, "several-positives", "holds 2 texts"),
        ({"messages": [SYSTEM, user("q")], "positive_messages": ["p"], "label": 1}, PAIR, "prompt-not-used", "messages"),
        ({"query": "q", "response": "p", "label": "1"}, PAIR, "wrong-type", '"label" is a string, not a number'),
        ({"query": "q", "response": "p", "label": True}, PAIR, "wrong-type", '"label" is true or false'),
        ({"query": "q", "response": "p", "label": None}, PAIR, "wrong-type", '"label" is null'),
        ({"sentence1": "q", "sentence2": "p", "score": 10**400}, PAIR, "scores-not-numbers", "not a finite number"),
        ({"sentence1": "", "sentence2": "p", "score": 1}, PAIR, "empty-query", '"sentence1" is empty'),
        ({"sentence1": "q", "sentence2": "\u200b", "score": 1}, PAIR, "empty-text", '"sentence2" is empty'),
        ({"sentence1": "q", "sentence2": "\ud800", "score": 1}, PAIR, "lone-surrogate", '"sentence2" holds'),
        ({"sentence1": "q", "sentence2": 3, "score": 1}, PAIR, "wrong-type", '"sentence2" is a number'),
        ({"sentence1": "q", "sentence2": "p", "label": 1}, PAIR, "missing-key", '"score" is missing, and the row has'),
        ({"messages": [user("q")]}, CHAT, "no-answer", '"messages"[0] is of the role user'),
        ({"messages": []}, CHAT, "no-answer", "there are no messages"),
        ({"messages": [user("q"), user("r")]}, CHAT, "broken-turns", '"messages"[1] is of the role user'),
        ({"messages": [user("q"), SYSTEM]}, CHAT, "broken-turns", "where assistant should speak"),
        ({"messages": "[]"}, CHAT, "wrong-type", '"messages" is a string, not a list of messages'),
        ({"messages": ["q"]}, CHAT, "wrong-type", '"messages"[0] is a string, not a message'),
        ({"messages": [{"content": "q"}]}, CHAT, "missing-key", 'has no "role"'),
        ({"messages": [{"role": "user"}]}, CHAT, "missing-key", 'has no "content"'),
        ({"messages": [{"role": "user", "content": None}]}, CHAT, "wrong-type", "content of"),
        ({"messages": [{"role": 1, "content": "q"}]}, CHAT, "wrong-type", "the role of"),
        ({"messages": [user("q"), {"role": "tool", "content": "r"}]}, CHAT, "not-text", "is a tool message"),
        ({"messages": [user([{"type": "image", "image": "a"}])]}, CHAT, "not-text", '"image"'),
        ({"messages": [user("q")], "tools": ["t"]}, CHAT, "not-text", '"tools"'),
        ({"conversations": [{"from": "alice", "value": "q"}]}, CHAT, "unknown-role", 'is from "alice"'),
        ({"instruction": "i", "output": "\n"}, CHAT, "empty-answer", '"output" is empty'),
        ({"instruction": "", "input": "", "output": "o"}, CHAT, "empty-query", '"instruction" is empty'),
        ({"instruction": "i", "output": 3}, CHAT, "wrong-type", '"output" is a number'),
        ({"instruction": "i", "output": None}, CHAT, "wrong-type", '"output" is null'),
        ({"query": "q", "response": "r", "history": [["a"]]}, CHAT, "wrong-type", '"history"'),
        ({"query": "q", "response": "r", "history": [["a", ""]]}, CHAT, "empty-text", '"history"[0] is empty'),
        ({"query": "q", "response": "r\ud800"}, CHAT, "lone-surrogate", '"response" holds'),
        ({"messages": [SYSTEM, user("q")], "system": "other"}, CHAT, "broken-turns", "another system message"),
        ({"instruction": "i", "answer": "o"}, CHAT, "missing-key", '"output" is missing, and the row has "answer"'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_the_rows_own_names(row, rules, code, sentence):
    found = fault(row, rules)
    assert (found.code, sentence in found.message) == (code, True), found
    assert found.hint
    assert REASONS[found.code].outcome == "bad"


def test_an_unknown_role_lists_the_known_ones():
    assert "human" in fault({"conversations": [{"from": "alice", "value": "q"}]}, CHAT).hint


@pytest.mark.parametrize(("text", "score"), [("0.5", 0.5), ("1", 1.0), (" -3e-1", -0.3)])
def test_a_table_may_give_numbers_as_text(text, score):
    row = {"sentence1": "q", "sentence2": "p", "score": text}
    assert read(row, PAIR, numeric_text=True).score == score


@pytest.mark.parametrize("text", ["", "high", "nan", "inf", "1_0"])
def test_a_text_that_is_no_number_is_none_in_a_table_either(text):
    row = {"sentence1": "q", "sentence2": "p", "score": text}
    assert fault(row, PAIR, numeric_text=True).code in {"scores-not-numbers", "wrong-type"}


def test_renamed_columns_stand_in_for_the_old_ones_and_others_stay():
    rules = RowRules("pair", columns={"sentence1": "a", "sentence2": "b", "score": "s"})
    found = check_row({"a": "q", "b": "p", "s": 1, "id": 3}, source="a.jsonl", line=7, rules=rules)
    assert (found.record, found.unknown_keys) == (ScoredPair("q", "p", 1.0, "a.jsonl", 7), ("id",))


def test_two_columns_can_change_places():
    rules = RowRules("pair", columns={"sentence1": "sentence2", "sentence2": "sentence1"})
    assert read({"sentence1": "p", "sentence2": "q", "score": 1}, rules).text1 == "q"


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    found = fault({"a": "q", "b": "p"}, RowRules("pair", columns={"sentence1": "text_a"}))
    assert found.code == "missing-column"
    assert found.message == '"text_a", to be read as "sentence1", is missing: there are "a", "b"'


@pytest.mark.parametrize("text", ["a", "=a", "a=", ""])
def test_a_column_map_that_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError, match="^"):
        parse_columns([text])


def test_keys_of_messages_that_nothing_reads_are_noted():
    row = {"messages": [user("q") | {"id": 1}, {"role": "assistant", "content": "r"}]}
    assert check_row(row, source="a", line=1, rules=CHAT).unknown_keys == ("messages[].id",)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"query": "q", "response": "r"}', "group"),
        ('{"query": "q", "response": "r", "label": 1}', "pair"),
        ('[{"messages": [{"role": "user", "content": "q"}]}]', "chat"),
        ('{"query": "q", "pos": ["p"]}', "group"),
        ('{"id": 1}', None),
        ("[1]", None),
        ("{", None),
        ("", None),
    ],
)
def test_the_kind_of_a_file_is_that_of_its_first_row(files, text, kind):
    assert sniff_kind(files.raw("a.json", text)) == kind


def test_a_file_that_cannot_be_read_has_no_kind(files):
    assert sniff_kind(files.folder / "missing.jsonl") is None
    assert sniff_kind(files.raw("a.parquet", b"PAR1 broken")) is None


def test_a_table_has_a_kind_too_with_its_columns_renamed(files):
    path = files.raw("a.csv", "a,b,c\nq,p,0.5\n")
    assert sniff_kind(path, {"sentence1": "a", "sentence2": "b", "score": "c"}) == "pair"
    assert sniff_kind(path) is None
    assert sniff_kind(path, {"sentence1": "x"}) is None


keys = st.sampled_from([
    *("query", "pos", "neg", "response", "label", "messages", "positive_messages", "negative_messages"),
    *("conversations", "instruction", "output", "input", "history", "system", "sentence1", "sentence2", "score"),
    *("content", "hits"),
])  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.sampled_from(["a", "", "\ud800", "user"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "type", "text", "label", "score"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(st.dictionaries(keys, values, max_size=6), st.sampled_from(KINDS), st.booleans())
def test_any_row_is_a_record_or_has_a_fault_of_the_table(row, kind, needs_negatives):
    found = check_row(row, source="a", line=1, rules=RowRules(kind, needs_negatives=needs_negatives))
    assert not isinstance(found, Fault) or REASONS[found.code].outcome == "bad"
    assert isinstance(found, Fault) or find_shape(row, kind).kind == kind


@pytest.mark.parametrize(
    "roles", [("System", "User", "Assistant"), ("developer", "user", "model"), ("系统", "用户", "助手")], ids=str
)
def test_roles_are_known_however_they_are_written(roles):
    messages = [{"role": role, "content": "a"} for role in roles]
    found = check_row({"messages": messages}, source="a", line=1, rules=CHAT)
    assert [message.role for message in found.record.messages] == ["system", "user", "assistant"]


def test_a_conversation_without_any_answer_is_not_told_to_remove_what_follows_one():
    row = {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}}
    found = check_row(row, source="a", line=1, rules=CHAT)
    assert (found.code, "add the answer" in found.hint) == ("no-answer", True)
