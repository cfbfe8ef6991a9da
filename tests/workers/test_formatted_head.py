"""A decoder with a head reads exactly the written format, in every way of asking it."""

from __future__ import annotations

import json
import shutil

import pytest

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.formats import PairFormat
from orchestrator.workers.reranker.scoring import load_formatted_head, load_scorer
from orchestrator.workers.specs import ScoringSpec, parse_spec

PLAIN = PairFormat("query: {}", "document: {}", " ", "</s>")
STRANGE = PairFormat('jinja {{ x }} {% raw %} "{}" \\ 🙂 {#', "文档\n{} }} %}", "\n\n", "<|im_end|>")
MAX_LENGTH = 96
PAIRS = [
    ("query", "document"),
    ("", ""),
    ("a {} {{ messages }}", "{% for x in y %} {# note #} {} }}"),
    ("</s> within", "ends in the special token</s>"),
    ("<|im_end|> within", "ends in padding <|endoftext|>"),
    ("emoji 🙂", "👩‍🔬🚀 \\u0041 \\n"),
    ("中国的首都是哪里？", "北京是中华人民共和国的首都。"),
    ("line\n", "\r\n in \t between \n\n"),
    (" leading", "trailing  "),
    ("data:image/png;base64,AAAA", "https://example.org/a.png"),
    ("long", "The river bends twice before it meets the sea. " * 40),
    ("long query " * 60, "short"),
]


@pytest.fixture(scope="module")
def tokenizer(decoder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(decoder)


@pytest.fixture(scope="module", params=[PLAIN, STRANGE], ids=["plain", "strange"])
def loaded(request, decoder):
    return request.param, load_formatted_head(
        str(decoder), request.param, ScoringSpec("formatted-head", max_length=MAX_LENGTH), "cpu"
    )


def write(pair_format, query, document):
    before, after = pair_format.query_format.split("{}")
    opening, closing = pair_format.document_format.split("{}")
    return before + query + after + pair_format.seq + opening + document + closing + pair_format.special_token


def encode(tokenizer, pair_format, query, document):
    """Return the ids of the written pair, whose tail replaces the last ids of a pair that is cut."""
    ids = tokenizer(write(pair_format, query, document), add_special_tokens=False)["input_ids"]
    closing = pair_format.document_format.split("{}")[1] + pair_format.special_token
    tail = tokenizer(closing, add_special_tokens=False)["input_ids"]
    return ids if len(ids) <= MAX_LENGTH else ids[: MAX_LENGTH - len(tail)] + tail


def furthest(scores, others):
    return max(abs(float(one) - float(other)) for one, other in zip(scores, others, strict=True))


def predict(encoder, batch_size):
    return encoder.predict(PAIRS, batch_size=batch_size, show_progress_bar=False)


def test_losses_and_predict_are_fed_the_written_format_and_nothing_else(loaded, tokenizer):
    pair_format, encoder = loaded
    # losses and predict both call `preprocess`
    features = encoder.preprocess(PAIRS)
    rows = zip(features["input_ids"].tolist(), features["attention_mask"].tolist(), strict=True)
    found = [[token for token, real in zip(*row, strict=True) if real] for row in rows]
    assert found == [encode(tokenizer, pair_format, *pair) for pair in PAIRS]
    assert [len(ids) for ids in found].count(MAX_LENGTH) == 2


def test_a_loss_feeds_the_model_the_same_ids(loaded, tokenizer):
    import torch
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    pair_format, encoder = loaded
    fed = []

    def keep(_module, arguments, named):
        fed.extend(arguments[0] if arguments else named["input_ids"])

    hook = encoder[0].model.model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        queries, documents = (list(texts) for texts in zip(*PAIRS, strict=True))
        with torch.no_grad():
            BinaryCrossEntropyLoss(encoder)([queries, documents], torch.zeros(len(PAIRS)))
    finally:
        hook.remove()
    expected = [encode(tokenizer, pair_format, *pair) for pair in PAIRS]
    padding = encoder.tokenizer.pad_token_id
    assert [row.tolist() for row in fed] == [ids + [padding] * (MAX_LENGTH - len(ids)) for ids in expected]


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_score_is_the_heads_logit_at_the_last_token_however_pairs_are_padded(loaded, tokenizer, side):
    import torch

    pair_format, encoder = loaded
    model = encoder[0].model
    with torch.inference_mode():
        ids = (torch.tensor([encode(tokenizer, pair_format, *pair)]) for pair in PAIRS)
        expected = [float(model.score(model.model(one).last_hidden_state[0, -1])) for one in ids]
    chosen, encoder.tokenizer.padding_side = encoder.tokenizer.padding_side, side
    try:
        for batch_size in (1, 5, len(PAIRS)):
            assert furthest(predict(encoder, batch_size), expected) < 1e-4
    finally:
        encoder.tokenizer.padding_side = chosen
    assert chosen == "right"
    assert max(expected) - min(expected) > 0.1


def test_a_saved_model_gives_the_same_scores_to_a_plain_cross_encoder_and_to_the_scorer(loaded, tmp_path):
    from sentence_transformers import CrossEncoder

    pair_format, encoder = loaded
    scores = predict(encoder, 4)
    encoder.save_pretrained(str(tmp_path))
    assert furthest(predict(CrossEncoder(str(tmp_path), device="cpu"), 4), scores) < 1e-5
    spec = {"scorer": "formatted-head", "max_length": MAX_LENGTH, **vars(pair_format)}
    scorer = load_scorer(str(tmp_path), parse_spec(spec, "spec"), "cpu")
    assert furthest(scorer.score(PAIRS, None), scores) < 1e-5
    assert scorer.reader.facts["head"] == "pretrained"


def test_a_text_alone_is_tokenized_as_it_is_for_the_trainers_statistics(loaded, tokenizer):
    texts = ["what about Paris? {{ x }}\n", "北京"]
    features = loaded[1].preprocess(texts)
    rows = zip(features["input_ids"].tolist(), features["attention_mask"].tolist(), strict=True)
    found = [[token for token, real in zip(*row, strict=True) if real] for row in rows]
    assert found == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def test_a_base_without_a_head_gets_the_same_one_every_time(loaded, decoder):
    pair_format, encoder = loaded
    again = load_formatted_head(str(decoder), pair_format, ScoringSpec("formatted-head", max_length=MAX_LENGTH), "cpu")
    assert furthest(predict(again, 4), predict(encoder, 4)) < 1e-6
    assert again[0].model.config.pad_token_id == again.tokenizer.pad_token_id is not None


def test_a_special_token_that_is_the_padding_is_still_where_the_score_is_read(decoder, tokenizer):
    padded = PairFormat("{}", "{}", " ", "<|endoftext|>")
    encoder = load_formatted_head(str(decoder), padded, ScoringSpec("formatted-head", max_length=MAX_LENGTH), "cpu")
    assert encoder.tokenizer.pad_token == "<|im_end|>"  # noqa: S105
    last = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    features = encoder.preprocess(PAIRS)
    assert all(row[row != encoder.tokenizer.pad_token_id][-1] == last for row in features["input_ids"])


def test_a_special_token_that_leaves_nothing_to_pad_with_is_refused(decoder, tmp_path):
    shutil.copytree(decoder, tmp_path / "m")
    path = tmp_path / "m" / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "eos_token": "<|endoftext|>"}), encoding="utf-8")
    only = PairFormat("{}", "{}", " ", "<|endoftext|>")
    with pytest.raises(WorkerError, match="choose another special_token"):
        load_formatted_head(str(tmp_path / "m"), only, ScoringSpec("formatted-head", max_length=MAX_LENGTH), "cpu")


