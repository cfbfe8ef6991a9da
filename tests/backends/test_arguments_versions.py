"""Every supported set of versions: which snapshot stands for it, and that every shipped recipe is rendered for it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.backends import BACKENDS
from orchestrator.backends.aliases import name_loss, translate
from orchestrator.backends.arguments import Argument, find_set, items_of, load_arguments, read_snapshot, version_sets
from orchestrator.backends.swift_models import find_swift_model
from orchestrator.checks.arguments import check_arguments, find_command
from orchestrator.errors import Problem
from orchestrator.plan.pipeline import build_plan
from tests.backends.take_snapshots import FOLDER, SNAPSHOT_OF
from tests.shipped import MODELS, NAMES, build_shipped_job

SETS = {
    " ".join(f"{package}-{versions[package]}" for package in ("ms-swift", "FlagEmbedding", "transformers") if package in versions): versions
    for name in SNAPSHOT_OF.values()
    for versions in (one.versions for one in version_sets(name))
}  # fmt: skip
# What the older versions cannot do: the recipe's key that is refused.
REFUSED = {
    ("3.6.4", "qwen3_embedding_full"): {("task",), ("loss", "mrl_dims")},
    ("3.6.4", "qwen3_embedding_lora"): {("task",)},
    ("3.6.4", "qwen3_reranker_native"): {("task",)},
    ("3.6.4", "qwen3_sft_lora"): {("train", "early_stop_interval")},
    ("3.12.6", "qwen3_embedding_full"): {("loss", "mrl_dims")},
}
SWIFT_3 = {"ms-swift": "3.12.6", "transformers": "4.57.6"}
SWIFT_4 = {"ms-swift": "4.6.0", "transformers": "5.19.0"}


def backend_of(job):
    return job.backend


def test_the_supported_versions_are_all_there():
    found = {
        name: {one.versions[package] for one in version_sets(name) for package in read_snapshot(name)["deciding"][:1]}
        for name in SNAPSHOT_OF.values()
    }
    assert found["swift"] == found["swift_export"] == found["swift_models"] == {"3.6.4", "3.12.6", "4.6.0"}
    assert found["flagembedding.decoder_only"] == found["flagembedding.encoder_only"] == {"1.3.5", "1.4.2"}
    assert {versions["transformers"] for versions in SETS.values()} == {
        "4.52.4", "4.57.6", "5.14.1", "5.19.0", "5.23.0",
    }  # fmt: skip


def list_cases():
    for label, versions in SETS.items():
        for name in NAMES:
            if build_shipped_job(name).backend.distributions[0] in versions:
                yield pytest.param(versions, name, id=f"{name}-{label}")


@pytest.mark.parametrize("smoke", [False, True], ids=["gpu", "smoke"])
@pytest.mark.parametrize(("versions", "name"), list(list_cases()))
def test_every_recipe_is_rendered_as_each_supported_version_takes_it(versions, name, smoke):
    job = build_shipped_job(name, versions=versions, smoke=smoke)
    refused = backend_of(job).check_job(job)
    swift = versions.get("ms-swift", "") if job.recipe.backend == "swift" else ""
    assert {key for key, _ in refused} == REFUSED.get((swift, name), set())
    if refused:
        assert all("4.6.0" in problem.hint for _, problem in refused)
        return
    plan = build_plan(job)
    assert list(check_arguments(job, plan)) == []
    assert find_command(plan.stage("train"), SNAPSHOT_OF) or job.recipe.backend == "sentence-transformers"


@pytest.mark.parametrize(
    ("name", "versions", "expected"),
    [
        ("swift", None, ("4.6.0", "5.19.0")),
        ("swift", {}, ("4.6.0", "5.19.0")),
        ("swift", {"transformers": "4.57.6"}, ("4.6.0", "5.19.0")),
        ("swift", {"ms-swift": "4.6.0", "transformers": "5.14.1"}, ("4.6.0", "5.14.1")),
        ("swift", {"ms-swift": "4.6.1", "transformers": "5.13.0"}, ("4.6.0", "5.14.1")),
        ("swift", {"ms-swift": "4.6.0", "transformers": "4.55.0"}, ("4.6.0", "4.57.6")),
        ("swift", {"ms-swift": "3.11.3", "transformers": "5.19.0"}, ("3.12.6", "4.57.6")),
        ("swift", {"ms-swift": "3.7.0.dev0", "transformers": "4.54.0"}, ("3.6.4", "4.52.4")),
        ("flagembedding.decoder_only", {"FlagEmbedding": "1.4.1", "transformers": "5.30.0"}, ("1.4.2", "5.23.0")),
        ("flagembedding.encoder_only", {"FlagEmbedding": "1.3.4", "transformers": "4.57.1"}, ("1.3.5", "4.57.6")),
        ("sentence_transformers", {"sentence-transformers": "6.2.0", "transformers": "5.18.0"}, ("6.2.0", "5.19.0")),
    ],
)
def test_the_nearest_snapshot_stands_for_what_is_installed(name, versions, expected):
    found = find_set(name, versions).versions
    assert tuple(found[package] for package in read_snapshot(name)["deciding"]) == expected


def test_versions_decide_which_arguments_are_known():
    assert "tuner_type" in load_arguments("swift")
    assert "train_type" not in load_arguments("swift", SWIFT_4)
    assert "train_type" in load_arguments("swift", SWIFT_3)
    assert "mrl_dims" not in load_arguments("swift", SWIFT_3)
    older = load_arguments("flagembedding.decoder_only", {"FlagEmbedding": "1.3.5", "transformers": "4.57.6"})
    assert older["warmup_steps"].type == "int"
    assert load_arguments("flagembedding.decoder_only")["warmup_steps"].type == "float"


def test_a_snapshot_holds_no_secret_and_no_path_of_the_machine_that_took_it():
    files = sorted(FOLDER.glob("*.json"))
    assert [path.stem for path in files] == sorted(SNAPSHOT_OF.values())
    texts = [path.read_text(encoding="utf-8") for path in files]
    assert sum(map(len, texts)) < 600_000
    for text in texts:
        assert not [word for word in ("/work", "/home", "/tmp", "/root", "site-packages") if word in text]
    for name in sorted({*SNAPSHOT_OF.values()} - {"swift_models"}):
        for one in version_sets(name):
            arguments = load_arguments(name, one.versions)
            assert [arguments[key].default for key in ("token", "hub_token") if key in arguments] != []
            assert {arguments[key].default for key in ("token", "hub_token") if key in arguments} == {None}


def test_a_model_that_an_older_version_does_not_know_is_refused_by_its_name():
    model = MODELS["qwen3_reranker"]
    assert find_swift_model(model, "reranker", SWIFT_4).model_type == "qwen3_reranker"
    assert find_swift_model(model, "reranker", SWIFT_3).model_type == "qwen3_reranker"
    newer = set(_types("4.6.0")) - set(_types("3.6.4"))
    assert newer
    for name in sorted(newer)[:3]:
        problem = find_swift_model(_named(model, name), "sft", {"ms-swift": "3.6.4"})
        assert isinstance(problem, Problem)


def _types(version):
    return {
        item["model_type"] for item in items_of("swift_models", find_set("swift_models", {"ms-swift": version}).index)
    }


def _named(model, model_type):
    return replace(model, model_type=model_type)


@pytest.mark.parametrize(
    ("versions", "given", "rendered"),
    [
        (SWIFT_3, {"tuner_type": "full"}, {"train_type": "full"}),
        (SWIFT_3, {"sft_type": "lora"}, {"train_type": "lora"}),
        (SWIFT_3, {"train_type": "lora"}, {"train_type": "lora"}),
        (SWIFT_4, {"train_type": "full"}, {"tuner_type": "full"}),
        ({}, {"train_type": "full"}, {"tuner_type": "full"}),
        (SWIFT_3, {"warmup_steps": 0.1}, {"warmup_ratio": 0.1}),
        (SWIFT_3, {"warmup_steps": 20.0}, {"warmup_steps": 20}),
        (SWIFT_3, {"train_sampling_strategy": "group_by_length"}, {"group_by_length": True}),
        (SWIFT_3, {"train_sampling_strategy": "random"}, {}),
        (SWIFT_4, {"train_sampling_strategy": "random"}, {"train_sampling_strategy": "random"}),
    ],
)
def test_ms_swift_s_arguments_are_spelt_as_its_version_takes_them(versions, given, rendered):
    result = translate("swift", given, versions, "reranker")
    assert result.arguments == rendered
    assert result.problems == []
    known = load_arguments("swift", versions)
    assert rendered.keys() <= known.keys()
    for name, value in rendered.items():
        assert known[name].type != "int" or isinstance(value, int)


def test_a_sampling_that_transformers_4_cannot_do_is_refused_with_the_version_that_can():
    name = "train_sampling_strategy"
    for result in (
        translate("trainer", {name: "sequential"}, {"transformers": "4.57.6"}),
        translate("swift", {name: "sequential"}, SWIFT_3, "sft"),
    ):
        ((key, problem),) = result.problems
        assert key == name
        assert "transformers 5" in problem.hint


def test_the_sampling_of_transformers_5_is_rendered_by_its_old_flag_before_it():
    assert translate(
        "trainer", {"train_sampling_strategy": "group_by_length"}, {"transformers": "4.57.6"}
    ).arguments == {"group_by_length": True}
    assert translate("trainer", {"train_sampling_strategy": "random"}, {"transformers": "4.57.6"}).arguments == {}
    kept = translate("trainer", {"train_sampling_strategy": "group_by_length"}, {"transformers": "5.23.0"}).arguments
    assert kept == {"train_sampling_strategy": "group_by_length"}


@pytest.mark.parametrize("task_type", ["reranker", "generative_reranker"])
@pytest.mark.parametrize("loss", ["pointwise", "listwise"])
@pytest.mark.parametrize("versions", [SWIFT_3, SWIFT_4], ids=["3.12", "4.6"])
def test_a_reranker_s_loss_has_a_name_that_the_version_knows(versions, loss, task_type):
    known = load_arguments("swift", versions)["loss_type"]
    assert isinstance(known, Argument)
    assert name_loss(loss, task_type, versions) in known.choices


def test_the_names_of_losses_of_every_version_are_read_in_recipes():
    for old in ("reranker", "pointwise_reranker", "listwise_generative_reranker"):
        assert BACKENDS["swift"].check_train({"loss_type": old}) == []
