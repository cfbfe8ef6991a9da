"""Known bugs are met in the versions and the jobs that have them, and in no others."""

from __future__ import annotations

import re

import pytest

from orchestrator.backends import BACKENDS
from orchestrator.backends.models import BaseModel
from orchestrator.checks.known_bugs import (
    CONDITIONS,
    Affected,
    advise_known_bugs,
    check_known_bugs,
    find_bugs,
    load_known_bugs,
)
from orchestrator.machine.hardware import Hardware
from tests.checks.conftest import INSTALLED

OLD_GPU = Hardware("cuda", 1, bf16=False)
TWO_4090 = Hardware("cuda", 2, bf16=True, names=("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"))
EMBEDDING, RERANKER = "qwen3_embedding_lora", "qwen3_reranker"
ALLOWED = ("model.path=Qwen/Qwen3-Reranker-0.6B", "model.allow_pickle=true")


@pytest.fixture
def ids(folder, plan_for, monkeypatch):
    for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"):
        monkeypatch.delenv(name, raising=False)

    def ids(*overrides, **kinds):
        kinds["versions"] = INSTALLED | kinds.get("versions", {})
        return {bug.id for bug in find_bugs(*plan_for(folder.model(), *overrides, **kinds))}

    return ids


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("3.9.9", False),
        ("4.0", True),
        ("4.0.0", True),
        ("4.5.10", True),
        ("4.6.0", False),
        ("4.6.0.dev0", False),
        ("5.0", False),
        (None, False),
    ],
)
def test_a_range_holds_its_first_version_and_not_its_last(version, affected):
    assert Affected("x", since="4.0", before="4.6.0").holds(version) is affected


def test_a_range_without_ends_holds_every_installed_version():
    assert Affected("x").holds("0.1")
    assert not Affected("x").holds(None)


def test_the_tested_versions_have_no_bugs_that_concern_the_shipped_recipes(ids):
    for recipe in (RERANKER, EMBEDDING, "qwen3_sft_lora", "qwen3_reranker_native"):
        assert ids(recipe=recipe) == set()


def test_padding_with_positives(ids):
    old = {"ms-swift": "4.5.3"}
    assert "swift-hard-negatives" in ids("loss={type: infonce, hard_negatives: 3}", recipe=EMBEDDING, versions=old)
    assert "swift-hard-negatives" not in ids("loss={type: infonce, hard_negatives: 3}", recipe=EMBEDDING)
    assert "swift-hard-negatives" not in ids("loss={type: infonce}", recipe=EMBEDDING, versions=old)


def test_rows_of_an_older_swift(ids):
    old = {"ms-swift": "3.8.3"}
    assert "swift-old-rows" in ids("loss={type: infonce}", recipe=EMBEDDING, versions=old)
    assert "swift-old-rows" not in ids("loss={type: infonce}", recipe=EMBEDDING, versions={"ms-swift": "3.9.0"})
    assert "swift-old-rows" not in ids(recipe=RERANKER, versions=old)


def test_flagembedding_with_transformers_5(ids):
    old = {"FlagEmbedding": "1.4.0"}
    assert "flagembedding-transformers-5" in ids(versions=old)
    assert "flagembedding-transformers-5" not in ids(versions={"FlagEmbedding": "1.4.1"})
    assert "flagembedding-transformers-5" not in ids(versions=old | {"transformers": "4.57.1"})
    assert "flagembedding-transformers-5" not in ids(recipe=EMBEDDING, versions=old)


def test_flagembedding_s_embedders_with_transformers_5(ids):
    name, old = "flagembedding-embedders-transformers-5", {"FlagEmbedding": "1.3.5"}
    assert name in ids(recipe="bge_embedding", versions=old)
    assert "flagembedding-transformers-5" not in ids(recipe="bge_embedding", versions=old)
    assert name not in ids(recipe="bge_embedding", versions={"FlagEmbedding": "1.4.1"})
    assert name not in ids(versions=old)


def test_flagembedding_that_names_flash_attention_as_transformers_no_longer_takes_it(ids, plan_for):
    name, old = "flagembedding-flash-attention-2", {"FlagEmbedding": "1.3.5", "transformers": "4.53.0"}
    assert name in ids(versions=old)
    assert name not in ids(versions=old | {"FlagEmbedding": "1.4.0"})
    assert name not in ids(versions=old | {"transformers": "4.52.4"})
    assert name not in ids(recipe="qwen3_reranker_native", versions=old)
    encoder = BaseModel("BAAI/bge-reranker-v2-m3", "BAAI/bge-reranker-v2-m3", None, "encoder", "cross-encoder")
    assert find_bugs(*plan_for(encoder, recipe="bge_reranker", versions=INSTALLED | old)) == []


