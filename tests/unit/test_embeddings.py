"""How a model embeds: its files count before the table, the table before the recipe, and nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.backends.embeddings import Embedding, read_own, settle_embedding
from orchestrator.backends.known_models import POOLINGS, _load, find_embeds
from orchestrator.backends.models import find_model
from orchestrator.errors import Problem
from orchestrator.recipe.schema import ModelRef

# as huggingface.co/sentence-transformers/all-MiniLM-L6-v2 and google/embeddinggemma-300m have them
MODULES = ("Transformer", "Pooling", "Normalize")
GEMMA_PROMPTS = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "STS": "task: sentence similarity | query: ",
}
WEB = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Make a model folder of configs only."""

    def make(name="own", modules=None, pooling=None, config=None, architecture="BertModel"):
        place = tmp_path / name
        write(place / "config.json", {"architectures": [architecture]})
        if modules:
            kinds = [one if "." in one else f"sentence_transformers.models.{one}" for one in modules]
            paths = ["" if index == 0 else f"{index}_{kind}" for index, kind in enumerate(modules)]
            write(place / "modules.json", [{"path": p, "type": k} for p, k in zip(paths, kinds, strict=True)])
        if pooling is not None:
            write(place / "1_Pooling" / "config.json", pooling)
        if config is not None:
            write(place / "config_sentence_transformers.json", config)
        return str(place)

    return make


def settle(path, **told):
    ref = ModelRef.model_validate({"path": path, **told})
    return settle_embedding(find_model(ref, Path("/"), otherwise="encoder"), ref)


def refused(path, **told):
    found = settle(path, **told)
    assert isinstance(found, list), found
    return [(".".join(key), problem.message, problem.hint) for key, problem in found]


CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}


def test_modules_json_says_pooling_and_normalisation_and_the_prompts_stand_beside_it(folder):
    place = folder(modules=MODULES, pooling=CLS, config={"prompts": GEMMA_PROMPTS})
    found = settle(place)
    assert isinstance(found, Embedding)
    assert (found.pooling, found.normalize, found.query) == ("cls", True, GEMMA_PROMPTS["query"])
    assert found.document == GEMMA_PROMPTS["document"]
    assert found.scoring()["pooling"] == "cls"


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": ["cls", "mean"]}, "cls+mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls+mean"),
        ({"word_embedding_dimension": 384}, "mean"),
    ],
)
def test_pooling_is_read_as_every_version_of_sentence_transformers_writes_it(folder, pooling, wanted):
    found = settle(folder(modules=("Transformer", "Pooling"), pooling=pooling))
    assert (found.pooling, found.normalize) == (wanted, False)
    assert found.scoring()["pooling"] == (wanted if wanted in POOLINGS else None)


def test_dense_modules_are_the_model_s_own(folder):
    assert settle(folder(modules=("Transformer", "Pooling", "Dense", "Normalize"), pooling=CLS)).normalize


def test_files_count_before_the_table_and_the_table_s_prompts_where_the_files_have_none(folder):
    place = folder("bge-base-en-v1.5", modules=("Transformer", "Pooling"), pooling={"pooling_mode": "mean"}, config={})
    found = settle(place)
    listed = find_embeds(place)
    assert (found.pooling, found.normalize, found.query) == ("mean", False, listed.query)
    named = folder("bge-base-en-v1.5", config={"prompts": {"query": "ask: "}})
    assert (settle(named).query, settle(named).document) == ("ask: ", "")


def test_saved_prompts_that_are_empty_do_not_hide_the_passage_s(folder):
    prompts = {"query": "query: ", "passage": "passage: ", "document": ""}  # as SentenceTransformer 6.2 saves them
    found = settle(folder(modules=MODULES, pooling=CLS, config={"prompts": prompts}))
    assert (found.query, found.document) == ("query: ", "passage: ")


def test_a_default_prompt_stands_in_front_of_every_text(folder):
    config = {"prompts": {"sts": "similar: "}, "default_prompt_name": "sts"}
    found = settle(folder(modules=MODULES, pooling=CLS, config=config))
    assert (found.query, found.document) == ("similar: ", "similar: ")


@pytest.mark.parametrize(
    ("name", "pooling", "query", "document"),
    [
        ("BAAI/bge-m3", "cls", "", ""),
        ("BAAI/bge-large-zh-v1.5", "cls", "为这个句子生成表示以用于检索相关文章：", ""),
        ("intfloat/multilingual-e5-small", "mean", "query: ", "passage: "),
        ("Qwen/Qwen3-Embedding-0.6B", "lasttoken", WEB, ""),
        ("intfloat/multilingual-e5-large-instruct", "mean", f"{WEB} ", ""),
        ("Alibaba-NLP/gte-modernbert-base", "cls", "", ""),
        ("sentence-transformers/all-mpnet-base-v2", "mean", "", ""),
        ("google/embeddinggemma-300m", "mean", GEMMA_PROMPTS["query"], GEMMA_PROMPTS["document"]),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", "cls", "query: ", ""),
        ("maidalun1020/bce-embedding-base_v1", "cls", "", ""),
    ],
)
def test_well_known_models_are_used_as_their_model_cards_say(name, pooling, query, document):
    found = settle(name)
    assert (found.pooling, found.query, found.document) == (pooling, query, document)


