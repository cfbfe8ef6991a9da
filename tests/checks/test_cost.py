"""The cost of a run by formula: counts that can be done by hand, the table of GPUs, and ranges of hours."""

from __future__ import annotations

import json

import pytest

from orchestrator.checks import cost
from orchestrator.checks.cost import Cost, Efficiency, Passes, Work, count_forward, count_steps, count_training
from orchestrator.checks.model_size import ModelSize, read_model_size
from orchestrator.errors import PreflightError

# 1,000 weights besides the embeddings; attention's products take 4 x 2 layers x 8 a token and a position
MODEL = ModelSize(2, 8, 16, 8, 4, 100, gated=True, parameters=1800, embedded=800)


def test_a_forward_pass_is_two_for_each_weight_and_four_for_each_width_of_attention():
    assert count_forward(MODEL, 10, 5) == 10 * (2 * 1000 + 4 * 2 * 8 * 5)
    assert count_forward(MODEL, 10, 5, logits=True) == 10 * (2 * 1000 + 4 * 2 * 8 * 5 + 2 * 8 * 100)


def test_a_full_training_is_six_for_each_weight_and_eight_with_checkpointing():
    assert count_training(MODEL, Passes(), 1, 0) == 6 * 1000
    assert count_training(MODEL, Passes(more_forward=1), 1, 0) == 8 * 1000
    assert count_training(MODEL, Passes(), 10, 5) == 3 * count_forward(MODEL, 10, 5)
    assert count_training(MODEL, Passes(1, logits=True), 10, 5) == 4 * count_forward(MODEL, 10, 5, logits=True)


def test_frozen_weights_are_four_and_an_adapter_s_six():
    assert count_training(MODEL, Passes(adapter=50), 1, 0) == 4 * 1000 + 6 * 50
    assert count_training(MODEL, Passes(1, adapter=50), 1, 0) == 6 * 1000 + 8 * 50
    attention = 4 * 2 * 8 * 5
    assert count_training(MODEL, Passes(adapter=50), 10, 5) == 10 * (4 * 1000 + 6 * 50 + 3 * attention)


def test_of_experts_those_that_are_chosen_count():
    config = {  # Qwen/Qwen3-30B-A3B, whose card says 30.5B in total and 3.3B activated
        "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128, "vocab_size": 151936, "intermediate_size": 6144, "moe_intermediate_size": 768,
        "num_experts": 128, "num_experts_per_tok": 8, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    }  # fmt: skip
    size = read_model_size(config)
    assert size.parameters == pytest.approx(30.5e9, rel=0.01)
    assert size.active == pytest.approx(3.3e9, rel=0.02)
    assert MODEL.active == 1800


@pytest.mark.parametrize(
    ("rows", "more", "steps"),
    [
        (10, {"drops": True}, 6),  # two whole batches of four, three epochs
        (10, {"drops": False}, 9),
        (10, {"drops": False, "accumulation": 2}, 6),
        (10, {"drops": False, "epochs": 0.5}, 2),
        (3, {"drops": True}, 3),
        (10, {"drops": False, "max_steps": 5}, 5),
    ],
)
def test_steps_are_counted_as_the_trainer_does(rows, more, steps):
    assert count_steps(rows, **{"step_rows": 4, "accumulation": 1, "epochs": 3, "max_steps": -1} | more) == steps


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA A100-PCIE-40GB", "a100-40g"), ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"), ("NVIDIA GeForce RTX 4090", "4090"), ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-32GB", "v100"), ("NVIDIA L40S", "l40s"), ("NVIDIA L4", "l4"), ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA A10G", "a10g"), ("NVIDIA H200", "h200"), ("H100", "h100"), ("NVIDIA L20", "l20"),
        ("NVIDIA H100 NVL", "h100-nvl"), ("NVIDIA GeForce RTX 4090 D", "4090-d"), ("Tesla V100-PCIE-32GB", "v100-pcie"),
        ("NVIDIA GeForce RTX 3090 Ti", "3090-ti"), ("NVIDIA GeForce RTX 3090", "3090"),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_the_driver_s_name(said, name):
    assert cost.find_gpu(said).name == name


