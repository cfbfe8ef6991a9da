"""Files that make sentence-transformers load a folder, and what the folder gives there with nothing else said.

The files are written as sentence-transformers' own `save_pretrained` writes them, without loading and saving the
weights once more.

LoRA on such a model: what is trained, what a checkpoint holds, and how one is continued. The library's own way loses a
cross-encoder's head: a PEFT config without `modules_to_save` freezes it, new or not, and saves nothing of it
(sentence-transformers issues 3384, 3916, 3936, 3980, 4052). Here everything behind the layers is trained whole and
saved beside the adapter, so that base and adapter together are the trained model.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from orchestrator.workers.engines.transformers import release
from orchestrator.workers.environment import read_versions, weight_options
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_json, write_json
from orchestrator.workers.settings import COUNT, FACTOR, SHARE, names_of, one_of, or_null

BATCH_SIZE = 4
TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
LOGIT_SCORE = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
LOGIT_SCORE_FOLDER = "1_LogitScore"
# without it CrossEncoder.predict puts a sigmoid over a single label
IDENTITY = "torch.nn.modules.linear.Identity"
LOGITS = {"method": "forward", "method_output_name": "logits"}
# said and not inferred: a vision-language template would make it read lists of parts
CHAT = {"text": LOGITS, "message": {**LOGITS, "format": "flat"}}


def write_cross_encoder(
    folder: Path, *, words: tuple[int, ...] = (), pad_token_id: int | None = None, chat: bool = True
) -> None:
    """Make the folder a CrossEncoder, which reads pairs in the chat template; without `chat` an encoder of two texts.

    Its score is the one logit of its head, or with `words` the true token's logit at the last position, less that of
    the false token if there is one. Without a `pad_token_id` a decoder with a head scores no batch of several pairs.
    """
    task, output = ("text-generation", "causal_logits") if words else ("sequence-classification", "scores")
    modality = CHAT if chat else {"text": LOGITS}
    settings = {"transformer_task": task, "modality_config": modality, "module_output_name": output}
    write_json(folder / "sentence_bert_config.json", settings)
    modules = [("", TRANSFORMER)]
    if words:
        tokens = dict(itertools.zip_longest(("true_token_id", "false_token_id"), words))
        write_json(folder / LOGIT_SCORE_FOLDER / "config.json", {**tokens, "module_input_name": "causal_logits"})
        modules.append((LOGIT_SCORE_FOLDER, LOGIT_SCORE))
    write_modules(folder, modules)
    config = read_json(folder / "config.json")
    if pad_token_id is not None and config.get("pad_token_id") is None:
        write_json(folder / "config.json", {**config, "pad_token_id": pad_token_id})
    elif not chat:  # before sentence-transformers 6 the activation was read from here
        own = {"activation_fn": IDENTITY, "version": read_versions().get("sentence-transformers")}
        write_json(folder / "config.json", {**config, "sentence_transformers": own})


def write_modules(folder: Path, modules: list[tuple[str, str]], **settings: Any) -> None:
    """Write the list of modules (path, class) and the settings of the model: a CrossEncoder's, or those given."""
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": kind} for index, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    versions = read_versions()
    names = {"pytorch": "torch", "sentence_transformers": "sentence-transformers", "transformers": "transformers"}
    settings = settings or {"activation_fn": IDENTITY, "model_type": "CrossEncoder", "prompts": {}}
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {name: versions.get(package) for name, package in names.items()},
            "default_prompt_name": None,
            **settings,
        },
    )


def open_model(
    kind: str, model: Path | str, device: str | None, dtype: str = "float32", *, trust_remote_code: bool, **more: Any
) -> Any:
    """Return a `SentenceTransformer` or `CrossEncoder` (`kind`) over a folder or hub id; `more` are its arguments."""
    import sentence_transformers

    release()
    weights = {"torch_dtype": dtype, **weight_options(), **more.pop("model_kwargs", {})}
    return getattr(sentence_transformers, kind)(
        str(model), device=device, trust_remote_code=trust_remote_code, model_kwargs=weights, **more
    )


def predict(folder: Path, pairs: Sequence[tuple[str, str]], device: str, *, trust_remote_code: bool) -> list[float]:
    """Return the scores of the pairs in `CrossEncoder(folder).predict`, nothing else given but float32."""
    encoder = open_model("CrossEncoder", folder, device, trust_remote_code=trust_remote_code, local_files_only=True)
    return [float(value) for value in encoder.predict(list(pairs), batch_size=BATCH_SIZE, show_progress_bar=False)]


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
