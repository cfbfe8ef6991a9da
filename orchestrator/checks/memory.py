"""How much memory a training takes on a GPU or a CPU, term by term: an estimate by formula, for one process.

The formula, in bytes. P are the model's weights, T those that are trained (all, or the adapter's), n the processes.

- weights: P x their width; with autocast from float32, 2 more for each trained one: the copies in half precision that
  autocast keeps from forward to backward (torch/amp: weight cache). Quantised, those of the layers take their bits
  (model_size.py), embeddings and output keep their width, and one matrix at a time is whole again.
- gradients: T x their width. Optimizer: T x 8 for Adam's two moments in float32, and 4 for the master copy that
  DeepSpeed keeps of weights in half precision (ZeRO: Memory Optimizations Toward Training Trillion Parameter Models,
  arXiv 1910.02054, section 3.1). ZeRO 1 divides the optimizer by n, ZeRO 2 the gradients too, ZeRO 3 and FSDP the
  weights too; what is offloaded takes nothing here.
- activations: rows x tokens x layers x bytes that a layer keeps of a token for its backward pass. For an encoder that
  is the count of Reducing Activation Recomputation in Large Transformer Models (arXiv 2205.05198, section 4.1) without
  the attention's scores, which fused attention does not keep, and with LayerNorm in float32: 26h + 6i. For an LLM with
  RMSNorm, which transformers computes in float32, and a gated MLP: 26h + 8i + 10(q + k). Both were held against what
  torch.autograd.graph.saved_tensors_hooks counts on small models under autocast to bfloat16. With gradient
  checkpointing a layer keeps its input, 2h, and one layer at a time is computed again.
- logits: rows x positions x vocabulary x bytes. FlagEmbedding's LLM reranker computes them at every position, to read
  one number of each row: 2, and 2 for their gradient; with the speedup last_logits at one position, which is nothing. A
  causal language model's loss takes them to float32 and keeps the softmax: 2 + 4 + 4. ms-swift's embedding models and
  rerankers, and models with a head, have none.
- sharing: sequence parallelism divides activations and logits by the processes that share a sequence. A model that is
  spread over several GPUs, by layers (ms-swift's device_map) or within them (tensor parallelism), divides all but the
  logits, which the last GPU has alone.
- reserve: 1 GiB for the CUDA context, the kernels' workspaces and what the allocator cannot join; on a CPU, for the
  libraries themselves.

In float32 what is kept in half precision counts twice. What it leaves out: the attention's scores where attention is
not fused, texts shorter than the limit (the longest batch decides), the evaluation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec.structs import asdict, replace

from orchestrator.backends import sharing
from orchestrator.backends.protocol import Job
from orchestrator.checks.model_size import ModelSize, find_trained_bits
from orchestrator.checks.settings import is_on
from orchestrator.errors import Problem
from orchestrator.machine.packages import find_major

Logits = Literal["none", "scores", "loss"]

GIB = 1024**3
_RESERVE = 1 * GIB
_ADAPTER_BYTES = 4  # peft keeps an adapter in float32
_SHARDS_OPTIMIZER, _SHARDS_GRADIENTS, _SHARDS_WEIGHTS = 1, 2, 3
ASSUMED_DOCUMENTS = 8  # of a query, where the rows and not the recipe decide it
_AUTO_DTYPE = 5  # from transformers 5 on, a model is loaded in the width that its config names


class TrainingSize(msgspec.Struct, frozen=True):
    """What decides a training's memory on one GPU: widths in bytes, rows and tokens of one forward pass."""

    rows: int
    tokens: int
    weight_bytes: int
    compute_bytes: int  # 2 in half precision, 4 in float32
    trained_bytes: int = 4  # of a trained weight as the optimizer sees it
    adapter: int | None = None  # trained weights of LoRA; None: all are trained
    master_bytes: int = 0  # of the copy that DeepSpeed keeps of a trained weight
    moment_bytes: int = 8  # of the optimizer's own state, for one trained weight
    checkpointing: bool = False
    logits: Logits = "none"
    processes: int = 1
    shards: int = 0  # ZeRO's stage; FSDP is 3
    offload_optimizer: bool = False
    offload_weights: bool = False
    bits: float | None = None  # of a weight of the layers that is quantised
    spread: int = 1  # GPUs over which the model of one process lies
    sequence_parts: int = 1  # processes that share each sequence


