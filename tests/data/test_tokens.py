from __future__ import annotations

import sys

import pytest

from orchestrator.data.rows.records import Chat, LabelledGroup, Message, RankingGroup, ScoredPair
from orchestrator.data.stats import TokenStatistics
from orchestrator.data.tokens import (
    LengthBudget,
    MeasuringQueue,
    TextCounter,
    TokenizerUnusableError,
    TokenLimit,
    build_rule,
    load_tokenizer,
)

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(name="tokenizer_file")
def _tokenizer_file(tmp_path):
    """A tokenizer that makes one token of every word and of every line feed, saved with a training truncation."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))  # noqa: S106 - no password
    pattern = tokenizers.Regex(r"\n|[^\s]+")
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(pattern, "removed", invert=True)
    tokenizer.enable_truncation(2)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def group(query, *documents, prompt=None):
    return RankingGroup(query, documents[:1], documents[1:], "a.jsonl", 1, prompt=prompt)


def words(count):
    return " ".join(["w"] * count)


def count(path, budget, *records, kind="group"):
    counter = TextCounter(load_tokenizer(path))
    rule = build_rule(kind, budget, counter)
    queue, statistics = MeasuringQueue(counter, rule), TokenStatistics(rule, path)
    order = []
    for record in records:
        for _, found, measured in queue.put("a", record):
            order.append(found)
            statistics.add(measured)
    for _, found, measured in queue.flush():
        order.append(found)
        statistics.add(measured)
    assert order == list(records)
    return statistics.to_json()


def test_tokens_are_counted_beyond_the_saved_truncation(tokenizer_file):
    found = count(tokenizer_file, None, group(words(3), words(5), words(7)))
    assert found == {
        "query": {"p50": 3, "p95": 3, "max": 3, "mean": 3.0},
        "document": {"p50": 5, "p95": 7, "max": 7, "mean": 6.0},
        "pair_mean": 9.0,
        "tokenizer": str(tokenizer_file),
    }


def test_a_folder_with_a_tokenizer_serves_as_well(tokenizer_file):
    assert load_tokenizer(tokenizer_file.parent)


def cuts(path, budget, *groups):
    found = count(path, budget, *groups)
    return found["queries_cut"], found["documents_cut"], found["tokens_cut"]


def test_a_query_is_cut_at_its_length_and_a_quarter_of_the_documents(tokenizer_file):
    budget = LengthBudget(query_max_len=10, passage_max_len=40, prompt="")
    assert cuts(tokenizer_file, budget, group(words(20), "d", "d")) == (0, 0, 0)
    assert cuts(tokenizer_file, budget, group(words(23), "d", "d")) == (1, 0, 3)


def test_a_document_is_cut_at_its_length_and_half_of_the_querys(tokenizer_file):
    budget = LengthBudget(query_max_len=10, passage_max_len=40, prompt="")
    assert cuts(tokenizer_file, budget, group(words(1), words(45), words(47))) == (0, 1, 2)


def test_the_pair_loses_the_prompt_and_two_separators_from_the_documents_end(tokenizer_file):
    budget = LengthBudget(query_max_len=10, passage_max_len=40, prompt=words(8))
    # 10 + 40 - 8 - 1 = 41 tokens for query, separator and document
    assert cuts(tokenizer_file, budget, group(words(10), words(30), words(33))) == (0, 1, 3)


def test_a_rows_own_prompt_stands_in_for_the_default(tokenizer_file):
    budget = LengthBudget(query_max_len=10, passage_max_len=40, prompt=words(8))
    assert cuts(tokenizer_file, budget, group(words(10), words(30), words(33), prompt=words(5))) == (0, 0, 0)


def test_a_document_is_left_whole_where_the_query_alone_fills_the_pair(tokenizer_file):
    budget = LengthBudget(query_max_len=10, passage_max_len=40, prompt=words(32))
    # 10 + 40 - 32 - 1 = 17 tokens, and the query may have 20: transformers then cuts nothing
    assert cuts(tokenizer_file, budget, group(words(20), words(2), words(3))) == (0, 0, 0)
    assert cuts(tokenizer_file, budget, group(words(16), words(2), words(3))) == (0, 2, 2 + 3)


def test_instructions_count_as_part_of_the_texts(tokenizer_file):
    budget = LengthBudget(10, 40, query_instruction="A: ", passage_instruction="B: ", prompt="")
    assert cuts(tokenizer_file, budget, group(words(20), words(1), words(44))) == (1, 1, 1 + 45 - (50 - 1 - 20 - 1))


def test_groups_beyond_one_batch_are_all_counted(tokenizer_file):
    budget = LengthBudget(10, 40, prompt="")
    assert cuts(tokenizer_file, budget, *[group(words(21), "d", "d")] * 2000) == (2000, 0, 2000)


def test_a_folder_without_a_tokenizer_is_unusable(tmp_path):
    with pytest.raises(TokenizerUnusableError, match="there is no"):
        load_tokenizer(tmp_path)


def test_a_broken_tokenizer_is_unusable(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerUnusableError, match="cannot be loaded"):
        load_tokenizer(tmp_path)


def test_a_missing_package_makes_every_tokenizer_unusable(tokenizer_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TokenizerUnusableError, match="not installed"):
        load_tokenizer(tokenizer_file)


def test_embedding_texts_have_an_end_token_and_the_anchor_its_instruction(tokenizer_file):
    limit = TokenLimit(8, instruction="w w")
    # "Instruct:", "w", "w", line feed, "Query:w", "w": 6 and the end token
    found = count(tokenizer_file, limit, group(words(2), words(7), words(8)))
    assert (found["query"]["max"], found["document"]["max"]) == (7, 9)
    assert (found["queries_cut"], found["documents_cut"], found["tokens_cut"]) == (0, 1, 1)


def test_pairs_are_counted_text_by_text(tokenizer_file):
    found = count(tokenizer_file, TokenLimit(4), ScoredPair(words(3), words(6), 1.0, "a", 1), kind="pair")
    assert (found["text"]["max"], found["texts_cut"], found["tokens_cut"]) == (7, 1, 3)


def test_a_reranker_reads_query_and_document_in_one_prompt(tokenizer_file):
    limit = TokenLimit(100, form="swift-reranker", instruction="w")
    counter = TextCounter(load_tokenizer(tokenizer_file))
    prompt = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        "<Instruct>: w\n<Query>: \n<Document>: <|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    room = 100 - counter.count([prompt])[0] - 5
    found = count(tokenizer_file, limit, group(words(5), words(room), words(room + 2)))
    assert (found["queries_cut"], found["documents_cut"], found["tokens_cut"]) == (0, 1, 2)


def test_a_conversation_is_counted_as_a_whole(tokenizer_file):
    chat = Chat((Message("user", "w w"), Message("assistant", "w")), "a", 1)
    # "<|im_start|>user", LF, "w", "w<|im_end|>", LF, "<|im_start|>assistant", LF, "w<|im_end|>", LF
    found = count(tokenizer_file, TokenLimit(8), chat, kind="chat")
    assert (found["conversation"]["max"], found["conversations_cut"], found["tokens_cut"]) == (9, 1, 1)


def test_what_the_template_puts_before_an_answer_counts_unless_the_answer_has_it(tokenizer_file):
    limit = TokenLimit(99, answer_prefix="<think>\n\n</think>\n\n")
    plain = Chat((Message("user", "w w"), Message("assistant", "w")), "a", 1)
    thinking = Chat((Message("user", "w w"), Message("assistant", "<think> w")), "a", 1)
    lengths = [count(tokenizer_file, limit, chat, kind="chat")["conversation"]["max"] for chat in (plain, thinking)]
    assert lengths == [9 + 6, 10]


def test_special_tokens_of_the_tokenizer_count_as_one(tmp_path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    chat = Chat((Message("user", "a"), Message("assistant", "b")), "a", 1)
    found = count(tmp_path, None, chat, kind="chat")
    assert found["conversation"]["max"] == len("user\na") + len("\n") + len("assistant\nb\n") + 4


def test_without_a_limit_nothing_is_said_about_cuts(tokenizer_file):
    assert "texts_cut" not in count(tokenizer_file, None, ScoredPair("a", "b", 1.0, "a", 1), kind="pair")


def labelled(query, *documents):
    return LabelledGroup(query, documents, (0.0,) * len(documents), None, "a.jsonl", 1)


@pytest.mark.parametrize(
    ("query", "documents", "queries_cut", "documents_cut", "tokens_cut"),
    [
        (3, (7, 6), 0, 0, 0),
        (3, (8, 7), 0, 1, 1),
        (6, (6,), 1, 1, 2),
        (8, (2, 3), 1, 0, 1),
        (9, (8, 1), 1, 1, 7),
        (5, (20,), 0, 1, 15),
    ],
)
def test_a_cross_encoder_takes_tokens_from_the_longer_of_query_and_document(
    tokenizer_file, query, documents, queries_cut, documents_cut, tokens_cut
):
    record = labelled(words(query), *map(words, documents))
    found = count(tokenizer_file, TokenLimit(10, form="cross-encoder-lists"), record, kind="labelled")
    assert (found["queries_cut"], found["documents_cut"], found["tokens_cut"]) == (
        queries_cut,
        documents_cut,
        tokens_cut,
    )
    assert (found["query"]["max"], found["document"]["max"]) == (query, max(documents))


def test_a_cross_encoder_counts_the_special_tokens_of_a_pair(tokenizer_file):
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    special = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", special
    )
    tokenizer.save(str(tokenizer_file))
    limit = TokenLimit(10, form="cross-encoder-pairs")
    assert count(tokenizer_file, limit, labelled(words(3), words(4)), kind="labelled")["tokens_cut"] == 0
    assert count(tokenizer_file, limit, labelled(words(3), words(5)), kind="labelled")["tokens_cut"] == 1


def test_labelled_texts_are_counted_without_a_limit_too(tokenizer_file):
    found = count(tokenizer_file, None, labelled(words(3), words(4)), kind="labelled")
    assert (found["query"]["max"], found["document"]["max"], "tokens_cut" in found) == (3, 4, False)
