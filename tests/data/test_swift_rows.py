from __future__ import annotations

import pytest

from orchestrator.data.forms import TRAIN_FORMS, RowOptions
from orchestrator.data.rows.records import Chat, Message, RankingGroup, ScoredPair

GROUP = RankingGroup("q", ("p",), ("n", "m"), "a", 1)
PAIR = ScoredPair("q", "p", 0.5, "a", 1)
CHAT = Chat((Message("system", "s"), Message("user", "q"), Message("assistant", "r")), "a", 1)


def build(form, record, *options):
    [row] = TRAIN_FORMS[form].rows(record, RowOptions(*options))
    return row


def say(role, text):
    return [{"role": role, "content": text}]


def test_an_embedding_row_has_only_user_messages_and_its_instruction_inline():
    assert build("swift-embedding", GROUP, "Find.") == {
        "messages": say("user", "Instruct: Find.\nQuery:q"),
        "positive_messages": [say("user", "p")],
        "negative_messages": [say("user", "n"), say("user", "m")],
    }


def test_rows_without_negatives_have_the_same_keys():
    bare = RankingGroup("q", ("p",), (), "a", 1)
    assert list(build("swift-embedding", bare)) == list(build("swift-embedding", GROUP))


def test_a_pair_has_its_score_as_a_label_but_not_for_infonce():
    row = {"messages": say("user", "q"), "positive_messages": [say("user", "p")]}
    assert build("swift-embedding", PAIR) == row | {"label": 0.5}
    assert build("swift-embedding", PAIR, None, "infonce") == row


def test_a_reranker_row_has_its_documents_from_the_assistant_and_the_instruction_from_the_system():
    row = build("swift-reranker", GROUP, "Judge.")
    assert row["messages"] == say("system", "Judge.") + say("user", "q")
    assert row["positive_messages"] == [say("assistant", "p")]
    assert row["negative_messages"] == [say("assistant", "n"), say("assistant", "m")]


def test_a_rows_own_prompt_stands_in_for_the_instruction():
    own = RankingGroup("q", ("p",), ("n",), "a", 1, prompt="Mine.")
    assert build("swift-reranker", own, "Judge.")["messages"][0]["content"] == "Mine."


def test_a_conversation_is_written_as_it_is():
    assert build("swift-chat", CHAT) == {"messages": say("system", "s") + say("user", "q") + say("assistant", "r")}


@pytest.mark.parametrize(("form", "record"), [("flagembedding", PAIR), ("swift-reranker", CHAT), ("swift-chat", PAIR)])
def test_a_form_refuses_records_that_it_has_no_place_for(form, record):
    with pytest.raises(TypeError):
        build(form, record)
