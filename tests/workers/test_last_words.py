"""FlagEmbedding's LLM reranker computes the logits of the last token alone, and gives its own scores all the same."""

from __future__ import annotations

import random
import shutil

import pytest

from orchestrator.workers.engines import flagembedding
from orchestrator.workers.reranker.formats import encode_pair, measure_pairs
from orchestrator.workers.reranker.scoring import load_scorer
from tests.workers.conftest import TOPICS, load_spec, write_spec


def draw_pairs(count=24):
    rng, words = random.Random(7), [*" ".join(TOPICS.values()).split(), "北京", "茶"]  # noqa: S311
    return [tuple(" ".join(rng.choices(words, k=rng.randint(1, most))) for most in (20, 200)) for _ in range(count)]


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return load_spec(write_spec(tmp_path_factory.mktemp("spec") / "spec.json"))


def pad_on(side, decoder, folder):
    from transformers import AutoTokenizer

    shutil.copytree(decoder, folder)
    AutoTokenizer.from_pretrained(decoder, padding_side=side).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_are_flagembeddings_own_at_every_length_and_side_of_padding(tmp_path, decoder, spec, side):
    model, pairs = pad_on(side, decoder, tmp_path / "m"), draw_pairs()
    native = flagembedding.open_reranker(model, spec, "cpu")
    assert native.tokenizer.padding_side == side
    expected = flagembedding.score_pairs(native, pairs)
    scorer = load_scorer(model, spec, "cpu")
    found = scorer.score(pairs)
    assert max(abs(one - two) for one, two in zip(found, expected, strict=True)) < 1e-4
    assert max(expected) - min(expected) > 0.1
    assert scorer.reader.facts["logits"] == "last"
    assert "cautions" not in scorer.reader.facts


def test_each_batch_runs_once_and_computes_one_position(decoder, spec):
    reranker = flagembedding.open_reranker(str(decoder), spec, "cpu")
    shapes, runs = [], []
    reranker.model.get_output_embeddings().register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape)))
    reranker.model.model.register_forward_hook(lambda _m, _i, out: runs.append(getattr(out, "hidden_states", None)))
    assert flagembedding.read_last_words(reranker, "float32") is None
    shapes.clear(), runs.clear()
    flagembedding.score_pairs(reranker, draw_pairs(6), batch_size=6)
    assert [shape[:2] for shape in shapes] == [(6, 1)]
    assert runs == [None]


def test_a_model_whose_scores_would_differ_is_asked_as_flagembedding_asks_it(decoder, spec, monkeypatch):
    reranker = flagembedding.open_reranker(str(decoder), spec, "cpu")
    model = reranker.model
    monkeypatch.setattr(flagembedding.LastWords, "_compute", lambda _self, ids, _mask: model(ids).logits[:, :1] + 1)
    said = flagembedding.read_last_words(reranker, "float32")
    assert said
    assert "scores differ by" in said
    assert reranker.model is model


def test_a_model_without_a_head_of_words_keeps_the_native_way_and_the_report_says_so(decoder, spec, monkeypatch):
    native = flagembedding.open_reranker

    def open_without(*given):
        reranker = native(*given)
        monkeypatch.setattr(type(reranker.model), "get_output_embeddings", lambda _: None)
        return reranker

    monkeypatch.setattr(flagembedding, "open_reranker", open_without)
    scorer = load_scorer(str(decoder), spec, "cpu")
    assert scorer.reader.facts["logits"] == "all"
    assert "the logits of all positions are computed" in scorer.reader.facts["cautions"][0]
    pairs = draw_pairs(3)
    assert scorer.score(pairs) == pytest.approx(
        flagembedding.score_pairs(native(str(decoder), spec, "cpu"), pairs), abs=1e-4
    )


def test_memory_that_runs_out_halves_the_batch_though_flagembedding_catches_runtime_errors(decoder, spec, monkeypatch):
    pairs = draw_pairs(9)
    expected = load_scorer(str(decoder), spec, "cpu").score(pairs)
    scorer, compute = load_scorer(str(decoder), spec, "cpu"), flagembedding.LastWords._compute

    def run_out(self, ids, mask):
        if len(ids) > 1:
            raise RuntimeError("CUDA out of memory")
        return compute(self, ids, mask)

    monkeypatch.setattr(flagembedding.LastWords, "_compute", run_out)
    assert scorer.score(pairs) == pytest.approx(expected, abs=1e-4)
    assert "memory ran out on cpu" in scorer.reader.facts["cautions"][0]


def test_another_error_ends_the_scoring_instead_of_being_tried_for_ever(decoder, spec, monkeypatch):
    scorer = load_scorer(str(decoder), spec, "cpu")

    def fail(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(flagembedding.LastWords, "_compute", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        scorer.score(draw_pairs(3))


def test_lengths_are_counted_as_pairs_are_cut(decoder, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(decoder)
    spec = load_spec(write_spec(tmp_path / "s.json", query_max_length=12, max_length=40))
    pairs = draw_pairs(40)
    found = measure_pairs(tokenizer, spec, pairs)
    assert [length for length, _ in found] == [len(encode_pair(tokenizer, spec, *pair)) for pair in pairs]
    assert {cut for _, cut in found} == {True, False}
