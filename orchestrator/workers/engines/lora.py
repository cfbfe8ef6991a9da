"""LoRA on a model of sentence-transformers: what is trained, what a checkpoint holds, and how one is continued.

The library's own way loses a cross-encoder's head: a PEFT config without `modules_to_save` freezes it, new or not, and
saves nothing of it (sentence-transformers issues 3384, 3916, 3936, 3980, 4052). Here everything behind the layers is
trained whole and saved beside the adapter, so that base and adapter together are the trained model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.settings import COUNT, FACTOR, SHARE, names_of, one_of, or_null

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every name in the file, as PEFT writes it
ALL_LINEAR = "all-linear"
_POOLER = "pooler"
_NAMES = names_of("modules")


@dataclass(frozen=True)
class Lora:
    """An adapter by PEFT's names; `modules_to_save` are trained whole beside the head, which always is."""

    lora_rank: Annotated[int, COUNT]
    lora_alpha: Annotated[float, FACTOR]
    lora_dropout: Annotated[float, SHARE]
    target_modules: Annotated[list[str], _NAMES]
    modules_to_save: Annotated[list[str] | None, or_null(_NAMES)] = None
    use_dora: bool = False
    use_rslora: bool = False
    quant_method: Annotated[str | None, or_null(one_of("bnb"))] = None
    quant_bits: Annotated[int | None, or_null(COUNT)] = None


def build_quantization(lora: Lora | None, arguments: Any) -> dict[str, Any]:
    """Return what `from_pretrained` needs to load an adapter's base in fewer bits, on the training's device.

    4 bits are QLoRA's NF4 with quantised scales; what is computed has the training's precision. Raises WorkerError
    without bitsandbytes.
    """
    if lora is None or lora.quant_bits is None:
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise WorkerError("quant_method is bnb, and bitsandbytes is not installed: pip install bitsandbytes")
    dtype = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else torch.float32
    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    bits = {"load_in_4bit": True, **four} if lora.quant_bits == 4 else {"load_in_8bit": True}  # noqa: PLR2004
    return {"quantization_config": BitsAndBytesConfig(**bits), "device_map": {"": str(arguments.device)}}


def find_head(model: Any) -> list[str]:
    """Return the names of what stands behind a transformers model's layers: its head, and the pooler before one.

    There are none where the model is the layers themselves, as under an embedding model.
    """
    inner = model.base_model
    if inner is model:
        return []
    found = [name for name, module in model.named_children() if module is not inner and _has_weights(module)]
    return [*([_POOLER] if _has_weights(getattr(inner, _POOLER, None)) else []), *found]


def _has_weights(module: Any) -> bool:
    return module is not None and any(True for _ in module.parameters())


def add_lora(model: Any, lora: Lora, seed: int) -> str:
    """Freeze the transformer of a CrossEncoder or SentenceTransformer and add an adapter; return the log's line of it.

    The adapter is drawn by the seed, as every other new weight. Raises WorkerError for names that no module has.
    """
    import torch
    from peft import LoraConfig

    transformer = model.transformers_model
    head = find_head(transformer)
    modules = [name for name, _ in transformer.named_modules()]
    kept = list(dict.fromkeys([*head, *(lora.modules_to_save or ())]))
    for name in [*kept, *(name for name in lora.target_modules if name != ALL_LINEAR)]:
        if not any(module == name or module.endswith(f".{name}") for module in modules):
            raise WorkerError(f"{transformer.name_or_path} has no module {name}: nothing of that name can be trained")
    config = LoraConfig(
        task_type="SEQ_CLS" if head else "FEATURE_EXTRACTION",
        r=lora.lora_rank,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=ALL_LINEAR if lora.target_modules == [ALL_LINEAR] else lora.target_modules,
        modules_to_save=kept or None,
        # vectors are pooled from the tokens: BERT's pooler takes no part, and processes would wait for its gradients
        exclude_modules=None if head else rf"(.*\.)?{_POOLER}(\..*)?",
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
    )
    torch.manual_seed(seed)
    try:
        transformer.add_adapter(config)
    except ValueError as error:  # PEFT's own words: a kind of layer that it has no adapter for
        raise WorkerError(f"LoRA cannot be added to {transformer.name_or_path}: {error}") from error
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    total = sum(weight.numel() for weight in model.parameters())
    return f"LoRA: {trained} of {total} weights are trained{', whole: ' + ', '.join(kept) if kept else ''}"


def load_lora(model: Any, checkpoint: Path) -> None:
    """Give the model the weights of a checkpoint: the adapter's, the head's, and those of modules behind it.

    Raises WorkerError where the checkpoint's adapter is another than the model's.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    transformer = model.transformers_model
    found = {name.removeprefix(PREFIX): tensor for name, tensor in load_file(checkpoint / WEIGHTS).items()}
    # not by transformers' own loading, which leaves out DoRA's magnitudes (5.19: a warning, and other scores)
    wanted = {name: tensor.shape for name, tensor in get_peft_model_state_dict(transformer).items()}
    both = wanted.keys() | found.keys()
    other = {name for name in both if name not in found or found[name].shape != wanted.get(name)}
    if other:
        raise WorkerError(
            f"{checkpoint / WEIGHTS} is of another adapter than the recipe's: {len(other)} weights differ, such as "
            f"{min(other)}"
        )
    set_peft_model_state_dict(transformer, found)
    for entry in json.loads((checkpoint / "modules.json").read_text(encoding="utf-8")):
        weights = checkpoint / entry["path"] / "model.safetensors"
        if entry["path"] and weights.is_file():  # a dense layer behind the pooling
            model[entry["idx"]].load_state_dict(load_file(weights))
