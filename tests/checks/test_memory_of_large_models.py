"""What does not fit is refused, and what fits because it is quantised, shared or spread is not; each hint can be followed."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from orchestrator.backends.models import BaseModel
from orchestrator.checks.memory import GIB
from orchestrator.checks.memory_fit import advise_measuring, advise_memory, check_memory, plan_memory
from orchestrator.checks.model_size import find_stored_bits, find_trained_bits, load_model_size
from orchestrator.machine.hardware import Hardware, parse_hardware

# config.json of Qwen/Qwen2.5-32B-Instruct: 32.8B weights, 31.0B of them no embeddings (its card)
QWEN_32B = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 27648,
    "num_attention_heads": 40, "num_hidden_layers": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 152064, "max_position_embeddings": 32768,
}  # fmt: skip
QLORA = ("train.quant_method=bnb", "train.quant_bits=4")
FULL = "qwen3_embedding_full"


def gpus(count: int, gib: int) -> Hardware:
    return parse_hardware(f"gpu:{count}:{gib}g")


@pytest.fixture
def plan_large(tmp_path, plan_for):
    def plan_large(*overrides, hardware, config=QWEN_32B, recipe="qwen3_sft_lora"):
        (tmp_path / "config.json").write_text(json.dumps(config))
        name = "Qwen/Qwen3-Embedding-0.6B" if recipe == FULL else "Qwen/Qwen2.5-32B-Instruct"  # of this size, imagine
        model = BaseModel(name, str(tmp_path), tmp_path, "decoder", None)
        return plan_for(model, *overrides, recipe=recipe, hardware=hardware)

    return plan_large


def weights_of(planned) -> float:
    return planned.estimate.weights / GIB


@pytest.mark.parametrize(
    ("given", "hardware", "gib"),
    [
        (QLORA, gpus(1, 40), 20),  # 15.0 of layers, 2.9 of embeddings, 2 of the adapter
        ((*QLORA, "train.bnb_4bit_use_double_quant=false"), gpus(1, 40), 21.4),
        (("train.quant_method=bnb", "train.quant_bits=8"), gpus(1, 40), 34),
        (("train.quant_method=hqq", "train.quant_bits=4"), gpus(1, 40), 21.4),
        (("train.quant_method=fp8",), gpus(1, 40), 34),
        (("train.quant_method=eetq", "train.quant_bits=8"), gpus(1, 40), 34),
        (("launch.nproc_per_node=1",), gpus(2, 40), 31.5),  # ms-swift's device_map
        (("launch.nproc_per_node=2",), gpus(4, 40), 31.5),
        (("launch.nproc_per_node=1", "train.device_map=auto"), gpus(4, 40), 16),
        (("train.fsdp=fsdp2",), gpus(2, 40), 31.5),
        (('train.fsdp=\'{"fsdp": "full_shard auto_wrap"}\'',), gpus(2, 40), 31.5),
        (("deepspeed=zero3",), gpus(2, 40), 31.5),
        (("deepspeed=zero3_offload",), gpus(2, 40), 0),
        ((*QLORA, "launch.nproc_per_node=1"), gpus(4, 12), 5),
    ],
)
def test_what_fits_by_its_weights_is_let_through(plan_large, given, hardware, gib):
    job, plan = plan_large(*given, hardware=hardware)
    assert weights_of(plan_memory(job, plan)) == pytest.approx(gib, abs=0.7)
    assert list(check_memory(job, plan)) == []


@pytest.mark.parametrize(
    ("given", "hardware"),
    [
        ((), gpus(1, 40)),
        ((), gpus(2, 40)),
        (QLORA, gpus(1, 16)),
        (("train.quant_method=bnb", "train.quant_bits=8"), gpus(1, 24)),
        (("launch.nproc_per_node=1", "train.device_map=cuda:0"), gpus(2, 40)),
        (("launch.nproc_per_node=1", "launch.env.CUDA_VISIBLE_DEVICES='0'"), gpus(2, 40)),
        (("deepspeed=zero2",), gpus(8, 40)),
        (("deepspeed=zero2_offload",), gpus(8, 40)),
        (("deepspeed=zero3",), gpus(2, 24)),
        (('train.fsdp=\'{"fsdp": "shard_grad_op auto_wrap"}\'',), gpus(8, 40)),
    ],
)
def test_what_does_not_fit_is_refused_and_the_hint_leads_to_what_does(plan_large, given, hardware):
    job, plan = plan_large(*given, hardware=hardware)
    (problem,) = check_memory(job, plan)
    assert "its weights alone take" in problem.message
    ways = [line for line in problem.hint.splitlines() if "smaller model" not in line]
    assert ways or "take a smaller model" in problem.hint
    for line in ways:
        followed = plan_large(*given, *follow(line), hardware=hardware)
        assert list(check_memory(*followed)) == [], line


def follow(line):
    """Return the hint's own keys and values as overrides."""
    found = []
    if "nproc_per_node: 1" in line:
        found += ["launch.nproc_per_node=1", "deepspeed=null"]
    if "deepspeed: zero3" in line:
        found.append("deepspeed=zero3")
    for key in ("tuner_type", "quant_method", "quant_bits", "use_lora"):
        if f"{key}: " in line:
            found.append(f"train.{key}={line.split(f'{key}: ')[1].split()[0].rstrip(',')}")
    assert found, line
    return found


