from __future__ import annotations

import random
from dataclasses import replace

import pytest

from orchestrator.workers.eval_files import AWKWARD
from orchestrator.workers.reranker.formats import (
    NATIVE_SUFFIX,
    build_chat_template,
    encode_pair,
    is_cut,
    write_pair,
)
from orchestrator.workers.specs import parse_spec
from tests.workers.conftest import load_spec

PIECES = [
    *"abcXYZ 012.,!?;:'\"()[]{}<>/\\|-_=+*&^%$#@~` \n\n\t\r",
    *("  ", "é", "e\u0301", "\u0301", "中", "国", "。", "🙂", "👩‍🔬", "\u00a0", "\u200b", "\u3000", "𝔘"),
    *("<|im_end|>", "<think>", "{{", "}}", "{%", "'s"),
]


@pytest.fixture(scope="module")
def tokenizers(tuned_decoder, packaged_decoder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tuned_decoder.model), AutoTokenizer.from_pretrained(packaged_decoder)


@pytest.fixture(scope="module")
def spec(tuned_decoder):
    return load_spec(tuned_decoder.scoring)


def random_texts(count):
    rng = random.Random(0)  # noqa: S311
    for _ in range(count):
        yield "".join(rng.choices(PIECES, k=rng.randint(0, 10))), "".join(rng.choices(PIECES, k=rng.randint(0, 25)))


def render_ids(tokenizer, query, document, template=None):
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    options = {"chat_template": template} if template else {}
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"])


def test_the_packaged_template_gives_the_ids_of_training_for_any_text(tokenizers, spec):
    trained, packaged = tokenizers
    pairs = [*random_texts(600), *AWKWARD]
    assert not any(is_cut(trained, spec, *pair) for pair in pairs)
    assert [pair for pair in pairs if render_ids(packaged, *pair) != encode_pair(trained, spec, *pair)] == []


def test_without_the_sentinel_texts_would_get_other_ids(tokenizers, spec):
    trained, _ = tokenizers
    plain = build_chat_template(trained, spec, sentinel="")
    pairs = [*random_texts(100), ("who", "the farmer.")]
    other = [pair for pair in pairs if render_ids(trained, *pair, plain) != encode_pair(trained, spec, *pair)]
    assert len(other) > 2


def test_texts_without_the_sentinel_keep_their_ids(tokenizers):
    trained, packaged = tokenizers
    texts = [text for pair in random_texts(200) for text in pair]
    assert (
        trained(texts, add_special_tokens=False)["input_ids"] == packaged(texts, add_special_tokens=False)["input_ids"]
    )


@pytest.mark.parametrize("prompt", ["{{ 7 * 7 }} {% if x %}\"'\\n\n{# c #}", "中文🙂\u2028\x7f", "ends }}"])
def test_jinja_in_prompt_and_instructions_means_nothing(tokenizers, spec, prompt):
    trained, packaged = tokenizers
    spec = replace(
        spec,
        prompt=prompt,
        query_instruction="Q {{ x }}: ",
        query_instruction_format="{}\\n{} (end)",
        passage_instruction='D "%}"🙂',
        passage_instruction_format="{1} {0}",
    )
    template = build_chat_template(packaged, spec)
    for pair in (("a.", "b.\n"), ("", ""), ("x {{ y }}", " {% z")):
        assert render_ids(packaged, *pair, template) == encode_pair(trained, spec, *pair)


def test_a_beginning_token_stands_in_front_when_training_puts_one_there(tokenizers, spec):
    trained, packaged = tokenizers
    trained.bos_token = packaged.bos_token = "<|im_start|>"  # noqa: S105
    try:
        expected = encode_pair(trained, spec, " a", "b.")
        assert expected[0] == trained.convert_tokens_to_ids("<|im_start|>")
        assert render_ids(packaged, " a", "b.", build_chat_template(packaged, spec)) == expected
    finally:
        trained.bos_token = packaged.bos_token = None


def test_a_long_document_is_cut_and_the_prompt_stays(tokenizers, spec):
    trained, _ = tokenizers
    short, long = encode_pair(trained, spec, "q", "d"), encode_pair(trained, spec, "q", "word " * 900)
    assert is_cut(trained, spec, "q", "word " * 900)
    assert not is_cut(trained, spec, "q", "d")
    assert long[-20:] == short[-20:]


def test_an_unknown_scorer_or_a_length_of_zero_is_refused():
    from orchestrator.workers.failure import WorkerError

    for raw in (
        {"scorer": "magic"},
        {"scorer": "bi-encoder", "max_length": 0},
        {"scorer": "bi-encoder", "dtype": "int8"},
    ):
        with pytest.raises(WorkerError):
            parse_spec(raw, "spec.json")


def test_qwen3_rerankers_template_gives_the_ids_of_its_prompt_for_any_text(tokenizers):
    trained, _ = tokenizers
    spec = parse_spec({"scorer": "qwen3-native", "instruction": 'Find "laws" {{ now }}', "max_length": 4096}, "here")
    native = write_pair(spec)
    pairs = [*random_texts(300), *AWKWARD]
    other = [pair for pair in pairs if render_ids(trained, *pair, native.template) != native.encode(trained, *pair)]
    assert other == []


def test_a_native_prompt_that_is_cut_keeps_its_closing_words(tokenizers):
    trained, _ = tokenizers
    spec = parse_spec({"scorer": "qwen3-native", "max_length": 120}, "here")
    native = write_pair(spec)
    ids = native.cut(trained, "who", "a word " * 200, 120)
    assert len(ids) == 120
    assert trained.decode(ids).endswith(NATIVE_SUFFIX)
    assert native.cut(trained, "who", "a word", 120) == native.encode(trained, "who", "a word")
