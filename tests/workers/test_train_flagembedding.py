"""FlagEmbedding's rerankers score the same with less waste: parts of a batch, one position, and what is not equal."""

# ruff: noqa: S311  (seeded draws)

from __future__ import annotations

import random
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, Qwen3Config, Qwen3ForCausalLM

from orchestrator.workers import train_flagembedding as worker

WORDS = 151_669  # of Qwen3's vocabulary
YES = 9454


class Decoder(torch.nn.Module):
    """FlagEmbedding's CrossDecoderModel without its tokenizer, in its own words."""

    yes_loc = YES
    tokenizer = SimpleNamespace(padding_side="left", pad_token_id=0)

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def encode(self, features):
        outputs = self.model(
            input_ids=features["input_ids"],
            attention_mask=features["attention_mask"],
            position_ids=features.get("position_ids"),
            output_hidden_states=True,
        )
        return outputs.logits[:, -1, self.yes_loc].contiguous()


class Encoder(Decoder):
    tokenizer = SimpleNamespace(padding_side="right", pad_token_id=0)

    def encode(self, features):
        return self.model(**features, return_dict=True).logits


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    return Decoder(Qwen3ForCausalLM(config)).train()


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=500, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_labels=1,
    )  # fmt: skip
    return Encoder(BertForSequenceClassification(config)).train()


def make_batch(lengths, *, left, words=500):
    """Return a padded batch of random ids."""
    draw, width = random.Random(0), max(lengths)
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        columns = slice(width - length, width) if left else slice(length)
        ids[row, columns] = torch.tensor([draw.randrange(1, words) for _ in range(length)])
        mask[row, columns] = 1
    return {"input_ids": ids, "attention_mask": mask}


LENGTHS = [37, 5, 90, 12, 64, 6, 33, 90]


@pytest.mark.parametrize("names", [["last_logits"], ["trim_padding"], ["last_logits", "trim_padding"]])
def test_the_scores_and_the_gradients_of_a_batch_are_those_of_the_native_trainer(decoder, names):
    encode, batch = Decoder.encode, make_batch(LENGTHS, left=True, words=WORDS)
    if "last_logits" in names:
        encode = worker.keep_last_logits(decoder, encode)
    if "trim_padding" in names:
        encode = worker.trim_padding(decoder, encode, pass_cost=0)
    found = {}
    for name, one in (("native", Decoder.encode), ("changed", encode)):
        scores = one(decoder, batch)
        loss = torch.nn.functional.cross_entropy(scores.view(2, -1), torch.zeros(2, dtype=torch.long))
        gradients = torch.autograd.grad(loss, list(decoder.parameters()))
        found[name] = (loss.item(), torch.cat([one.flatten() for one in gradients]))
    assert found["changed"][0] == pytest.approx(found["native"][0], abs=1e-6)
    assert torch.allclose(found["changed"][1], found["native"][1], atol=1e-7)
    assert found["native"][1].norm() > 1e-3


def test_only_the_last_position_meets_the_vocabulary(decoder):
    seen = []
    hook = decoder.model.lm_head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    batch = make_batch([8, 8], left=True)
    Decoder.encode(decoder, batch)
    worker.keep_last_logits(decoder, Decoder.encode)(decoder, batch)
    hook.remove()
    assert seen == [(2, 8, WORDS), (2, 1, WORDS)]


def test_rows_pass_in_parts_of_like_length_each_padded_to_its_own_longest(encoder):
    seen = []

    def native(model, features):
        seen.append(tuple(features["input_ids"].shape))
        return Encoder.encode(model, features)

    batch = make_batch(LENGTHS, left=False)
    trimmed = worker.trim_padding(encoder, native, pass_cost=50)
    with worker.without_dropout(encoder):
        scores, whole = trimmed(encoder, batch), Encoder.encode(encoder, batch)
    assert seen == [(3, 16), (2, 40), (3, 90)]
    assert torch.allclose(scores, whole, atol=1e-6)
    assert len(set(whole.flatten().tolist())) == len(LENGTHS)


def test_a_batch_of_equal_lengths_passes_whole_and_untouched(decoder):
    batch, given = make_batch([20] * 4, left=True), []
    worker.trim_padding(decoder, lambda _model, features: given.append(features))(decoder, batch)
    assert given == [batch]
    assert given[0] is batch