def test_one_small_gpu_is_shown_qlora_and_a_tiny_one_a_smaller_model(plan_large):
    (problem,) = check_memory(*plan_large(hardware=gpus(1, 40)))
    assert problem.hint == "train QLoRA: quant_method: bnb, quant_bits: 4 (it needs the package bitsandbytes)"
    (problem,) = check_memory(*plan_large(hardware=gpus(1, 8)))
    assert problem.hint == "take a smaller model, or GPUs of more than 63 GiB"


def test_several_gpus_are_shown_how_to_share_the_weights(plan_large):
    (problem,) = check_memory(*plan_large(hardware=gpus(2, 40)))
    assert "deepspeed: zero3 shares the weights" in problem.hint
    assert "launch: {nproc_per_node: 1} spreads the layers" in problem.hint
    full = plan_large("deepspeed=null", hardware=gpus(8, 80), recipe=FULL)
    (problem,) = check_memory(*full)
    assert problem.hint.startswith("deepspeed: zero3")
    assert list(check_memory(*plan_large("deepspeed=zero3", hardware=gpus(8, 80), recipe=FULL))) == []


def test_the_hint_never_names_a_way_that_the_recipe_may_not_go(plan_large):
    refused = plan_large("deepspeed=null", "merge=true", hardware=gpus(8, 80), recipe=FULL)
    (problem,) = check_memory(*refused)
    assert "deepspeed: zero3 shares" not in problem.hint  # full training with merge: true is refused


@pytest.mark.parametrize(
    ("quantised", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4.16),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, 8.19),
        ({"quant_method": "fp8"}, 8.0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4.13),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8.0),
        ({"quant_method": "compressed-tensors"}, 8.19),
    ],
)
def test_a_model_whose_own_files_are_quantised_is_weighed_so(plan_large, quantised, bits):
    config = {**QWEN_32B, "quantization_config": quantised}
    assert find_stored_bits(config) == pytest.approx(bits, abs=0.01)
    job, plan = plan_large(hardware=gpus(1, 80), config=config)
    assert weights_of(plan_memory(job, plan)) == pytest.approx(31.2e9 * bits / 8 / GIB + 2.9 + 2.26, abs=0.5)
    assert load_model_size(job.model.folder).stored_bytes is None


