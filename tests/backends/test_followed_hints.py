"""Every hint about a model, a task or a backend is followed until nothing is refused: no circle, and no dead end."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from orchestrator.backends.arguments import items_of
from orchestrator.backends.known_models import find_kind_of
from orchestrator.backends.models import find_model
from orchestrator.errors import OrchError
from orchestrator.machine.hardware import Hardware
from orchestrator.plan.jobs import build_job
from orchestrator.plan.load import load_recipe
from orchestrator.recipe.schema import ModelRef
from tests.jobs import RECIPES

DATA = RECIPES.parent / "datasets_example"
GPU = Hardware("cuda", 1, bf16=True)
TASKS = {"embedding": "reranker", "reranker": "reranker", "sft": "sft"}  # task → the files of its rows
BACKENDS = ("swift", "flagembedding", "sentence-transformers")
MODELS = (
    # BERT-like
    "BAAI/bge-m3", "BAAI/bge-large-zh-v1.5", "BAAI/bge-reranker-v2-m3", "intfloat/multilingual-e5-large",
    "sentence-transformers/all-mpnet-base-v2", "google-bert/bert-base-uncased", "jinaai/jina-embeddings-v3",
    "Alibaba-NLP/gte-modernbert-base", "Alibaba-NLP/gte-reranker-modernbert-base", "answerdotai/ModernBERT-base",
    "maidalun1020/bce-reranker-base_v1", "mixedbread-ai/mxbai-rerank-large-v1", "nghuyong/ernie-3.0-base-zh",
    # LLMs, and what was made from them
    "Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Reranker-0.6B", "Qwen/Qwen3-4B", "Qwen/Qwen2.5-7B-Instruct",
    "ZhipuAI/GLM-4-9B-0414", "microsoft/phi-4", "01-ai/Yi-1.5-6B-Chat", "google/embeddinggemma-300m",
    "Alibaba-NLP/gte-Qwen2-1.5B-instruct", "intfloat/e5-mistral-7b-instruct", "BAAI/bge-multilingual-gemma2",
    "BAAI/bge-reranker-v2-gemma", "BAAI/bge-reranker-v2-minicpm-layerwise", "BAAI/bge-reranker-v2.5-gemma2-lightweight",
    "Qwen/Qwen3-8B-AWQ", "Skywork/Skywork-Reward-Llama-3.1-8B",
    # what sees or hears, and what nobody has heard of
    "Qwen/Qwen3-VL-Embedding-8B", "Qwen/Qwen3-VL-Reranker-2B", "Qwen/Qwen3.5-4B", "Qwen/Qwen2.5-VL-7B-Instruct",
    "jinaai/jina-reranker-m0", "google/gemma-3-4b-it", "acme/my-model", "acme/my-mistral",
)  # fmt: skip
TYPES = ("qwen3_emb", "qwen3_reranker", "qwen3", "qwen3_5", "glm4_0414", "bge_reranker", "qwen3_em", "unheard")
HUB_ID = re.compile(r"\b[A-Za-z][\w-]*/[\w.-]*\w")


@pytest.fixture(scope="module")
def follow(tmp_path_factory):
    """Return what follows every hint of a recipe, and the hints of that, and returns the path that leads nowhere."""
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    seen = {}

    def check(recipe):
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        try:
            build_job(load_recipe(path), path.parent / "run", GPU)
        except OrchError as error:
            return list(error.problems)
        return []

    def walk(recipe, way):
        state = json.dumps(recipe, sort_keys=True)
        if any(state == before for before, _ in way):
            return ("in a circle", [said for _, said in way])
        if state not in seen:
            problems = check(recipe)
            way = [*way, (state, "\n".join(f"{one.message} → {one.hint}" for one in problems))]
            edits = [edit for one in problems[:1] for edit in read_edits(one, recipe)]
            dead = bool(problems) and not edits
            found = [stuck for edit in edits if (stuck := walk(edit, way))]
            seen[state] = ("to no way out", [said for _, said in way]) if dead else found[0] if found else None
        return seen[state]

    return lambda recipe: walk(recipe, [])


# What a clause of a hint may ask for, and the recipes that do it; the first that matches counts.
EDITS = (
    (r"^download", lambda *_: []),
    (r"say backend: ([\w-]+)(?: or ([\w-]+))?", lambda found, recipe: [
        {**recipe, "backend": name, "model": {"path": (HUB_ID.findall(found.string) or [recipe["model"]["path"]])[0]}}
        for name in found.groups() if name
    ]),
    (r"remove (model_type|family)", lambda found, recipe: [with_model(recipe, **{found[1]: None})]),
    (r"did you mean '(\w+)'", lambda found, recipe: [with_model(recipe, model_type=found[1])]),
    (r"template: …}, one of (\w+)", lambda found, recipe: [with_model(recipe, template=found[1])]),
    (r"say whose kind it is", lambda *_: []),
    (r"model_type: (?:…}, one of |…, one of )?([a-z][\w, ]*)", lambda found, recipe: [
        with_model(recipe, model_type=name) for name in found[1].split(", ")
    ]),
    (r"^say (\w+)$", lambda found, recipe: [{**recipe, "loss": found[1]}]),
    (r"^remove it: these trainers tell", lambda _, recipe: [{key: one for key, one in recipe.items() if key != "loss"}]),
    (r"say `loss: infonce`", lambda _, recipe: [{**recipe, "loss": "infonce"}]),
    (r"family: decoder}", lambda _, recipe: [with_model(recipe, family=name) for name in ("decoder", "encoder")]),
    (r"pooling: mean, prompts", lambda _, recipe: [with_model(recipe, pooling="mean")]),
    (r"trust_remote_code: true}", lambda _, recipe: [with_model(recipe, trust_remote_code=True)]),
    (r"say loss: (\w+) for", lambda found, recipe: [{**recipe, "loss": found[1]}]),
    (r"merge: false", lambda _, recipe: [{**recipe, "merge": False}]),
    (r"^(or )?name ", lambda found, recipe: [{**recipe, "model": {"path": name}} for name in HUB_ID.findall(found.string)]),
)  # fmt: skip


def read_edits(problem, recipe):
    """Return the recipes that a hint asks for, one for each of its alternatives."""
    clauses = (problem.hint or "").split("; ")
    matches = [
        next(((found, edit) for pattern, edit in EDITS if (found := re.search(pattern, one))), None) for one in clauses
    ]
    return [changed for match in matches if match for changed in match[1](match[0], recipe)]


def with_model(recipe, **keys):
    model = {**recipe["model"], **keys}
    return {**recipe, "model": {key: value for key, value in model.items() if value is not None}}


def write_recipe(task, backend, **model):
    files = TASKS[task]
    recipe = {
        "name": "followed",
        "task": task,
        "backend": backend,
        "model": model,
        "data": {"train": str(DATA / f"{files}.train.jsonl"), "eval": str(DATA / f"{files}.eval.jsonl")},
    }
    return {**recipe, "loss": "infonce"} if task == "embedding" and backend == "swift" else recipe


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("task", TASKS)
def test_following_the_hints_ends_with_a_recipe_that_is_taken(task, backend, follow):
    stuck = {name: way for name in MODELS if (way := follow(write_recipe(task, backend, path=name)))}
    assert stuck == {}


@pytest.mark.parametrize("task", TASKS)
def test_a_model_type_that_cannot_be_leads_to_one_that_can(task, follow):
    stuck = {
        (name, given): way
        for name in MODELS
        for given in TYPES
        if (way := follow(write_recipe(task, "swift", path=name, model_type=given)))
    }
    assert stuck == {}


FOLDERS = {
    "bge-m3": "XLMRobertaModel",
    "own-llm": "Gemma2ForCausalLM",
    "own-encoder": "BertModel",
    "layers": "LayerWiseMiniCPMForCausalLM",
    "light": "CostWiseGemmaForCausalLM",
    "sees": "Qwen2_5_VLForConditionalGeneration",
    "unheard-of": "SomethingForCausalLM",
    "Qwen3-Embedding-0.6B": "XLMRobertaModel",
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_a_folder_s_config_says_is_answered_as_well(folder, follow, tmp_path):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "config.json").write_text(json.dumps({"architectures": [FOLDERS[folder]]}), encoding="utf-8")
    path = str(tmp_path / folder)
    for task in TASKS:
        for backend in BACKENDS:
            assert follow(write_recipe(task, backend, path=path)) is None
        assert follow(write_recipe(task, "swift", path=path, model_type="qwen3_emb")) is None


def test_an_llm_on_ms_swift_s_list_is_asked_nothing():
    named = {item["model_type"]: item for item in items_of("swift_models", 0) if "kind" not in item}
    llms = [
        one
        for name, item in named.items()
        if find_kind_of(name) == "llm"
        for ids in item["templates"].values()
        for one in ids
    ]
    assert len(llms) > 600
    families = {one: find_model(ModelRef(path=one), RECIPES).family for one in llms if one.count("/") == 1}
    assert set(families.values()) == {"decoder"}


@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_a_family_that_is_said_leads_no_further_astray(family, follow):
    names = ("BAAI/bge-m3", "acme/my-model", "Qwen/Qwen3-VL-Embedding-8B")
    stuck = [way for name in names if (way := follow(write_recipe("embedding", "swift", path=name, family=family)))]
    assert stuck == []