class MemoryEstimate(msgspec.Struct, frozen=True):
    """Bytes of one process, by what takes them."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    reserve: int = _RESERVE

    @property
    def total(self) -> int:
        """All terms together."""
        return sum(asdict(self).values())

    def describe(self, what: str = "GPU memory") -> str:
        """Return the estimate in words, the largest term first; `what` names the memory that it takes."""
        terms = sorted(((size, name) for name, size in asdict(self).items()), reverse=True)
        parts = [f"{size / GIB:.1f} {name}" for size, name in terms if size >= GIB / 20]
        return f"about {show_gib(self.total)} of {what} with the longest texts: {', '.join(parts)}"

    def to_data(self) -> dict[str, int]:
        """Return the terms and their sum in bytes, for programs."""
        return {**asdict(self), "total": self.total}


def show_gib(size: float) -> str:
    """Return a size in GiB, with a decimal where it matters."""
    gib = size / GIB
    return f"{gib:.0f} GiB" if gib >= 10 else f"{gib:.1f} GiB"  # noqa: PLR2004


def estimate_memory(model: ModelSize, training: TrainingSize) -> MemoryEstimate:
    """Return the estimate for one GPU; the module's docstring has the formula and its sources."""
    trained = model.parameters if training.adapter is None else training.adapter
    weights = _weigh(model, training)
    optimizer = trained * (training.master_bytes + training.moment_bytes)
    of_position = {"none": 0, "scores": 2 * training.compute_bytes, "loss": training.compute_bytes + 8}[training.logits]
    return MemoryEstimate(
        weights=0 if training.offload_weights else _share(weights, training, _SHARDS_WEIGHTS),
        gradients=_share(trained * training.trained_bytes, training, _SHARDS_GRADIENTS),
        optimizer=0 if training.offload_optimizer else _share(optimizer, training, _SHARDS_OPTIMIZER),
        activations=_estimate_activations(model, training),
        logits=-(-training.rows * training.tokens // training.sequence_parts) * model.vocabulary * of_position,
    )


def _weigh(model: ModelSize, training: TrainingSize) -> int:
    """Return the bytes of all weights, the adapter's too, before anything shares them."""
    adapter = (training.adapter or 0) * _ADAPTER_BYTES
    if training.bits is None:
        width = training.weight_bytes
        if training.weight_bytes > training.compute_bytes:
            width += training.compute_bytes
        return model.parameters * width + adapter
    whole_again = model.hidden * max(model.intermediate, model.query) * training.compute_bytes
    if model.stored_bytes is not None:
        return model.stored_bytes + whole_again + adapter
    layers = int((model.parameters - model.embedded) * training.bits / 8)
    return layers + model.embedded * training.weight_bytes + whole_again + adapter


def _share(size: int, training: TrainingSize, stage: int) -> int:
    size //= training.spread
    return size // training.processes if training.shards >= stage else size


def _estimate_activations(model: ModelSize, training: TrainingSize) -> int:
    positions = -(-training.rows * training.tokens // (training.sequence_parts * training.spread))
    twice = training.compute_bytes // 2
    if model.gated:  # 16 of 26: the two norms, in float32 anyway
        layer = (16 + 10 * twice) * model.hidden + twice * (8 * model.intermediate + 10 * (model.query + model.key))
    else:
        layer = (8 + 18 * twice) * model.hidden + twice * 6 * model.intermediate
    if training.checkpointing:
        return positions * (layer + training.compute_bytes * model.hidden * model.layers)
    return positions * layer * model.layers


def find_training_size(job: Job, values: Mapping[str, str], model: ModelSize) -> TrainingSize:
    """Return what decides the memory of the job's training; `values` are the train command's arguments."""
    half, fsdp = is_on(values, "bf16") or is_on(values, "fp16"), sharing.find_fsdp(values)
    checkpointing = is_on(values, "gradient_checkpointing", default=job.backend.checkpointing)
    # the texts that pass the model at once: a batch's, or the part of them whose activations are kept
    rows = _whole(values, "per_device_train_batch_size", 8) * count_texts_of_a_row(job, values)
    part = job.loss.facts.at_once(job.loss) if job.loss else None
    size = TrainingSize(
        rows=min(rows, part) if part else rows,
        tokens=find_tokens(job, values),
        weight_bytes=_stored_bytes(job, values, model),
        compute_bytes=2 if half else 4,
        moment_bytes=_moment_bytes(values.get("optim", "adamw_torch")),
        checkpointing=checkpointing or (fsdp is not None and fsdp.checkpointing),
        logits=_find_logits(job, values),
        processes=job.world_size(),
        bits=model.stored_bits or find_trained_bits(values),
        spread=sharing.count_gpus_of_a_process(job, values) * sharing.count_parts(job, values, "layers"),
        sequence_parts=sharing.count_parts(job, values, "sequences"),
        **_find_sharing(job, values),
    )
    if adapter := _count_adapter(job, values, model):
        return replace(size, adapter=adapter, trained_bytes=4, master_bytes=0)
    if (
        size.bits is not None
    ):  # only an adapter can be trained on quantised weights: nobody can count what else is asked
        return size
    if half and (job.deepspeed_text or job.recipe.deepspeed):  # it casts the module, and keeps float32 copies
        return replace(size, weight_bytes=2, trained_bytes=4 if size.shards < 2 else 2, master_bytes=4)  # noqa: PLR2004
    if size.weight_bytes < 4:  # noqa: PLR2004  (trained in half precision: the optimizer's moments are of that width)
        return replace(size, trained_bytes=2, moment_bytes=size.moment_bytes // 2)
    return size


def assumes_documents(job: Job) -> bool:
    """Tell whether the rows and not the recipe decide how many documents a query has."""
    loss = job.loss
    return loss is not None and loss.facts.texts(loss) is None and "train_group_size" not in job.recipe.train


def count_texts_of_a_row(job: Job, values: Mapping[str, str]) -> int:
    """Return how many texts one row of the data puts through the model."""
    if assumes_documents(job) or "train_group_size" in values:
        documents = _whole({} if assumes_documents(job) else values, "train_group_size", ASSUMED_DOCUMENTS)
        return documents + (job.recipe.task == "embedding")
    return (job.loss and job.loss.facts.texts(job.loss)) or 1


def find_tokens(job: Job, values: Mapping[str, str]) -> int:
    """Return the tokens of the longest sequence that the training takes."""
    if "query_max_len" in values:
        lengths = (_whole(values, "query_max_len", 32), _whole(values, "passage_max_len", 128))
        return sum(lengths) if job.backend.lengths_add_up else max(lengths)
    return _whole(values, "max_length", 512)


def _find_logits(job: Job, values: Mapping[str, str]) -> Any:
    if job.backend.scores_vocabulary:
        return "scores" if job.model.family == "decoder" and "last_logits" not in job.speedups else "none"
    return "loss" if job.recipe.task == "sft" and not is_on(values, "use_liger_kernel") else "none"


def _stored_bytes(job: Job, values: Mapping[str, str], model: ModelSize) -> int:
    """Return the width of the weights as the trainer loads them."""
    if loads := job.backend.loads:
        return 4 if "float32" in {loads, values.get(loads)} else 2
    if job.deepspeed_text and (is_on(values, "bf16") or is_on(values, "fp16")):
        return 2
    return model.dtype_bytes if (find_major(job.versions.get("transformers")) or 0) >= _AUTO_DTYPE else 4


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
    if not job.backend.trains_lora(job) or "lora_rank" not in values:
        return None
    widths = {
        "q_proj": model.hidden + model.query, "k_proj": model.hidden + model.key, "v_proj": model.hidden + model.key,
        "o_proj": model.query + model.hidden, "gate_proj": model.hidden + model.intermediate,
        "up_proj": model.hidden + model.intermediate, "down_proj": model.intermediate + model.hidden,
    }  # fmt: skip
    if job.model.family == "encoder":  # BERT's, whose dense stands behind the attention and twice in the MLP
        each = 2 * model.hidden
        widths = {"query": each, "key": each, "value": each, "dense": 2 * each + 2 * model.intermediate}
    names = values.get("target_modules", "").split()
    if "all-linear" in names or not names:
        names = list(widths)
    return _whole(values, "lora_rank", 8) * model.layers * sum(widths.get(name, 2 * model.hidden) for name in names)


def _find_sharing(job: Job, values: Mapping[str, str]) -> dict[str, Any]:
    """Return how several processes share the training, as fields of its size."""
    if (fsdp := sharing.find_fsdp(values)) is not None:
        return {"shards": fsdp.shards, "offload_optimizer": fsdp.offload, "offload_weights": fsdp.offload}
    if found := re.fullmatch(r"zero([0-3])(_offload)?", job.recipe.deepspeed or ""):
        stage, offload = int(found[1]), bool(found[2])
        return {"shards": stage, "offload_optimizer": offload, "offload_weights": offload and stage == _SHARDS_WEIGHTS}
    config = sharing.load_deepspeed(job)
    if isinstance(config, Problem) or not config:
        return {}
    zero, stage = config.get("zero_optimization", {}), sharing.zero_stage(config)
    asked = {"offload_optimizer": zero.get("offload_optimizer"), "offload_weights": zero.get("offload_param")}
    offloads = {name: isinstance(to, dict) and to.get("device") in {"cpu", "nvme"} for name, to in asked.items()}
    return {"shards": stage if isinstance(stage, int) else 0, **offloads}


def _whole(values: Mapping[str, str], name: str, default: int) -> int:
    try:
        return max(1, int(json.loads(values[name])))
    except (KeyError, ValueError, TypeError):
        return default