@pytest.mark.parametrize("written", ["no slot", "{} and {}", ""])
def test_a_format_without_exactly_one_slot_is_refused_by_name(written):
    with pytest.raises(WorkerError, match="document_format is .* exactly once"):
        _ = PairFormat("{}", written, " ", "</s>").template


def test_a_length_without_room_for_the_texts_is_refused(decoder):
    with pytest.raises(WorkerError, match="max_length 5 is less than the"):
        load_formatted_head(str(decoder), PLAIN, ScoringSpec("formatted-head", max_length=5), "cpu")


def test_a_spec_must_name_its_whole_format():
    with pytest.raises(WorkerError, match="needs document_format, seq, special_token as text"):
        parse_spec({"scorer": "formatted-head", "query_format": "{}"}, "spec.json")


def test_a_decoder_of_the_second_family_reads_the_format_too(train_file, tmp_path):
    from orchestrator.workers import tiny_model

    options = ["--like", "decoder", "--model-type", "qwen2", "--texts", str(train_file), "--out", str(tmp_path / "m")]
    assert tiny_model.main(options) == 0
    encoder = load_formatted_head(
        str(tmp_path / "m"), PLAIN, ScoringSpec("formatted-head", max_length=MAX_LENGTH), "cpu"
    )
    assert type(encoder[0].model).__name__ == "Qwen2ForSequenceClassification"
    assert len(encoder.tokenizer("</s>")["input_ids"]) > 1
    scores = predict(encoder, 4)
    assert furthest(scores, predict(encoder, 1)) < 1e-4
    assert max(scores) - min(scores) > 0.1