def test_every_row_of_the_table_is_found_by_its_own_name_and_is_faster_in_half_precision():
    assert len(cost.load_gpus()) > 20
    for gpu in cost.load_gpus():
        assert cost.find_gpu(gpu.name) is gpu
        assert gpu.half > gpu.single > 0


def test_an_unknown_gpu_is_refused_with_the_nearest_names():
    with pytest.raises(PreflightError, match="no peak rate is known of a GPU 'a110'") as refused:
        cost.require_gpu("a110")
    assert "a10" in refused.value.problems[0].hint
    with pytest.raises(PreflightError) as refused:
        cost.require_gpu("xyzzy!")
    assert "one of b200, h200" in refused.value.problems[0].hint
    assert cost.find_gpu("NVIDIA GeForce GTX 1080") is None


def test_a_gpu_without_bfloat16_is_planned_for_in_fp16():
    hardware = cost.require_gpu("t4").describe(2)
    assert (hardware.count, hardware.precision, hardware.memory_mib) == (2, "fp16", (16384, 16384))


def test_hours_are_a_range_by_the_peak_of_the_precision_and_the_number_of_gpus():
    gpu, efficiency = cost.require_gpu("a100"), Efficiency(0.2, 0.4, "said")
    hours = Cost((), "", gpu, efficiency).hours
    ideal = 1e18 / 312e12 / 3600
    assert hours(Work("train", 1, 1, 1e18)) == pytest.approx((ideal / 0.4, ideal / 0.2))
    assert hours(Work("train", 1, 1, 1e18, gpus=4)) == pytest.approx((ideal / 1.6, ideal / 0.8))
    assert hours(Work("train", 1, 1, 1e18, half=False)) == pytest.approx((ideal * 16 / 0.4, ideal * 16 / 0.2))
    assert hours(Work("train", 1, 1, None)) is None
    assert Cost((), "", gpu, None).hours(Work("train", 1, 1, 1e18)) is None


def test_without_a_peak_the_rate_that_was_reached_is_the_measure():
    reached = cost.expect_efficiency([2e10, 1e10])
    assert (reached.low, reached.high) == (0.8e10, 2.5e10)
    assert "2 earlier runs" in reached.source
    assert Cost((), "", None, reached).hours(Work("train", 1, 1, 3.6e14)) == pytest.approx((4, 12.5))
    assert cost.expect_efficiency([]) is None


def test_the_words_name_stages_their_sum_and_what_is_left_out():
    works = (Work("03-train", 960, 45984, 3.6e18, steps=20), Work("05-evaluate", 275, 13679, 3.6e17))
    said = Cost(works, "by all rows", cost.require_gpu("h100"), Efficiency(0.25, 0.5, "said"), ("start-up",)).lines()
    assert "03-train     20 steps, 960 sequences, 45,984 tokens, 3.6e+18 FLOPs, 2 to 4 h" in said[1]
    assert "2.2 to 4.4 h on H100, 25% to 50% of the peak (said)" in said[3]
    assert said[-1] == "  not counted: start-up"


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        ((1e-5, 2e-4), "under 1 s"),
        ((0.001, 0.002), "3.6 to 7.2 s"),
        ((0.02, 0.5), "1.2 to 30 min"),
        ((0.5, 2), "0.5 to 2 h"),
    ],
)
def test_a_range_of_hours_is_said_in_the_unit_of_its_upper_end(hours, said):
    assert cost.show_hours(hours) == said


def test_the_share_of_a_peak_is_known_where_the_peak_is():
    gpu = cost.require_gpu("a100")
    assert cost.measure_share(312e13, 10, gpu, half=True, gpus=2) == {"flops_per_s": 156e12, "share_of_peak": 0.5}
    assert cost.measure_share(1e12, 10, None, half=False) == {"flops_per_s": 1e11}


def test_all_of_it_is_json():
    data = Cost(
        (Work("03-train", 1, 2, 3.0),), "by all rows", cost.require_gpu("l4"), Efficiency(0.1, 0.2, "s")
    ).to_data()
    assert json.loads(json.dumps(data))["stages"][0]["stage"] == "03-train"