def test_files_that_are_there_say_what_a_quantised_model_weighs(plan_large, tmp_path):
    config = {**QWEN_32B, "quantization_config": {"quant_method": "awq", "bits": 4}}
    (tmp_path / "model.safetensors").write_bytes(bytes(5_000_000))
    job, plan = plan_large(hardware=gpus(1, 40), config=config)
    planned = plan_memory(job, plan)
    assert planned.model.stored_bytes == 5_000_000
    assert weights_of(planned) < 3  # the adapter and one matrix


def test_the_number_is_the_same_whoever_asks(plan_large):
    here, asked = gpus(1, 40), parse_hardware("gpu")
    numbers = {str(plan_memory(*plan_large(*QLORA, hardware=hardware))) for hardware in (here, asked)}
    assert len(numbers) == 1
    assert "about 20 GiB" not in numbers.pop()  # the weights are not all of it


def test_a_sequence_that_is_shared_takes_less_of_each_gpu(plan_large):
    alone = plan_memory(*plan_large(*QLORA, hardware=gpus(4, 40))).estimate
    shared = plan_memory(*plan_large(*QLORA, "train.sequence_parallel_size=4", hardware=gpus(4, 40))).estimate
    assert shared.activations == pytest.approx(alone.activations / 4)
    assert shared.logits == pytest.approx(alone.logits / 4)
    assert shared.weights == alone.weights


def test_zero_that_ms_swift_knows_by_name_is_counted_as_one_in_a_file(plan_large):
    job, plan = plan_large("deepspeed=zero3", hardware=gpus(8, 80), recipe=FULL)
    training = plan_memory(job, plan).training
    assert (training.shards, training.weight_bytes, training.master_bytes) == (3, 2, 4)
    job, plan = plan_large("deepspeed=zero2_offload", hardware=gpus(8, 80), recipe=FULL)
    assert plan_memory(job, plan).estimate.optimizer == 0


def test_what_does_not_fit_beside_its_weights_is_advice(plan_large):
    job, plan = plan_large(*QLORA, hardware=gpus(1, 24))
    assert list(check_memory(job, plan)) == []
    assert "hardly fit" in next(iter(advise_memory(job, plan))).message


def test_what_is_trained_in_parts_and_measured_whole_is_told_so(plan_large):
    (problem,) = advise_measuring(*plan_large(*QLORA, hardware=gpus(1, 40)))
    assert "load the whole model on one GPU: 61 GiB in half precision, and a GPU has 40 GiB" in problem.message
    followed = ("merge=false", "gate={}", "evaluate.baselines=[]")
    assert list(advise_measuring(*plan_large(*QLORA, *followed, hardware=gpus(1, 40)))) == []
    assert list(advise_measuring(*plan_large(*QLORA, hardware=gpus(1, 80)))) == []


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ({}, None),
        ({"quant_method": "bnb"}, None),  # ms-swift refuses it
        ({"quant_method": "quanto", "quant_bits": "float8"}, 8),
        ({"quant_method": "quanto", "quant_bits": "2"}, 2.25),
        ({"quant_method": "hqq", "quant_bits": "3"}, 3.7),
    ],
)
def test_bits_of_a_weight_that_the_trainer_quantises(values, bits):
    assert find_trained_bits(values) == bits


def test_experts_count_where_the_files_are_not_here():
    from orchestrator.checks.model_size import read_model_size

    # Qwen/Qwen3-30B-A3B: 30.5B weights, 29.9B of them no embeddings (its card)
    experts = {
        "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_hidden_layers": 48,
        "rms_norm_eps": 1e-06, "tie_word_embeddings": False, "vocab_size": 151936,
    }  # fmt: skip
    assert read_model_size(experts).parameters == pytest.approx(30.5e9, rel=0.01)


def test_a_machine_can_be_named_by_the_memory_of_its_gpus():
    assert parse_hardware("gpu:2:40g:fp16") == replace(parse_hardware("gpu:2:fp16"), memory_mib=(40 * 1024, 40 * 1024))