@pytest.mark.parametrize("cost", [0, 64, 1024])
def test_no_other_split_of_a_batch_costs_less(cost):
    draw = random.Random(cost)
    lengths = [draw.randint(1, 200) for _ in range(7)]

    def price(parts):
        return sum(len(rows) * tokens + cost for rows, tokens in parts)

    parts = worker.split_rows(lengths, max(lengths), cost)
    assert sorted(row for rows, _ in parts for row in rows) == list(range(7))
    assert all(lengths[row] <= tokens for rows, tokens in parts for row in rows)
    order = sorted(lengths)
    for cuts in range(1 << 6):  # every way to cut the sorted rows
        edges = [0, *(place + 1 for place in range(6) if cuts >> place & 1), 7]
        pieces = [order[a:b] for a, b in pairwise(edges)]
        other = [(piece, min(max(lengths), -(-piece[-1] // 8) * 8)) for piece in pieces]
        assert price(parts) <= price(other)


def train_once(model, cls, names, batch):
    """Score a batch as the changed class does; return the scores."""
    kind = type("Changed", (cls,), {"encode": cls.encode})
    worker.change_encode(kind, names)
    model.__class__ = kind
    try:
        return model.encode(batch)
    finally:
        model.__class__ = cls


def test_what_the_test_shows_is_printed_and_the_random_numbers_are_those_of_the_native_trainer(encoder, capsys):
    batch = make_batch([20] * 4, left=False)
    torch.manual_seed(3)
    native = Encoder.encode(encoder, batch)  # with dropout
    torch.manual_seed(3)
    changed = train_once(encoder, Encoder, ["trim_padding"], batch)
    assert torch.equal(native, changed)
    assert all(module.training for module in encoder.modules())
    assert "orch-note speedups with scores and gradients equal" in capsys.readouterr().out


def test_at_inference_nothing_is_changed(decoder, capsys):
    decoder.eval()
    try:
        train_once(decoder, Decoder, ["last_logits"], make_batch([9, 9], left=True))
    finally:
        decoder.train()
    assert capsys.readouterr().out == ""


def test_a_model_without_logits_to_keep_is_trained_natively_and_said(decoder, monkeypatch, capsys):
    forward = Qwen3ForCausalLM.forward

    def older(self, input_ids=None, attention_mask=None, position_ids=None, output_hidden_states=None):
        return forward(self, input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)

    monkeypatch.setattr(Qwen3ForCausalLM, "forward", older)
    batch = make_batch([9, 7], left=True)
    scores = train_once(decoder, Decoder, ["last_logits"], batch)
    assert torch.equal(scores, Decoder.encode(decoder, batch))
    said = capsys.readouterr().out.split("\n")
    assert said[1] == (
        "orch-caution the training goes on without last_logits: Qwen3ForCausalLM of this transformers has no "
        "logits_to_keep"
    )
    assert not any("orch-note" in line for line in said)


def test_the_name_of_transformers_4_45_is_understood(decoder, monkeypatch):
    forward, given = Qwen3ForCausalLM.forward, []

    def older(self, num_logits_to_keep=0, **inputs):
        given.append(num_logits_to_keep)
        return forward(self, logits_to_keep=num_logits_to_keep, **inputs)

    monkeypatch.setattr(Qwen3ForCausalLM, "forward", older)
    worker.keep_last_logits(decoder, Decoder.encode)(decoder, make_batch([9, 7], left=True))
    assert given == [1]


@pytest.mark.parametrize("wrong", ["scores", "gradients"])
def test_a_speedup_that_changes_scores_or_gradients_is_left_out_and_said(decoder, monkeypatch, capsys, wrong):
    def change(_model, native):
        def encode(model, features):
            scores = native(model, features)
            return scores * 1.01 if wrong == "scores" else scores.detach() * 2 - scores

        return encode

    monkeypatch.setitem(worker.SPEEDUPS, "last_logits", change)
    batch = make_batch([9, 7], left=True)
    scores = train_once(decoder, Decoder, ["last_logits", "trim_padding"], batch)
    assert torch.equal(scores, Decoder.encode(decoder, batch))
    said = capsys.readouterr().out
    assert "orch-caution the training goes on without last_logits: scores or gradients are" in said
    assert "1e-04 is the bound" in said
    assert "orch-note" in said  # the other one holds
    assert "last_logits (" not in said


def test_a_speedup_that_fails_is_left_out_and_said(decoder, monkeypatch, capsys):
    def change(_model, _native):
        def encode(_model, _features):
            raise RuntimeError("no kernel\nfor this")

        return encode

    monkeypatch.setitem(worker.SPEEDUPS, "last_logits", change)
    train_once(decoder, Decoder, ["last_logits"], make_batch([9, 7], left=True))
    said = capsys.readouterr().out
    assert (
        "orch-caution the training goes on without last_logits: its test raises RuntimeError: no kernel for this"
        in (said)
    )


@pytest.mark.parametrize("reentrant", [True, False])
def test_parts_need_a_checkpointing_that_several_processes_stand(decoder, capsys, reentrant):
    decoder.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    try:
        train_once(decoder, Decoder, ["trim_padding"], make_batch([9, 7], left=True))
    finally:
        decoder.model.gradient_checkpointing_disable()
        for module in decoder.modules():
            vars(module).pop("_gradient_checkpointing_func", None)
    said = capsys.readouterr().out
    assert ("without trim_padding: it needs gradient_checkpointing_kwargs" in said) == reentrant
    assert ("orch-note" in said) != reentrant


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--speedups", "last_logits"],
        ["--speedups", "last_logits", "-m"],
        ["--speedups", "last_logits", "-m", "os"],
        ["--speedups", "warp", "-m", next(iter(worker.MODELS))],
    ],
)
def test_a_command_that_names_no_trainer_or_no_speedup_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        worker.main(argv)
    assert ended.value.code == 2
    assert "usage: workers train_flagembedding" in capsys.readouterr().err
