"""What is wrong with a DeepSpeed file that DeepSpeed itself passes over in silence, or says minutes into a run.

DeepSpeed looks its top-level keys up one by one and ignores every other (runtime/config.py, 0.19.8), so that a misspelt
zero_optimization trains without ZeRO. Keys that are near to none of these are left alone: newer versions have more.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

from orchestrator.errors import Problem

TOP_LEVEL = (
    "activation_checkpointing", "aio", "amp", "autotuning", "bf16", "bfloat16", "checkpoint", "comms_logger",
    "communication_data_type", "compile", "compression_training", "csv_monitor", "curriculum_learning",
    "data_efficiency", "data_types", "dataloader_drop_last", "disable_allgather", "disable_python_gc", "dump_state",
    "eigenvalue", "elasticity", "expert_parallel", "flops_profiler", "fp16", "gradient_accumulation_steps",
    "gradient_allreduce_op", "gradient_clipping", "gradient_predivide_factor", "hybrid_engine", "log_level",
    "memory_breakdown", "nebula", "optimizer", "pipeline", "prescale_gradients", "progressive_layer_drop", "scheduler",
    "seq_parallel_communication_data_type", "sparse_gradients", "steps_per_print", "tensor_parallel", "tensorboard",
    "timers", "torch_autocast", "train_batch_size", "train_micro_batch_size_per_gpu",
    "use_data_before_expert_parallelism", "vocabulary_size", "wall_clock_breakdown", "wandb",
    "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "zero_optimization",
)  # fmt: skip
ZERO = (
    "allgather_bucket_size", "allgather_partitions", "contiguous_gradients", "cpu_offload", "cpu_offload_param",
    "cpu_offload_use_pin_memory", "elastic_checkpoint", "ignore_unused_parameters", "legacy_stage1",
    "load_from_fp32_weights", "log_trace_cache_warnings", "memory_efficient_linear", "offload_optimizer",
    "offload_param", "overlap_comm", "override_module_apply", "parameter_alignment", "pipeline_loading_checkpoint",
    "reduce_bucket_size", "reduce_scatter", "round_robin_gradients", "stage", "stage3_allgather_sequential",
    "stage3_gather_16bit_weights_on_model_save", "stage3_gather_fp16_weights_on_model_save",
    "stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_model_persistence_threshold",
    "stage3_module_granularity_threshold", "stage3_param_persistence_threshold", "stage3_prefetch_bucket_size",
    "stage3_use_all_reduce_for_fetch_params", "sub_group_size", "use_multi_rank_bucket_allreduce",
    "zero_hpz_partition_size", "zero_quantized_gradients", "zero_quantized_nontrainable_weights",
    "zero_quantized_weights",
    # the same by the names of the fields, which DeepSpeed takes too, and what 0.17 and later have
    "allgather_sequential", "compute_grad_norm", "enable_sanity_checks", "gather_16bit_weights_on_model_save",
    "leaf_module", "max_live_parameters", "max_reuse_distance", "model_persistence_threshold",
    "module_granularity_threshold", "param_persistence_threshold", "prefetch_bucket_size",
    "save_muon_momentum_buffer_in_memory", "use_all_reduce_for_fetch_params", "zenflow",
)  # fmt: skip
_OBJECTS = ("zero_optimization", "optimizer", "scheduler", "fp16", "bf16", "amp", "activation_checkpointing")
_NEAR = 0.8  # of difflib's ratio: fp16 is not a misspelt bf16


def find_deepspeed_problems(text: str) -> list[Problem]:
    """Return what is wrong with the text of a DeepSpeed configuration."""
    repeated: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        repeated.extend(name for name in dict.fromkeys(names) if names.count(name) > 1)
        return dict(pairs)

    hint = "correct it, or name a configuration that Orch brings along, such as zero1"
    try:
        config = json.loads(text, object_pairs_hook=build)
    except (ValueError, RecursionError) as error:
        return [Problem(f"not a DeepSpeed configuration: {error}", hint)]
    if not isinstance(config, dict):
        return [Problem("not a DeepSpeed configuration: no JSON object", hint)]
    found = [Problem(f"the key {name!r} stands twice, which DeepSpeed refuses", "keep one") for name in repeated]
    return [*found, *_find_wrong_parts(config)]


def _find_wrong_parts(config: dict[str, Any]) -> Iterator[Problem]:
    yield from _find_misspelt(config, TOP_LEVEL, "")
    for name in _OBJECTS:
        if not isinstance(config.get(name, {}), dict):
            yield Problem(f"{name} is no object", f'write "{name}": {{…}}, or leave it out')
    zero = config.get("zero_optimization")
    if isinstance(zero, dict):
        yield from _find_misspelt(zero, ZERO, "zero_optimization.")
        stage = zero.get("stage", 0)
        if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
            yield Problem(f"zero_optimization.stage is {stage!r}", "write 0, 1, 2 or 3")


def _find_misspelt(part: dict[str, Any], known: tuple[str, ...], prefix: str) -> Iterator[Problem]:
    for name in sorted(part.keys() - set(known)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)
        if near:
            message = f"DeepSpeed knows no key {prefix}{name}, and would ignore it or stop"
            yield Problem(message, f"did you mean {near[0]!r}?")
