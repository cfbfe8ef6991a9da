"""A variable that is left in the shell may not change a training, nor let it wait for processes that nobody starts."""

from __future__ import annotations

import pytest

from orchestrator.checks.machine import check_shell_variables
from orchestrator.machine.hardware import CPU

SWIFT = "qwen3_embedding_lora"


@pytest.fixture
def problems(ask, folder, monkeypatch):
    for name in (
        "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "NNODES", "NODE_RANK", "LOCAL_WORLD_SIZE", "PET_NNODES",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)

    def problems(*overrides, **kinds):
        return ask(check_shell_variables, folder.model(), *overrides, **kinds)

    return problems


@pytest.mark.parametrize("recipe", ["qwen3_reranker", SWIFT])
def test_a_clean_shell_is_let_through(problems, recipe):
    assert problems(recipe=recipe) == []


@pytest.mark.parametrize("recipe", ["qwen3_reranker", SWIFT])
def test_a_setting_of_ms_swift_s_losses_is_refused_where_it_would_be_read(problems, monkeypatch, recipe):
    monkeypatch.setenv("MAX_NEGATIVE_SAMPLES", "3")
    found = problems(recipe=recipe)
    assert len(found) == (recipe == SWIFT)
    assert all("MAX_NEGATIVE_SAMPLES=3 is set" in message and "under loss:" in hint for message, hint in found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORLD_SIZE", "2"),
        ("RANK", "1"),
        ("LOCAL_RANK", "3"),
        ("NNODES", "2"),
        ("NODE_RANK", "1"),
        ("PET_NNODES", "2"),
        ("PET_NNODES", "1:4"),
    ],
)
def test_a_variable_that_promises_other_processes_is_refused(problems, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    ((message, hint),) = problems()
    assert f"{name}={value} is set" in message
    assert "wait for processes" in message
    assert hint.startswith(f"unset {name};")


def test_a_rank_without_a_size_is_half_of_what_a_launcher_sets(problems, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    ((message, _),) = problems()
    assert "LOCAL_RANK=0 is set" in message


@pytest.mark.parametrize(
    "values",
    [
        # Kubeflow's PyTorchJob with one replica
        {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456", "PET_NNODES": "1"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "NNODES": "1", "NODE_RANK": "0", "PET_NNODES": "1:1"},
        # what trainers take for no rank
        {"RANK": "-1", "LOCAL_RANK": "-1"},
        # a job script of Slurm on one node: the address is a full name, or a number
        {"MASTER_ADDR": "node-07.cluster.example", "MASTER_PORT": "29500", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        {"MASTER_ADDR": "10.0.0.7"},
        # left in the shell by whoever used the launcher `swift`, which Orch does not
        {"NPROC_PER_NODE": "4"},
        # AzureML and SageMaker on one machine
        {"AZUREML_EXPERIMENT_ID": "1", "NODE_COUNT": "1", "SM_HOSTS": '["algo-1"]', "SM_NUM_GPUS": "8"},
    ],
    ids=["kubeflow", "torchrun", "no-rank", "slurm", "address", "swift", "clouds"],
)
@pytest.mark.parametrize("recipe", ["qwen3_reranker", SWIFT])
def test_what_containers_and_clusters_set_for_one_machine_is_let_through(problems, monkeypatch, values, recipe):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert problems(recipe=recipe) == []


def test_a_smoke_run_waits_for_other_processes_too(problems, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(problems(smoke=True, hardware=CPU)) == 1


def test_the_recipes_own_environment_counts(problems):
    ((message, hint),) = problems("launch.env.RANK='0'")
    assert "RANK=0" in message
    assert hint.startswith("remove it from launch.env")
