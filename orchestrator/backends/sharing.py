"""How processes share a training: DeepSpeed's files, FSDP, sequences and layers.

Those that share a sequence, or a layer, read the same rows. Sources: DataLoaderMixin and SequenceParallelSampler of
ms-swift 4.6.0, which read rows by world // (their sequence_parallel_size), or by world // (autotp_size of a DeepSpeed
file); Trainer.get_total_train_batch_size of transformers 5: world // (tp x cp x sp of parallelism_config);
TrainingArguments of transformers 4.57 and 5.19, which take `full_shard auto_wrap` as text, and those after it, which
take true and a config.

DeepSpeed looks its top-level keys up one by one and ignores every other (runtime/config.py, 0.19.8), so that a misspelt
zero_optimization trains without ZeRO. Keys that are near to none are left alone: newer versions have more.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.backends.arguments import load_words
from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem
from orchestrator.machine.json_files import load_json, parse_json
from orchestrator.machine.packages import parse_release

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
_PRESET = "fsdp2"  # of ms-swift: config/fsdp2.json has full shards and activation checkpointing
_MODERN = (5, 19)  # it warns that the text goes in 5.20
# sentence-transformers' models name no layers of their own (base/model.py: _no_split_modules), so FSDP is told.
_LAYERS = {
    "XLMRoberta": "XLMRobertaLayer",
    "Roberta": "RobertaLayer",
    "DistilBert": "TransformerBlock",
    "ModernBert": "ModernBertEncoderLayer",
    "Bert": "BertLayer",
    "Electra": "ElectraLayer",
    "DebertaV2": "DebertaV2Layer",
}
_OBJECTS = ("zero_optimization", "optimizer", "scheduler", "fp16", "bf16", "amp", "activation_checkpointing")
_NEAR = 0.8  # of difflib's ratio: fp16 is not a misspelt bf16


def count_data_ranks(job: Job, values: Mapping[str, Any]) -> int:
    """Return how many groups of processes read rows of their own; `values` are the train command's arguments."""
    return max(1, job.world_size() // math.prod(size for _, size in _find_sharing(job, values)))


def count_step_rows(job: Job, values: Mapping[str, Any]) -> int:
    """Return how many rows one forward pass takes on all processes together."""
    rows = _whole(values.get("per_gpu_train_batch_size")) or _whole(values["per_device_train_batch_size"]) or 1
    if not job.backend.own_loader and _read_object(values.get("accelerator_config")).get("split_batches") is True:
        return rows  # accelerate splits one batch among the processes
    return rows * count_data_ranks(job, values)


def count_parts(job: Job, values: Mapping[str, Any], whole: str) -> int:
    """Return into how many parts the `sequences`, or the `layers`, are cut, each on a process of its own."""
    parts = [size for (_, what), size in _find_sharing(job, values) if what == whole]
    return min(job.world_size(), math.prod(parts))


def count_gpus_of_a_process(job: Job, values: Mapping[str, Any]) -> int:
    """Return over how many GPUs a tool lays the layers of one process's model (device_map); 1 where it does not.

    ms-swift's rule (get_default_device_map, is_mp): the GPUs that are seen, divided by the processes, where nothing
    else shares the weights and no device_map names one place.
    """
    if not job.backend.spreads_layers or job.hardware.kind != "cuda" or job.smoke:
        return 1
    named = str(values.get("device_map") or "auto")
    if job.recipe.deepspeed or values.get("fsdp") or named not in _SPREADING:
        return 1
    return max(1, job.visible_gpus() // job.processes())


def check_parallelism(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield that the processes cannot be put into groups of the asked size: the trainer fails at its start."""
    if job.smoke:
        return
    for (name, what), size in _find_sharing(job, train):
        there = job.world_size()
        if size > 1 and there % size:
            key = ("deepspeed",) if name == "autotp_size" else ("train", _CONFIG if name in _SHARING else name)
            fitting = ", ".join(str(one) for one in range(1, there + 1) if there % one == 0)
            message = f"{name} {size} shares {what} among so many processes, and {there} are no multiple of it"
            yield key, Problem(message, f"one of {fitting}; or launch.nproc_per_node: {size}, and as many GPUs")


def _find_sharing(job: Job, values: Mapping[str, Any]) -> list[tuple[tuple[str, str], int]]:
    """Return ((argument, what is shared), among how many processes), of what the backend's loader of rows knows."""
    if job.smoke:
        return []
    if (size := _whole(values.get(_SEQUENCE))) > 1:
        return [((_SEQUENCE, "sequences"), size)]
    found: list[tuple[tuple[str, str], int]] = []
    config = load_deepspeed(job) if job.deepspeed_text else {}
    told = _read_object(config.get("tensor_parallel")) if isinstance(config, dict) else {}
    if (size := _whole(values.get(_TENSOR))) > 1:  # ms-swift writes it into the file
        found.append(((_TENSOR, "layers"), size))
    elif (size := _whole(told.get("autotp_size"))) > 1:
        found.append((("autotp_size", "layers"), size))
    if not job.backend.own_loader:
        asked = _read_object(values.get(_CONFIG))
        found += [((name, what), size) for name, what in _SHARING.items() if (size := _whole(asked.get(name))) > 1]
    return found


def _whole(value: object) -> int:
    """Return a whole number that may be text; 0 where it is none."""
    try:
        return int(str(value))
    except ValueError:
        return 0


def _read_object(value: object) -> dict[str, Any]:
    """Return an object that is given as it is, as JSON or as a file of it; empty where it is none."""
    if isinstance(value, str):
        try:
            value = parse_json(value) if value.lstrip().startswith("{") else load_json(Path(value))
        except (OSError, ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def load_deepspeed(job: Job) -> dict[str, Any] | Problem:
    """Return the job's configuration, empty without one, or what is wrong with it."""
    if not job.deepspeed_text:
        return {}
    try:
        config = json.loads(job.deepspeed_text)
    except ValueError as error:
        return Problem(f"not a DeepSpeed configuration: {error}", "name one that Orch brings along, or a JSON file")
    if not isinstance(config, dict) or not isinstance(config.get("zero_optimization", {}), dict):
        return Problem("not a DeepSpeed configuration: no object", "name one that Orch brings along, or a JSON file")
    return config


def zero_stage(config: dict[str, Any]) -> Any:
    """Return the ZeRO stage of a configuration; 0 where it names none."""
    return config.get("zero_optimization", {}).get("stage", 0)


def deepspeed_environment(job: Job) -> dict[str, str]:
    """Return what DeepSpeed needs where there is no GPU.

    On a CPU DeepSpeed compiles its communication once (deepspeed/comm/torch.py: build_shm_op). In the default folder a
    killed build of any tool leaves a lock on which every later run hangs; in this one Orch clears it.
    """
    if job.hardware.kind != "cpu" or not job.deepspeed_text:
        return {}
    # what a compiled extension depends on; of the interpreter it includes headers
    parts = (job.versions.get("torch", ""), job.versions.get("deepspeed", ""), job.backend_python)
    build = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    return {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": f"{job.cache_dir}/torch_extensions/{build}"}


class Fsdp(msgspec.Struct, frozen=True):
    """How FSDP shares a training: `shards` in the words of ZeRO's stages, what lies in the machine's memory instead."""

    shards: int
    offload: bool
    checkpointing: bool


def find_fsdp(values: Mapping[str, Any]) -> Fsdp | None:
    """Return what the train command's arguments say of FSDP, None where they say nothing of it.

    `fsdp` is a switch, `fsdp2` or an object with both keys (ms-swift: _init_fsdp), or the words of older versions;
    `fsdp_config` stands beside it.
    """
    given = str(values.get("fsdp") or "")
    if given.lower() in {"", "false", "none", "[]"}:
        return None
    told = _read_object(given)
    words = str(told.get("fsdp", "" if told else given))
    config = told.get("fsdp_config") or _read_object(values.get("fsdp_config"))
    config = config if isinstance(config, dict) else {}
    keeps_weights = "shard_grad_op" in words or str(config.get("reshard_after_forward")).lower() == "false"
    return Fsdp(
        shards=0 if "no_shard" in words else 2 if keeps_weights else 3,
        offload="offload" in words or config.get("cpu_offload") is True or config.get("offload_params") is True,
        checkpointing=given == _PRESET or config.get("activation_checkpointing") is True,
    )


def gathers_weights(fsdp: object) -> bool:
    """Tell whether ms-swift's `fsdp` has the whole weights saved: not by its preset, nor where nothing is said."""
    config = _read_object(fsdp).get("fsdp_config")
    return isinstance(config, dict) and config.get("state_dict_type") == "FULL_STATE_DICT"


def build_swift_fsdp() -> str:
    """Return ms-swift's preset fsdp2 (swift/config/fsdp2.json, 4.6.0) as JSON, but for whole weights in checkpoints."""
    config = {
        "fsdp_version": 2, "reshard_after_forward": True, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "cpu_ram_efficient_loading": True, "state_dict_type": "FULL_STATE_DICT", "activation_checkpointing": True,
    }  # fmt: skip
    return json.dumps({"fsdp": "full_shard auto_wrap", "fsdp_config": config})


def build_fsdp_arguments(job: Job) -> dict[str, Any]:
    """Return `fsdp` and `fsdp_config`: full shards, layer by layer, whole weights in every checkpoint."""
    config: dict[str, Any] = {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}
    named = (layer for one in job.model.architectures for start, layer in _LAYERS.items() if one.startswith(start))
    if layer := next(named, None):  # of a model that is not here yet the worker reads it
        config["transformer_layer_cls_to_wrap"] = [layer]
    if parse_release(job.versions.get("transformers") or "5.19") >= _MODERN:
        return {"fsdp": True, "fsdp_config": {"reshard_after_forward": True, **config}}
    return {"fsdp": "full_shard auto_wrap", "fsdp_config": config}


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
    yield from _find_misspelt(config, load_words("deepspeed")["top_level"], "")
    for name in _OBJECTS:
        if not isinstance(config.get(name, {}), dict):
            yield Problem(f"{name} is no object", f'write "{name}": {{…}}, or leave it out')
    zero = config.get("zero_optimization")
    if isinstance(zero, dict):
        yield from _find_misspelt(zero, load_words("deepspeed")["zero_optimization"], "zero_optimization.")
        stage = zero.get("stage", 0)
        if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
            yield Problem(f"zero_optimization.stage is {stage!r}", "write 0, 1, 2 or 3")


def _find_misspelt(part: dict[str, Any], known: list[str], prefix: str) -> Iterator[Problem]:
    for name in sorted(part.keys() - set(known)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)
        if near:
            message = f"DeepSpeed knows no key {prefix}{name}, and would ignore it or stop"
            yield Problem(message, f"did you mean {near[0]!r}?")