def test_every_row_of_the_table_names_its_model_card_and_a_pooling_that_is_one():
    rows = [row for row in _load() if row.embeds]
    assert len(rows) > 25
    for row in rows:
        assert row.named is not None
        assert row.embeds.pooling in POOLINGS
        assert row.embeds.source.startswith("https://huggingface.co/")
        owner, name = row.embeds.source.split("/")[-2:]
        assert find_embeds(f"{owner}/{name}") is row.embeds or "e5" in name, name
        assert row.embeds.instruct.count("{}") == bool(row.embeds.instruct)


@pytest.mark.parametrize("path", ["somebody/bge-m3-finetuned", "own"])
def test_a_bare_encoder_that_nobody_knows_is_asked_for_and_what_the_message_says_is_taken(folder, path):
    place = folder(path) if path == "own" else path
    ((key, message, hint),) = refused(place)
    assert key == "model"
    assert "nothing says how" in message
    assert "pooling: mean" in hint
    told = {"pooling": "mean", "prompts": {"query": "query: ", "document": ""}}
    found = settle(place, **told)
    assert (found.pooling, found.normalize, found.query) == ("mean", True, "query: ")


def test_what_contradicts_the_files_or_the_table_is_an_error_at_its_key(folder):
    place = folder(modules=MODULES, pooling=CLS)
    found = refused(place, pooling="mean", normalize=False)
    assert [key for key, _, _ in found] == ["model.pooling", "model.normalize"]
    assert found[0][1] == f"model.pooling is mean, and {place}/modules.json says cls"
    ((_, message, hint),) = refused("intfloat/e5-base-v2", pooling="cls")
    assert "its model card (https://huggingface.co/intfloat/" in message
    assert hint.startswith("remove it")
    assert isinstance(settle("intfloat/e5-base-v2", pooling="mean", normalize=True), Embedding)


def test_a_prompt_that_the_model_does_not_have_is_an_error_and_one_that_it_has_is_taken(folder):
    place = folder(modules=MODULES, pooling=CLS, config={"prompts": GEMMA_PROMPTS})
    ((key, message, hint),) = refused(place, prompts={"query": "query: "})
    assert key == "model.prompts.query"
    assert "config_sentence_transformers.json says 'task: search result | query: '" in message
    assert GEMMA_PROMPTS["STS"] in hint
    assert settle(place, prompts={"query": GEMMA_PROMPTS["STS"]}).query == GEMMA_PROMPTS["STS"]
    ((key, message, _),) = refused("BAAI/bge-m3", prompts={"document": "passage: "})
    assert (key, "says ''" in message) == ("model.prompts.document", True)
    assert refused("intfloat/e5-base-v2", prompts={"query": ""})
    assert settle("BAAI/bge-base-en-v1.5", prompts={"query": ""}).query == ""


def test_a_model_that_takes_any_task_takes_a_prompt_of_that_form():
    name, prompt = "intfloat/multilingual-e5-large-instruct", "Instruct: Find the law\nQuery: "
    assert settle(name, prompts={"query": prompt}).query == prompt
    assert refused(name, prompts={"query": "Find the law: "})


def test_a_folder_with_modules_and_without_prompts_takes_the_recipe_s(folder):
    place = folder(modules=MODULES, pooling=CLS, config={"prompts": {"query": "", "document": ""}})
    assert settle(place, prompts={"query": "ask: "}).query == "ask: "


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"architecture": "BertForSequenceClassification"}, "is a reranker or a classifier"),
        ({"modules": MODULES[:1], "config": {"model_type": "CrossEncoder"}}, "is a cross-encoder"),
        ({"modules": ("StaticEmbedding",)}, "begins with StaticEmbedding"),
        ({"modules": ("custom_st.Transformer", "Pooling"), "pooling": CLS}, "brings Python code along"),
        ({"modules": MODULES}, "1_Pooling/config.json cannot be read"),
        ({"modules": MODULES, "pooling": {"pooling_mode": "first"}}, "pooling_mode is 'first'"),
        ({"name": "embeddinggemma-300m"}, "lacks the modules.json"),
    ],
)
def test_a_model_that_makes_no_vectors_or_cannot_be_read_is_refused(folder, made, message):
    ((key, said, hint),) = refused(folder(**made))
    assert key == "model"
    assert message in said
    assert hint


def test_a_model_with_code_of_its_own_is_refused_without_the_key_even_before_it_is_downloaded():
    ((_, message, hint),) = refused("nomic-ai/nomic-embed-text-v1.5")
    assert "brings Python code along" in message
    assert "trust_remote_code: true" in hint
    assert settle("nomic-ai/nomic-embed-text-v1.5", trust_remote_code=True).query == "search_query: "


def test_a_name_in_a_cache_of_a_hub_is_the_model_s_own(folder):
    place = folder("models--intfloat--e5-base-v2/snapshots/abc")
    assert settle(place).document == "passage: "


def test_files_that_cannot_be_read_are_a_problem_for_every_command(folder):
    place = folder(modules=MODULES, pooling="{")
    model = find_model(ModelRef(path=place), Path("/"))
    assert isinstance(read_own(model), Problem)
    assert read_own(replace(model, folder=None)) is None


def test_a_bi_encoder_is_told_the_prompts_that_its_files_lack(folder):
    passage = {"prompts": {"query": "q: ", "passage": "p: "}}
    found = settle(folder(modules=MODULES, pooling=CLS, config=passage))
    assert found.instructions() == {"passage_instruction": "p: "}  # encode_document of 6.2 passes `passage` over
    listed = settle(folder("bge-base-en-v1.5", modules=MODULES, pooling=CLS))
    assert listed.instructions() == {"query_instruction": listed.query}
    assert settle(folder("none", modules=MODULES, pooling=CLS)).instructions() == {}
