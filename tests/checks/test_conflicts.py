"""What this machine or this environment cannot do is refused before the trainer finds out."""

from __future__ import annotations

import pytest

from orchestrator.checks.settings import advise_examples, advise_precision, check_conflicts
from orchestrator.machine.hardware import CPU, Hardware
from tests.checks.conftest import INSTALLED

SWIFT = "qwen3_embedding_lora"
OLD_GPU = Hardware("cuda", 1, bf16=False, names=("Tesla T4",))
TWO = Hardware("cuda", 2, bf16=True)


@pytest.fixture
def problems(ask, folder):
    def problems(*overrides, **kinds):
        return ask(check_conflicts, folder.model(), *overrides, **kinds)

    return problems


@pytest.mark.parametrize("recipe", ["qwen3_reranker", SWIFT])
def test_a_job_that_fits_is_let_through(problems, recipe):
    assert problems(recipe=recipe) == []


@pytest.mark.parametrize(
    ("recipe", "override"), [("qwen3_reranker", "train.use_flash_attn=true"), (SWIFT, "train.attn_impl=flash_attn")]
)
def test_flash_attention_must_be_installed(problems, recipe, override):
    ((message, hint),) = problems(override, recipe=recipe)
    assert "flash-attn, which is not installed" in message
    assert "/env/bin/python -m pip install flash-attn" in hint
    assert problems(override, recipe=recipe, versions=INSTALLED | {"flash-attn": "2.8.3"}) == []
    assert problems(override, recipe=recipe, versions=INSTALLED | {"kernels": "0.10.0"}) == []


def test_flash_attention_3_is_built_by_hand_and_no_package_tells_of_it(problems):
    assert problems("train.attn_impl=flash_attention_3", recipe=SWIFT) == []


def test_flash_attention_needs_a_gpu(problems):
    ((message, _),) = problems("train.attn_impl=flash_attention_2", recipe=SWIFT, hardware=CPU)
    assert "needs a GPU" in message


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_attention_needs_nothing(problems, attention):
    assert problems(f"train.attn_impl={attention}", recipe=SWIFT, hardware=CPU) == []


@pytest.mark.parametrize("hardware", [CPU, OLD_GPU])
def test_tf32_needs_an_ampere(problems, hardware):
    ((message, _),) = problems("train.tf32=true", hardware=hardware)
    assert "train.tf32 needs a GPU of the Ampere generation" in message
    assert problems("train.tf32=true") == []
    assert problems("train.tf32=false", hardware=hardware) == []


def test_liger_kernels_must_be_installed(problems):
    ((message, _),) = problems("train.use_liger_kernel=true")
    assert "liger-kernel, which is not installed" in message
    assert problems("train.use_liger_kernel=true", versions=INSTALLED | {"liger-kernel": "0.6"}) == []


def test_more_processes_than_gpus_are_refused(problems):
    ((message, hint),) = problems("launch.nproc_per_node=3", hardware=TWO)
    assert "nproc_per_node is 3, and this machine has 2 GPUs" in message
    assert "at most 2" in hint
    assert problems("launch.nproc_per_node=2", hardware=TWO) == []
    assert problems("launch.nproc_per_node=3", hardware=CPU) == []


def test_a_recipe_that_chooses_gpus_trains_on_those(problems, plan_for, folder):
    chosen = "launch.env.CUDA_VISIBLE_DEVICES='1'"
    assert problems(chosen, hardware=TWO) == []
    job, plan = plan_for(folder.model(), chosen, hardware=TWO)
    assert job.processes() == 1
    argv = plan.stage("train").command.argv
    assert argv[argv.index("--nproc_per_node") + 1] == "1"


def test_more_processes_than_the_gpus_that_a_recipe_chooses_are_refused(problems):
    chosen = ("launch.env.CUDA_VISIBLE_DEVICES='1'", "launch.nproc_per_node=2")
    ((message, hint),) = problems(*chosen, hardware=TWO)
    assert "2 processes, and launch.env.CUDA_VISIBLE_DEVICES=1 leaves 1 GPUs" in message
    assert "nproc_per_node: 1" in hint
    assert problems("launch.env.CUDA_VISIBLE_DEVICES='0,1'", hardware=TWO) == []


def test_a_recipe_that_hides_every_gpu_from_a_gpu_job_is_refused(problems):
    ((message, hint),) = problems("launch.env.CUDA_VISIBLE_DEVICES=''")
    assert "hides every GPU" in message
    assert "--hardware cpu" in hint


def test_examples_that_have_no_room_in_front_of_a_query_are_told(folder, ask):
    def told(*overrides):
        options = ("train.negatives_cross_device=null", "train.icl_suffix_str=' =>'", *overrides)
        return ask(advise_examples, folder.model(), *options, recipe="bge_embedding")

    ((message, hint),) = told("train.query_max_len=512")
    assert "leaves examples no room" in message
    assert "query_max_len: 1024" in hint
    assert told("train.query_max_len=513") == []
    assert told("train.query_max_len=512", "train.retrieval_use_examples=false") == []
    assert ask(advise_examples, folder.model()) == []


def test_bf16_without_its_units_is_told(folder, ask):
    ((message, _),) = ask(advise_precision, folder.model(), "train.bf16=true", hardware=OLD_GPU)
    assert "emulated" in message
    assert ask(advise_precision, folder.model(), hardware=OLD_GPU) == []
    assert ask(advise_precision, folder.model(), "train.bf16=true") == []
