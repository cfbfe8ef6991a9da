"""The estimate of a training's GPU memory: counts that can be done by hand, and what is advised from it."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from orchestrator.backends.models import BaseModel
from orchestrator.checks import memory_fit
from orchestrator.checks.memory import GIB, TrainingSize, estimate_memory, find_training_size
from orchestrator.checks.memory_fit import advise_memory, check_memory, plan_memory
from orchestrator.checks.model_size import ModelSize, find_model_size, load_model_size, read_model_size
from orchestrator.checks.settings import read_train_values
from orchestrator.machine.hardware import CPU, Hardware

# config.json of Qwen/Qwen3-0.6B, with the rows of its tokenizer; its card says 0.6B, 0.44B of them no embeddings
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 128, "hidden_size": 1024,
    "intermediate_size": 3072, "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": 151669,
    "max_position_embeddings": 40960,
}  # fmt: skip
# config.json of google-bert/bert-base-uncased: 110M weights
BERT = {
    "architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_size": 768, "intermediate_size": 3072,
    "max_position_embeddings": 512, "num_attention_heads": 12, "num_hidden_layers": 12, "vocab_size": 30522,
}  # fmt: skip


def smallest(mib: int, count: int = 1) -> Hardware:
    return Hardware("cuda", count, bf16=True, names=("NVIDIA A100",) * count, memory_mib=(mib,) * count)


@pytest.fixture
def plan_qwen(tmp_path, plan_for):
    def plan_qwen(*overrides: str, family: str = "decoder", config: dict = QWEN3, **settings):
        (tmp_path / "config.json").write_text(json.dumps(config))
        native = "qwen3-native" if family == "decoder" else "cross-encoder"
        model = BaseModel("Qwen/Qwen3-Reranker-0.6B", str(tmp_path), tmp_path, family, native)
        return plan_for(model, *overrides, **settings)

    return plan_qwen


def test_the_weights_of_known_models_are_counted_from_their_configs():
    assert read_model_size(QWEN3).parameters == pytest.approx(0.596e9, rel=0.002)
    assert read_model_size(QWEN3).parameters - 151669 * 1024 == pytest.approx(0.44e9, rel=0.002)
    assert read_model_size(BERT).parameters == pytest.approx(110e6, rel=0.02)


def test_untied_embeddings_count_twice():
    tied, untied = read_model_size(QWEN3), read_model_size({**QWEN3, "tie_word_embeddings": False})
    assert untied.parameters - tied.parameters == 151669 * 1024


def test_weights_on_this_machine_are_counted_in_the_headers(folder):
    size = load_model_size(folder.path.parent / "model")
    assert size is None  # the small model's config does not say how many heads it has
    folder.config(num_attention_heads=2)
    # embeddings 40 x 8, norm 8, two layers of seven 8 x 8 matrices and one norm
    assert load_model_size(folder.path).parameters == 40 * 8 + 8 + 2 * (7 * 64 + 8)


@pytest.mark.parametrize("config", [{}, {**QWEN3, "hidden_size": "big"}, {**QWEN3, "num_hidden_layers": 0}])
def test_a_config_that_does_not_say_its_sizes_gives_no_estimate(config):
    assert read_model_size(config) is None


def test_a_config_that_is_no_json_gives_no_estimate(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert load_model_size(tmp_path) is None
    (tmp_path / "config.json").write_text("[]")
    assert load_model_size(tmp_path) is None


# Bytes that a layer keeps of a token for the backward pass: torch.autograd.graph.saved_tensors_hooks (torch 2.13) on
# randomly built models of 2 and of 4 layers under autocast to bfloat16; weights' copies left out, and for BERT the
# scores of the attention, which is not fused on a CPU while it has dropout. Hidden, intermediate, query, key: bytes.
QWEN3_KEPT = {
    (256, 768, 512, 256): 20568,
    (256, 1536, 512, 256): 26712,
    (512, 1536, 512, 256): 33368,
    (256, 768, 256, 256): 17976,
}
BERT_KEPT = {(256, 1024): 10256, (256, 2048): 16912, (512, 2048): 25616}


@pytest.mark.parametrize(("sizes", "kept"), QWEN3_KEPT.items())
def test_what_an_llm_keeps_for_its_backward_pass_was_measured(sizes, kept):
    hidden, intermediate, query, key = sizes
    model = ModelSize(1, hidden, intermediate, query, key, 128, True, 0)
    one = TrainingSize(rows=1, tokens=1, weight_bytes=4, compute_bytes=2)
    assert estimate_memory(model, one).activations == pytest.approx(kept, rel=0.01)


@pytest.mark.parametrize(("sizes", "kept"), BERT_KEPT.items())
def test_what_an_encoder_keeps_for_its_backward_pass_was_measured(sizes, kept):
    hidden, intermediate = sizes
    model = ModelSize(1, hidden, intermediate, hidden, hidden, 128, False, 0)
    one = TrainingSize(rows=1, tokens=1, weight_bytes=4, compute_bytes=2)
    assert estimate_memory(model, one).activations == pytest.approx(kept, rel=0.25)


def test_mixed_precision_takes_eighteen_bytes_a_trained_weight():
    model = read_model_size(QWEN3)
    found = estimate_memory(model, TrainingSize(rows=1, tokens=1, weight_bytes=4, compute_bytes=2))
    # float32 weights and their copies in half precision, gradients, Adam's two moments: 4 + 2 + 4 + 8
    assert found.weights + found.gradients + found.optimizer == 18 * model.parameters


def test_lora_trains_the_adapter_alone():
    model = read_model_size(QWEN3)
    size = TrainingSize(rows=1, tokens=1, weight_bytes=2, compute_bytes=2, adapter=1000)
    found = estimate_memory(model, size)
    assert (found.weights, found.gradients, found.optimizer) == (2 * model.parameters + 4000, 4000, 8000)


def test_each_zero_stage_shares_one_thing_more():
    model = read_model_size(QWEN3)
    size = TrainingSize(rows=1, tokens=1, weight_bytes=2, compute_bytes=2, trained_bytes=2, master_bytes=4, processes=8)
    zero = [estimate_memory(model, replace(size, shards=stage)) for stage in range(4)]
    assert [found.optimizer for found in zero] == [12 * model.parameters] + 3 * [12 * model.parameters // 8]
    assert [found.gradients for found in zero] == 2 * [2 * model.parameters] + 2 * [2 * model.parameters // 8]
    assert [found.weights for found in zero] == 3 * [2 * model.parameters] + [2 * model.parameters // 8]


def test_what_is_offloaded_takes_no_gpu_memory():
    size = TrainingSize(rows=1, tokens=1, weight_bytes=2, compute_bytes=2, offload_optimizer=True, offload_weights=True)
    found = estimate_memory(read_model_size(QWEN3), size)
    assert (found.weights, found.optimizer) == (0, 0)


def test_flagembedding_computes_the_logits_of_every_position(plan_qwen):
    job, plan = plan_qwen("speedups=none")
    planned = plan_memory(job, plan)
    # batch 4 x group 8 rows of 512 + 512 tokens, in half precision with their gradient
    assert planned.estimate.logits == 4 * 8 * 1024 * 151669 * (2 + 2)
    assert planned.estimate.logits == max(
        value for name, value in planned.estimate.to_data().items() if name not in {"total", "assumed"}
    )
    assert planned.estimate.weights == pytest.approx(2 * 0.596e9, rel=0.02)
    assert str(planned).startswith("about 25 GiB of GPU memory with the longest texts: 18.5 logits, ")


def test_the_speedup_of_the_last_position_keeps_no_logits_and_the_recipe_fits_a_card_of_12_gb(plan_qwen):
    planned = plan_memory(*plan_qwen())
    assert planned.estimate.logits == 0
    assert str(planned).startswith("about 6.4 GiB of GPU memory with the longest texts: 4.2 activations, 1.1 weights")


def test_an_encoder_has_no_logits_over_its_vocabulary(plan_qwen):
    job, plan = plan_qwen("train.query_max_len=64", recipe="bge_reranker", family="encoder", config=BERT)
    assert plan_memory(job, plan).estimate.logits == 0


def test_gradient_checkpointing_keeps_the_layers_inputs_alone():
    model = read_model_size(QWEN3)
    size = TrainingSize(rows=8, tokens=512, weight_bytes=2, compute_bytes=2)
    with_it, without = (estimate_memory(model, replace(size, checkpointing=on)).activations for on in (True, False))
    assert with_it < without / 10
    assert with_it > 8 * 512 * 1024 * 2 * 28


def test_a_causal_language_models_loss_takes_logits_to_float32():
    size = TrainingSize(rows=1, tokens=1000, weight_bytes=2, compute_bytes=2, logits="loss")
    assert estimate_memory(read_model_size(QWEN3), size).logits == 1000 * 151669 * 10


@pytest.mark.parametrize(
    ("optimizer", "moments"),
    [("adamw_torch", 8), ("adamw_bnb_8bit", 2), ("adafactor", 0), ("sgd", 0), ("lion_32bit", 4)],
)
def test_the_optimizers_state_is_the_named_ones(plan_qwen, optimizer, moments):
    job, plan = plan_qwen()
    values = {**read_train_values(plan), "optim": optimizer}
    assert find_training_size(job, values, read_model_size(QWEN3)).moment_bytes == moments


def test_lora_counts_the_named_modules_alone(plan_qwen):
    job, plan = plan_qwen("train.target_modules=[q_proj]", "train.lora_rank=8")
    assert plan_memory(job, plan).training.adapter == 8 * 28 * (1024 + 2048)


def test_lora_on_an_encoder_trains_few_weights_and_is_what_would_make_it_fit(plan_qwen):
    encoder = {"family": "encoder", "config": BERT, "recipe": "reranker_lora"}
    dense = 2 * 768 + 2 * (768 + 3072)
    for names in ("query,key,value,dense", "all-linear"):
        job, plan = plan_qwen(f"train.target_modules=[{names}]", **encoder)
        assert plan_memory(job, plan).training.adapter == 16 * 12 * (3 * 2 * 768 + dense)
    job, plan = plan_qwen(**{**encoder, "recipe": "bge_pointwise"}, hardware=smallest(1024))
    assert plan_memory(job, plan).training.adapter is None
    assert "train LoRA: lora_rank: 16" in next(advise_memory(job, plan)).hint


def test_a_cached_loss_of_a_reranker_takes_the_memory_of_its_small_batch(plan_qwen):
    encoder = {"family": "encoder", "config": BERT, "recipe": "bert_ranknet"}
    loss, batch = "loss={type: cached_mnrl, mini_batch_size: 16}", "train.per_device_train_batch_size=512"
    assert plan_memory(*plan_qwen(loss, batch, **encoder)).training.rows == 16
    assert plan_memory(*plan_qwen("loss=mnrl", batch, **encoder)).training.rows > 512


def test_full_training_with_swift_keeps_float32(plan_qwen):
    job, plan = plan_qwen(recipe="qwen3_embedding_full")
    planned = plan_memory(job, plan)
    assert (planned.training.weight_bytes, planned.training.compute_bytes) == (4, 2)
    assert planned.training.adapter is None
    assert planned.estimate.logits == 0


def test_the_rows_of_an_assumed_group_are_said(plan_qwen):
    job, plan = plan_qwen(recipe="qwen3_embedding_lora")
    planned = plan_memory(job, plan)
    assert ("documents a query assumed" in str(planned)) is (planned.assumed is not None)


def test_there_is_no_estimate_for_a_smoke_run_or_an_unknown_model_on_a_hub(plan_qwen):
    job, plan = plan_qwen()
    assert plan_memory(replace(job, smoke=True), plan) is None
    assert plan_memory(replace(job, model=replace(job.model, folder=None, name="me/my-own-0.6B")), plan) is None


def test_a_well_known_model_that_is_not_here_has_the_estimate_of_its_files(plan_qwen):
    job, plan = plan_qwen()
    here, named = plan_memory(job, plan), plan_memory(replace(job, model=replace(job.model, folder=None)), plan)
    assert named.estimate.total == pytest.approx(here.estimate.total, rel=0.002)  # rows of the table
    assert "sizes by its name" in str(named)
    assert "by its name" not in str(here)


# millions of weights, as the models' pages on Hugging Face say
PUBLISHED = {
    "sentence-transformers/all-MiniLM-L6-v2": 22.7, "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": 118,
    "BAAI/bge-small-en-v1.5": 33.4, "BAAI/bge-small-zh-v1.5": 24, "BAAI/bge-base-en-v1.5": 109, "BAAI/bge-base-zh": 102,
    "BAAI/bge-large-en-v1.5": 335, "BAAI/bge-large-zh-v1.5": 326, "BAAI/bge-m3": 568, "BAAI/bge-reranker-base": 278,
    "BAAI/bge-reranker-large": 560, "intfloat/multilingual-e5-small": 118, "intfloat/e5-base-v2": 109,
    "hfl/chinese-roberta-wwm-ext": 102, "google/embeddinggemma-300m": 303, "BAAI/bge-reranker-v2-gemma": 2510,
    "Qwen/Qwen3-0.6B": 596, "Qwen/Qwen3-1.7B-Base": 1720, "Qwen/Qwen3-Embedding-4B": 4020, "Qwen/Qwen3-8B": 8190,
    "Qwen/Qwen3-Reranker-8B": 8190, "Qwen/Qwen3-Embedding-8B": 7570, "Qwen/Qwen2.5-0.5B": 494, "Qwen/Qwen2.5-1.5B-Instruct": 1540,
    "Qwen/Qwen2.5-7B": 7620, "intfloat/e5-mistral-7b-instruct": 7110,
}  # fmt: skip


@pytest.mark.parametrize(("name", "millions"), PUBLISHED.items())
def test_the_sizes_of_well_known_models_make_as_many_weights_as_published(name, millions):
    size = find_model_size(BaseModel(name, name, None, "encoder", None))
    assert size.parameters / 1e6 == pytest.approx(millions, rel=0.015)


@pytest.mark.parametrize(
    "name", ["me/bge-m3-tuned", "BAAI/bge-reranker-v2.5-gemma2-lightweight", "Qwen/Qwen3-0.6B-GGUF"]
)
def test_a_model_of_a_like_name_is_another_one(name):
    assert find_model_size(BaseModel(name, name, None, "decoder", None)) is None


def test_a_training_that_fits_is_not_spoken_of(plan_qwen):
    job, plan = plan_qwen(hardware=smallest(81559))
    assert list(check_memory(job, plan)) == []
    assert list(advise_memory(job, plan)) == []


def test_a_training_that_may_not_fit_is_told_what_to_lower_and_what_that_saves(plan_qwen):
    job, plan = plan_qwen("speedups=none", hardware=smallest(24564))
    assert list(check_memory(job, plan)) == []
    (problem,) = advise_memory(job, plan)
    assert problem.message.startswith("the training needs about 25 GiB of GPU memory")
    assert "it will perhaps not fit" in problem.message
    assert problem.hint.startswith("speedups: [last_logits] saves 19 GiB")
    assert "per_device_train_batch_size: 2 instead of 4 saves 11 GiB" in problem.hint
    assert "train_group_size: 4 instead of 8 saves 11 GiB" in problem.hint
    assert "passage_max_len: 256 instead of 512 saves" in problem.hint


def test_what_a_remedy_saves_is_what_the_estimate_loses(plan_qwen):
    job, plan = plan_qwen("speedups=none", hardware=smallest(24564))
    less_job, less_plan = plan_qwen("speedups=none", "train.per_device_train_batch_size=2", hardware=smallest(24564))
    saved = plan_memory(job, plan).estimate.total - plan_memory(less_job, less_plan).estimate.total
    assert f"saves {saved / GIB:.0f} GiB" in next(iter(advise_memory(job, plan))).hint


def test_far_too_little_memory_is_said_so_and_still_forbids_nothing(plan_qwen):
    job, plan = plan_qwen("speedups=none", hardware=smallest(8192))
    assert list(check_memory(job, plan)) == []
    assert "it will hardly fit" in next(iter(advise_memory(job, plan))).message


def test_checkpointing_is_advised_where_it_is_off(plan_qwen):
    job, plan = plan_qwen("train.gradient_checkpointing=false", hardware=smallest(24564))
    assert "gradient_checkpointing: true saves" in next(iter(advise_memory(job, plan))).hint


def test_weights_that_do_not_fit_end_the_run_before_it_starts(plan_qwen):
    job, plan = plan_qwen(hardware=smallest(1024, count=2))
    (problem,) = check_memory(job, plan)
    assert "its weights alone take 1.1 GiB of GPU memory here, and a GPU has 1.0 GiB" in problem.message
    assert problem.hint
    assert list(advise_memory(job, plan)) == []


def test_on_a_cpu_the_free_memory_is_what_it_must_fit_into(plan_qwen, monkeypatch):
    job, plan = plan_qwen(hardware=CPU)
    monkeypatch.setattr(memory_fit, "find_memory", lambda: {"MemAvailable": 200 * GIB})
    assert list(advise_memory(job, plan)) == []
    monkeypatch.setattr(memory_fit, "find_memory", lambda: {"MemAvailable": 1 * GIB})
    (problem,) = advise_memory(job, plan)
    assert " GiB of memory with the longest texts" in problem.message
    assert "1.0 GiB are free here: it will hardly fit" in problem.message
    assert "train_group_size: 4 instead of 8 saves" in problem.hint
    assert list(check_memory(job, plan)) == []  # there may be swap, or more of it free in a moment


def test_a_machine_that_does_not_tell_its_memory_gets_no_advice(plan_qwen, monkeypatch):
    job, plan = plan_qwen(hardware=CPU)
    monkeypatch.setattr(memory_fit, "find_memory", dict)
    assert list(advise_memory(job, plan)) == []


def test_unknown_hardware_gets_no_advice(plan_qwen):
    job, plan = plan_qwen(hardware=Hardware("cuda", 1, bf16=True))
    assert list(check_memory(job, plan)) + list(advise_memory(job, plan)) == []