def test_an_llm_reranker_and_sentence_transformers_that_do_not_know_it(ids):
    random, cut = "sentence-transformers-no-logit-score", "sentence-transformers-cut-prompt"
    assert {random, cut} & ids(versions={"sentence-transformers": "5.3.0"}) == {random}
    assert {random, cut} & ids(versions={"sentence-transformers": "5.5.1"}) == {cut}
    assert {random, cut} & ids(versions={"sentence-transformers": "5.6.0"}) == set()
    assert {random, cut} & ids(recipe=EMBEDDING, versions={"sentence-transformers": "5.3.0"}) == set()


@pytest.mark.parametrize("name", ["lm_head", "model.embed_tokens"])
def test_an_adapter_of_tied_embeddings(ids, folder, name):
    asked = f"train.target_modules=[q_proj, {name}]"
    assert "peft-tied-embeddings" in ids(asked)
    assert "peft-tied-embeddings" in ids(f"train.modules_to_save=[{name}]", recipe=EMBEDDING)
    assert "peft-tied-embeddings" not in ids("train.target_modules=[q_proj]")
    assert "peft-tied-embeddings" not in ids(asked, smoke=True)
    folder.config(tie_word_embeddings=False)
    assert "peft-tied-embeddings" not in ids(asked)


def test_gradient_accumulation_before_its_repair(ids):
    sft, old = "qwen3_sft_lora", {"transformers": "4.45.2"}
    bug = "transformers-gradient-accumulation"
    assert bug in ids("train.gradient_accumulation_steps=4", recipe=sft, versions=old)
    assert bug not in ids("train.gradient_accumulation_steps=4", recipe=sft)
    assert bug not in ids("train.gradient_accumulation_steps=1", recipe=sft, versions=old)
    assert bug not in ids("train.gradient_accumulation_steps=4", recipe=EMBEDDING, versions=old)


@pytest.mark.parametrize(
    ("architecture", "bug"), [("Gemma3ForCausalLM", "gemma3-fp16"), ("Qwen2ForCausalLM", "qwen2-fp16")]
)
def test_models_that_overflow_in_fp16(ids, folder, architecture, bug):
    assert bug not in ids(hardware=OLD_GPU)
    folder.config(architectures=[architecture])
    assert bug in ids(hardware=OLD_GPU)
    assert bug not in ids()
    assert bug not in ids("train.fp16=false", hardware=OLD_GPU)


def test_pickles_and_a_torch_that_does_not_load_them(ids, folder):
    old = {"torch": "2.5.1+cu121"}
    assert "torch-load" not in ids(*ALLOWED, versions=old)
    folder.remove("model.safetensors").write("pytorch_model.bin", "x")
    assert "torch-load" in ids(*ALLOWED, versions=old)
    assert "torch-load" not in ids(*ALLOWED)
    assert "torch-load" not in ids(*ALLOWED, versions=old | {"transformers": "4.51.3"})
    assert "torch-load" not in ids(versions=old)  # refused anyway


def test_several_gpus_without_p2p(ids, monkeypatch):
    assert "rtx-40-p2p" in ids(hardware=TWO_4090)
    assert "rtx-40-p2p" not in ids("launch.nproc_per_node=1", hardware=TWO_4090)
    assert "rtx-40-p2p" not in ids(hardware=Hardware("cuda", 2, bf16=True, names=("NVIDIA A100",)))
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    assert "rtx-40-p2p" in ids(hardware=TWO_4090)
    assert "rtx-40-p2p" not in ids("launch.env.NCCL_IB_DISABLE='1'", hardware=TWO_4090)


def test_a_severe_bug_is_refused_and_another_is_told(folder, ask):
    old = INSTALLED | {"FlagEmbedding": "1.4.0"}
    ((message, hint),) = ask(check_known_bugs, folder.model(), "deepspeed=stage0", versions=old)
    assert message.startswith("FlagEmbedding 1.4.0, transformers 5.19.0: the trainer calls prepare_for_model")
    assert "pip install 'FlagEmbedding>=1.4.1'" in hint
    assert "flagembedding-transformers-5: https://github.com/FlagOpen/FlagEmbedding/pull/1593" in hint
    assert ask(advise_known_bugs, folder.model(), "deepspeed=stage0", versions=old) == []
    assert len(ask(advise_known_bugs, folder.model(), "deepspeed=stage0", hardware=TWO_4090)) == 1
    assert ask(check_known_bugs, folder.model(), "deepspeed=stage0", hardware=TWO_4090) == []


def test_every_bug_has_an_id_of_its_own_a_remedy_and_a_source():
    bugs = load_known_bugs()
    assert len({bug.id for bug in bugs}) == len(bugs) >= 8
    for bug in bugs:
        assert bug.affected
        assert bug.hint
        assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", bug.source)


def test_every_bug_names_what_there_is():
    bugs = load_known_bugs()
    assert {bug.when for bug in bugs} - {""} == set(CONDITIONS)
    assert {name for bug in bugs for name in bug.backends} <= set(BACKENDS)
    assert {name for bug in bugs for name in bug.tasks} <= {"reranker", "embedding", "sft"}
    assert {bug.family for bug in bugs} <= {"", "encoder", "decoder"}
