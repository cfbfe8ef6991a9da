"""How many processes train on different rows: those that share a sequence, or a layer, read the same ones.

Sources: DataLoaderMixin and SequenceParallelSampler of ms-swift 4.6.0, which read rows by world // (their
sequence_parallel_size), or by world // (autotp_size of a DeepSpeed file); Trainer.get_total_train_batch_size of
transformers 5: world // (tp x cp x sp of parallelism_config).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.deepspeed import load_deepspeed
from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem

# Of no use to a tiny model on one CPU process, where some end the training: for the smoke runs of every backend.
SHARING_ARGUMENTS = frozenset({
    "sequence_parallel_size", "deepspeed_autotp_size", "parallelism_config", "accelerator_config", "fsdp",
    "fsdp_config", "device_map", "max_memory",
})  # fmt: skip
_SEQUENCE = "sequence_parallel_size"
_TENSOR = "deepspeed_autotp_size"
_CONFIG = "parallelism_config"
_SPREADING = {"auto", "balanced", "balanced_low_0", "sequential"}
_SHARING = {"tp_size": "layers", "cp_size": "sequences", "sp_size": "sequences"}  # of accelerate's ParallelismConfig


def count_data_ranks(job: Job, values: Mapping[str, Any]) -> int:
    """Return how many groups of processes read rows of their own; `values` are the train command's arguments."""
    return max(1, job.processes() // math.prod(size for _, size in _find_sharing(job, values)))


def count_step_rows(job: Job, values: Mapping[str, Any]) -> int:
    """Return how many rows one forward pass takes on all processes together."""
    rows = _whole(values.get("per_gpu_train_batch_size")) or _whole(values["per_device_train_batch_size"]) or 1
    if job.recipe.backend != "swift" and _object(values.get("accelerator_config")).get("split_batches") is True:
        return rows  # accelerate splits one batch among the processes; ms-swift's own loader does not ask it
    return rows * count_data_ranks(job, values)


def count_sequence_parts(job: Job, values: Mapping[str, Any]) -> int:
    """Return into how many parts a sequence is cut, each on a process of its own."""
    parts = [size for (_, what), size in _find_sharing(job, values) if what == "sequences"]
    return min(job.processes(), math.prod(parts))


def count_layer_parts(job: Job, values: Mapping[str, Any]) -> int:
    """Return into how many parts a layer is cut, each on a process of its own."""
    parts = [size for (_, what), size in _find_sharing(job, values) if what == "layers"]
    return min(job.processes(), math.prod(parts))


def count_gpus_of_a_process(job: Job, values: Mapping[str, Any]) -> int:
    """Return over how many GPUs ms-swift lays the layers of one process's model (device_map); 1 for other trainers.

    Its rule (get_default_device_map, is_mp): the GPUs that are seen, divided by the processes, where nothing else
    shares the weights and no device_map names one place.
    """
    if job.recipe.backend != "swift" or job.hardware.kind != "cuda" or job.smoke:
        return 1
    named = str(values.get("device_map") or "auto")
    if job.recipe.deepspeed or values.get("fsdp") or named not in _SPREADING:
        return 1
    return max(1, count_visible_gpus(job) // job.processes())


def count_visible_gpus(job: Job) -> int:
    """Return how many GPUs a process of the job sees."""
    chosen = job.chosen_gpus()
    return job.hardware.count if chosen is None else min(len(chosen), job.hardware.count)


def check_parallelism(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield that the processes cannot be put into groups of the asked size: the trainer fails at its start."""
    if job.smoke:
        return
    for (name, what), size in _find_sharing(job, train):
        there = job.processes()
        if size > 1 and there % size:
            key = ("deepspeed",) if name == "autotp_size" else ("train", _CONFIG if name in _SHARING else name)
            fitting = ", ".join(str(one) for one in range(1, there + 1) if there % one == 0)
            message = f"{name} {size} shares {what} among so many processes, and {there} are no multiple of it"
            yield key, Problem(message, f"one of {fitting}; or launch.nproc_per_node: {size}, and as many GPUs")


def _find_sharing(job: Job, values: Mapping[str, Any]) -> list[tuple[tuple[str, str], int]]:
    """Return ((argument, what is shared), among how many processes), of what the backend's loader of rows knows."""
    if job.smoke:
        return []
    if job.recipe.backend == "swift" and (size := _whole(values.get(_SEQUENCE))) > 1:
        return [((_SEQUENCE, "sequences"), size)]
    found: list[tuple[tuple[str, str], int]] = []
    config = load_deepspeed(job) if job.deepspeed_text else {}
    told = _object(config.get("tensor_parallel")) if isinstance(config, dict) else {}
    if (size := _whole(values.get(_TENSOR))) > 1:  # ms-swift writes it into the file
        found.append(((_TENSOR, "layers"), size))
    elif (size := _whole(told.get("autotp_size"))) > 1:
        found.append((("autotp_size", "layers"), size))
    if job.recipe.backend != "swift":
        asked = _object(values.get(_CONFIG))
        found += [((name, what), size) for name, what in _SHARING.items() if (size := _whole(asked.get(name))) > 1]
    return found


def _whole(value: object) -> int:
    """Return a whole number that may be text; 0 where it is none."""
    try:
        return int(str(value))
    except ValueError:
        return 0


def _object(value: object) -> dict[str, Any]:
    """Return an object that may be written as JSON; empty where it is none, or lies in a file."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}
