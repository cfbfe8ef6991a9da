"""What of a job decides its memory: rows and tokens of a forward pass, precision, optimizer, sharing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.backends.deepspeed import load_deepspeed, zero_stage
from orchestrator.backends.fsdp import find_fsdp
from orchestrator.backends.parallelism import count_gpus_of_a_process, count_layer_parts, count_sequence_parts
from orchestrator.backends.protocol import Job
from orchestrator.checks.memory import TrainingSize
from orchestrator.checks.model_size import ModelSize
from orchestrator.checks.quantisation import find_trained_bits
from orchestrator.checks.train_values import is_on
from orchestrator.errors import Problem
from orchestrator.machine.packages import find_major

ASSUMED_DOCUMENTS = 8  # of a query, where the rows and not the recipe decide it
_AUTO_DTYPE = 5  # from transformers 5 on, a model is loaded in the width that its config names


def find_training_size(job: Job, values: Mapping[str, str], model: ModelSize) -> TrainingSize:
    """Return what decides the memory of the job's training; `values` are the train command's arguments."""
    half = is_on(values, "bf16") or is_on(values, "fp16")
    size = TrainingSize(
        rows=_whole(values, "per_device_train_batch_size", 8) * _rows_of_a_group(job, values),
        tokens=_find_tokens(values),
        weight_bytes=4,
        compute_bytes=2 if half else 4,
        moment_bytes=_moment_bytes(values.get("optim", "adamw_torch")),
        checkpointing=_is_checkpointing(job, values),
        logits=_find_logits(job, values),
        processes=job.processes(),
    )
    size = _shared(job, values, replace(size, weight_bytes=_stored_bytes(job, values, model)))
    bits = model.stored_bits or find_trained_bits(values)
    size = replace(
        size,
        bits=bits,
        spread=count_gpus_of_a_process(job, values) * count_layer_parts(job, values),
        sequence_parts=count_sequence_parts(job, values),
    )
    if adapter := _count_adapter(job, values, model):
        return replace(size, adapter=adapter, trained_bytes=4, master_bytes=0)
    if bits is not None:  # only an adapter can be trained on quantised weights: what else is asked, nobody can count
        return size
    if (
        job.deepspeed_text or job.recipe.deepspeed
    ) and half:  # DeepSpeed casts the module, and keeps float32 copies of what is trained
        return replace(size, weight_bytes=2, trained_bytes=4 if size.shards < 2 else 2, master_bytes=4)  # noqa: PLR2004
    if size.weight_bytes < 4:  # noqa: PLR2004  (trained in half precision: the optimizer's moments are of that width)
        return replace(size, trained_bytes=2, moment_bytes=size.moment_bytes // 2)
    return size


def assumes_documents(job: Job) -> bool:
    """Tell whether the rows and not the recipe decide how many documents a query has."""
    loss = job.loss
    return loss is not None and loss.facts.texts(loss) is None and "train_group_size" not in job.recipe.train


def _rows_of_a_group(job: Job, values: Mapping[str, str]) -> int:
    """Return how many texts one row of the data puts through the model."""
    if assumes_documents(job):
        return ASSUMED_DOCUMENTS + (1 if job.recipe.task == "embedding" else 0)
    if "train_group_size" in values:
        return _whole(values, "train_group_size", ASSUMED_DOCUMENTS)
    return (job.loss and job.loss.facts.texts(job.loss)) or 1


def _find_tokens(values: Mapping[str, str]) -> int:
    if "query_max_len" in values:
        return _whole(values, "query_max_len", 32) + _whole(values, "passage_max_len", 128)
    return _whole(values, "max_length", 512)


def _find_logits(job: Job, values: Mapping[str, str]) -> Any:
    if job.backend.scores_vocabulary:
        return "scores" if job.model.family == "decoder" else "none"
    return "loss" if job.recipe.task == "sft" and not is_on(values, "use_liger_kernel") else "none"


def _stored_bytes(job: Job, values: Mapping[str, str], model: ModelSize) -> int:
    """Return the width of the weights as the trainer loads them."""
    if loads := job.backend.loads:
        return 4 if "float32" in {loads, values.get(loads)} else 2
    if job.deepspeed_text and (is_on(values, "bf16") or is_on(values, "fp16")):
        return 2
    return model.dtype_bytes if (find_major(job.versions.get("transformers")) or 0) >= _AUTO_DTYPE else 4


def _is_checkpointing(job: Job, values: Mapping[str, str]) -> bool:
    fsdp = find_fsdp(values)
    if fsdp is not None and fsdp.checkpointing:
        return True
    return is_on(values, "gradient_checkpointing", default=job.backend.checkpointing)


def _moment_bytes(optimizer: str) -> int:
    """Return the bytes of an optimizer's state for one trained weight: Adam's two moments in float32 for most."""
    name = optimizer.lower()
    if "8bit" in name:
        return 2
    if name in {"sgd", "adafactor"}:  # no momentum by default; rows and columns only
        return 0
    return 4 if name.startswith(("lion", "adagrad", "rmsprop")) else 8


def _count_adapter(job: Job, values: Mapping[str, str], model: ModelSize) -> int | None:
    """Return how many weights LoRA trains; None where the whole model is trained."""
    if "lora_rank" not in values or values.get("tuner_type") == "full":
        return None
    if not is_on(values, "use_lora", default=True) or job.model.family == "encoder":
        return None
    widths = {
        "q_proj": model.hidden + model.query, "k_proj": model.hidden + model.key, "v_proj": model.hidden + model.key,
        "o_proj": model.query + model.hidden, "gate_proj": model.hidden + model.intermediate,
        "up_proj": model.hidden + model.intermediate, "down_proj": model.intermediate + model.hidden,
    }  # fmt: skip
    names = values.get("target_modules", "").split()
    if "all-linear" in names or not names:
        names = list(widths)
    return _whole(values, "lora_rank", 8) * model.layers * sum(widths.get(name, 2 * model.hidden) for name in names)


def _shared(job: Job, values: Mapping[str, str], size: TrainingSize) -> TrainingSize:
    """Return the size with how several processes share the training."""
    if (fsdp := find_fsdp(values)) is not None:
        return replace(size, shards=fsdp.shards, offload_optimizer=fsdp.offload, offload_weights=fsdp.offload)
    name = job.recipe.deepspeed or ""
    if found := re.fullmatch(r"zero([0-3])(_offload)?", name):
        stage, offload = int(found[1]), bool(found[2])
        return replace(size, shards=stage, offload_optimizer=offload, offload_weights=offload and stage == 3)  # noqa: PLR2004
    config = load_deepspeed(job)
    if isinstance(config, Problem) or not config:
        return size
    zero, stage = config.get("zero_optimization", {}), zero_stage(config)
    return replace(
        size,
        shards=stage if isinstance(stage, int) else 0,
        offload_optimizer=_is_offloaded(zero.get("offload_optimizer")),
        offload_weights=_is_offloaded(zero.get("offload_param")),
    )


def _is_offloaded(value: object) -> bool:
    return isinstance(value, dict) and value.get("device") in {"cpu", "nvme"}


def _whole(values: Mapping[str, str], name: str, default: int) -> int:
    try:
        return max(1, int(json.loads(values[name])))
    except (KeyError, ValueError, TypeError):
        return default
