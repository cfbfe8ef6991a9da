from __future__ import annotations

import json

import pytest

from orchestrator.workers import tiny_model
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring import load_scorer
from orchestrator.workers.specs import ScoringSpec
from orchestrator.workers.weights import hash_file


def test_the_decoder_loads_as_qwen3_with_qwens_special_words_as_single_tokens(decoder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(decoder)
    model = AutoModelForCausalLM.from_pretrained(decoder)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert type(tokenizer).__name__.startswith("Qwen2Tokenizer")
    for word in ("yes", "no", "Yes", "No", "<think>", "</think>", "<|im_start|>", "<|im_end|>"):
        assert len(tokenizer(word)["input_ids"]) == 1, word
    assert (tokenizer.padding_side, tokenizer.pad_token, tokenizer.eos_token) == ("left", "<|endoftext|>", "<|im_end|>")
    assert len(tokenizer) <= 2000
    assert model.config.tie_word_embeddings
    assert tokenizer.decode(tokenizer("任何 text 🙂")["input_ids"]) == "任何 text 🙂"


@pytest.mark.parametrize("like", ["decoder", "encoder"])
def test_the_same_seed_gives_the_same_files(like, request, train_file, eval_file, tmp_path):
    first = request.getfixturevalue(like)
    arguments = ["--like", like, "--texts", train_file, eval_file, "--out", tmp_path / "again"]
    assert tiny_model.main([*map(str, arguments)]) == 0
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert hash_file(first / name) == hash_file(tmp_path / "again" / name), name


def test_another_seed_gives_other_weights(decoder, train_file, eval_file, tmp_path):
    arguments = ["--like", "decoder", "--texts", train_file, eval_file, "--out", tmp_path / "other", "--seed", "43"]
    assert tiny_model.main([*map(str, arguments)]) == 0
    assert hash_file(decoder / "model.safetensors") != hash_file(tmp_path / "other" / "model.safetensors")


def test_the_decoders_vocab_and_merges_make_the_tokens_of_its_tokenizer_json(decoder):
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer.from_file(str(decoder / "tokenizer.json"))
    texts = ["任何 text 🙂 with 12 numbers", "What's\n\n the  capital?"]
    expected = [tokenizer.encode(text).ids for text in texts]
    tokenizer.model = models.BPE.from_file(str(decoder / "vocab.json"), str(decoder / "merges.txt"))
    assert [tokenizer.encode(text).ids for text in texts] == expected


def test_the_encoder_takes_a_head(encoder):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1)
    assert type(model).__name__ == "BertForSequenceClassification"


def test_no_text_or_an_unknown_family_is_refused(tmp_path, train_file):
    (tmp_path / "empty.jsonl").write_text("")
    out = tmp_path / "out"
    with pytest.raises(WorkerError, match="no text"):
        tiny_model.main(["--like", "decoder", "--texts", str(tmp_path / "empty.jsonl"), "--out", str(out)])
    with pytest.raises(WorkerError, match="known are"):
        tiny_model.main(["--like", "encoder", "--model-type", "x", "--texts", str(train_file), "--out", str(out)])
    assert not out.exists()


def test_settings_that_training_needs_are_saved(decoder):
    config = json.loads((decoder / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["hidden_size"], config["head_dim"]) == ("qwen3", 32, 8)


@pytest.fixture(scope="module")
def pairs_file(place):
    pairs = [("what about Paris?", "Paris is the capital of France."), ("北京", "北京是中国的首都。")]
    rows = [{"pid": str(pid), "query": query, "document": document} for pid, (query, document) in enumerate(pairs)]
    path = place / "pairs.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("like", "model_type", "scorer"),
    [
        ("decoder", "qwen3", "qwen3-native"),
        ("decoder", "qwen2", "flag-llm-reranker"),
        ("encoder", "bert", "cross-encoder"),
    ],
)
def test_a_teacher_of_each_kind_is_built_from_the_pairs_that_it_scores(like, model_type, scorer, pairs_file, tmp_path):
    arguments = ["--like", like, "--model-type", model_type, "--texts", pairs_file, "--out", tmp_path / "m"]
    assert tiny_model.main([*map(str, arguments), "--seed", "7"]) == 0
    rows = [json.loads(line) for line in pairs_file.read_text(encoding="utf-8").splitlines()]
    teacher = load_scorer(str(tmp_path / "m"), ScoringSpec(scorer, max_length=256), "cpu")
    scores = teacher.score([(row["query"], row["document"]) for row in rows], None)
    assert max(scores) - min(scores) > 1e-3


@pytest.fixture(scope="module", params=["embedding", "chat"])
def variant(request, place, train_file, eval_file):
    out = place / f"tiny-{request.param}"
    arguments = ["--like", request.param, "--texts", train_file, eval_file, "--out", out]
    assert tiny_model.main([*map(str, arguments)]) == 0
    return out


def test_an_embedding_or_chat_model_is_the_decoder_with_another_tokenizer(variant, decoder):
    for name in ("model.safetensors", "config.json"):
        assert hash_file(decoder / name) == hash_file(variant / name), name


@pytest.mark.parametrize("variant", ["embedding"], indirect=True)
def test_the_embedding_tokenizer_ends_a_text_once_and_a_cut_text_too(variant):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(variant)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    plain = tokenizer("Green tea", add_special_tokens=False)["input_ids"]
    assert tokenizer("Green tea")["input_ids"] == [*plain, end]
    assert tokenizer("tea " * 50, truncation=True, max_length=8)["input_ids"][-1] == end
    tokenizer.save_pretrained(variant.parent / "tiny-embedding-again")
    again = AutoTokenizer.from_pretrained(variant.parent / "tiny-embedding-again")
    assert again("Green tea")["input_ids"] == [*plain, end]


@pytest.mark.parametrize("variant", ["chat"], indirect=True)
def test_the_chat_template_treats_thoughts_as_qwen3_does(variant):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(variant)
    question, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\na"}

    def render(messages, **options):
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    asked, opened = "<|im_start|>user\nq<|im_end|>\n", "<|im_start|>assistant\n"
    assert render([question], add_generation_prompt=True) == asked + opened
    silent = render([question], add_generation_prompt=True, enable_thinking=False)
    assert silent == f"{asked}{opened}<think>\n\n</think>\n\n"
    assert render([question, answer]) == f"{asked}{opened}<think>\nhm\n</think>\n\na<|im_end|>\n"
    plain = {"role": "assistant", "content": "a"}
    assert render([question, plain]) == f"{asked}{opened}<think>\n\n</think>\n\na<|im_end|>\n"
    assert render([question, answer, question]) == f"{asked}{opened}a<|im_end|>\n{asked}"
    system = {"role": "system", "content": "s"}
    assert render([system, question]) == f"<|im_start|>system\ns<|im_end|>\n{asked}"
