"""Patches: computed from the recipe, never for an argument that the backend lacks, never for another objective."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends import BACKENDS
from orchestrator.backends.arguments import load_arguments
from orchestrator.logs.diagnose import load_rules
from orchestrator.logs.patches import COMPUTED
from orchestrator.logs.patches import suggest_patch as suggest
from orchestrator.plan.load import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
ARGUMENTS = {name: set(backend.arguments) for name, backend in BACKENDS.items()} | {
    "swift": set(load_arguments("swift"))
}
CURES = {name for backend in BACKENDS.values() for name in backend.remedies.cures}
NAMES = {rule.name for rule in load_rules() if rule.patch} | CURES


def suggest_patch(name, recipe, stage="train"):
    return suggest(name, recipe, stage, BACKENDS[recipe["backend"]].remedies)


def recipe_of(backend="flagembedding", task="reranker", loss=None, **train):
    return {"backend": backend, "task": task, "loss": loss, "train": train, "data": {}, "evaluate": {}}


def test_every_patch_is_of_a_rule():
    assert len(NAMES) > 20
    assert {rule.name for rule in load_rules()} >= CURES


def test_every_function_that_a_rule_names_is_there_and_used():
    assert {rule.patch for rule in load_rules() if isinstance(rule.patch, str)} == set(COMPUTED)


def test_out_of_memory_halves_the_batch_and_doubles_what_is_added_up():
    recipe = recipe_of(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert suggest_patch("cuda-out-of-memory", recipe) == (
        "train.per_device_train_batch_size=2",
        "train.gradient_accumulation_steps=4",
    )


def test_an_odd_batch_keeps_at_most_as_many_rows_a_step():
    patch = dict(item.split("=") for item in suggest_patch("killed", recipe_of(per_device_train_batch_size=5)))
    rows = int(patch["train.per_device_train_batch_size"]) * int(patch["train.gradient_accumulation_steps"])
    assert 4 <= rows <= 5


def test_a_batch_that_the_recipe_leaves_to_the_trainer_is_the_trainers():
    assert suggest_patch("cuda-out-of-memory", recipe_of())[0] == "train.per_device_train_batch_size=4"


def test_a_batch_of_one_keeps_fewer_activations_instead():
    recipe = recipe_of(per_device_train_batch_size=1)
    assert suggest_patch("cuda-out-of-memory", recipe) == ("train.gradient_checkpointing=true",)
    recipe = recipe_of(per_device_train_batch_size=1, gradient_checkpointing=True)
    assert suggest_patch("cuda-out-of-memory", recipe) == ()


@pytest.mark.parametrize(
    ("backend", "task", "loss", "train", "whole"),
    [
        ("swift", "embedding", {"type": "infonce", "use_batch": None}, {}, True),
        ("swift", "embedding", {"type": "infonce", "use_batch": True}, {}, True),
        ("swift", "embedding", {"type": "infonce", "use_batch": False, "mrl_dims": {"64": 1.0}}, {}, False),
        ("swift", "embedding", {"type": "online_contrastive"}, {}, True),
        ("swift", "embedding", {"type": "cosine_similarity"}, {}, False),
        ("swift", "reranker", None, {}, True),  # pointwise
        ("swift", "reranker", {"type": "pointwise"}, {}, True),
        ("swift", "reranker", None, {"loss_type": "generative_reranker"}, True),
        ("swift", "reranker", None, {"loss_type": "listwise_reranker"}, False),
        ("swift", "reranker", {"type": "listwise"}, {}, False),
        ("swift", "reranker", {"type": "listwise", "max_positives": 2}, {}, True),
        ("swift", "reranker", {"type": "listwise", "min_group_size": 4}, {}, True),
        ("swift", "sft", None, {}, False),
        ("swift", "sft", None, {"router_aux_loss_coef": 0.001}, True),
        ("swift", "sft", None, {"router_aux_loss_coef": 0}, False),
        ("sentence-transformers", "reranker", {"type": "lambda_loss"}, {}, True),
        ("sentence-transformers", "reranker", {"type": "list_mle"}, {}, False),
        ("sentence-transformers", "reranker", None, {}, False),
        ("sentence-transformers", "reranker", {"type": "of a later version"}, {}, True),
        ("flagembedding", "reranker", None, {}, False),
        ("flagembedding", "reranker", None, {"auto_find_batch_size": True}, True),
        ("flagembedding", "reranker", None, {"per_gpu_train_batch_size": 8}, True),
    ],
)
def test_a_batch_that_is_part_of_the_objective_is_left_alone(backend, task, loss, train, whole):
    recipe = recipe_of(backend, task, loss, per_device_train_batch_size=8, **train)
    patch = suggest_patch("cuda-out-of-memory", recipe)
    assert any("batch_size" in item for item in patch) is not whole
    assert patch


def test_a_scoring_stage_is_scored_in_smaller_batches():
    recipe = recipe_of() | {"evaluate": {"batch_size": 32}}
    assert suggest_patch("cuda-out-of-memory", recipe, "evaluate") == ("evaluate.batch_size=16",)
    assert suggest_patch("cuda-out-of-memory", recipe_of(), "baseline") == ("evaluate.batch_size=4",)


def test_what_no_patch_cures_has_none():
    assert suggest_patch("permission-denied", recipe_of()) == ()
    assert suggest_patch("no-such-rule", recipe_of()) == ()
    assert suggest_patch("tracker-missing", recipe_of(), "merge") == ()


def test_nothing_is_asked_that_the_recipe_has_already():
    recipe = recipe_of(dataloader_num_workers=0, save_total_limit=1, per_device_eval_batch_size=1)
    assert not [name for name in ("worker-died", "disk-full", "missing-eval-loss") if suggest_patch(name, recipe)]


def test_what_is_not_on_is_not_turned_off_and_what_the_recipe_says_outside_train_is_left():
    assert suggest_patch("precision-not-supported", recipe_of(bf16=True, fp16="false")) == ("train.bf16=false",)
    assert suggest_patch("flash-attention-missing", recipe_of()) == ()
    assert suggest_patch("nothing-to-train", recipe_of(gradient_checkpointing=False)) == ()
    assert suggest_patch("evaluation-without-rows", recipe_of() | {"data": {"validation_ratio": 0.1}}) == ()
    assert suggest_patch("resume-needs-deepspeed", recipe_of() | {"deepspeed": "zero2"}) == ()


@pytest.mark.parametrize("backend", ARGUMENTS)
@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_patch_names_only_what_the_backend_has(name, backend):
    train = {"bf16": True, "fp16": True, "eval_steps": 5, "eval_strategy": "steps", "learning_rate": 1e-5}
    if backend == "flagembedding":
        train["use_flash_attn"] = True
    for item in suggest_patch(name, recipe_of(backend, **train)):
        part, _, key = item.partition("=")[0].partition(".")
        assert part in {"train", "data", "deepspeed"}
        assert part != "train" or key in ARGUMENTS[backend]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_patch_of_a_shipped_recipe_makes_a_recipe_that_is_taken(path):
    recipe = load_recipe(path).recipe.model_dump(mode="json")
    patches = {name: patch for name in NAMES if (patch := suggest_patch(name, recipe))}
    assert len(patches) > 5
    for patch in patches.values():
        load_recipe(path, patch)
