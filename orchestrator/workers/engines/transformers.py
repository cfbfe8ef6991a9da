"""Load a model in plain transformers, without a weight being made up unseen."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from orchestrator.workers.environment import weight_options
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.whole_weights import NEW_HEAD, VECTORS, WORDS, require_whole

HEAD_SEED = 42  # what a new head is drawn by


def load_float32(
    loader: str, folder: Path | str, device: str, *, trust_remote_code: bool, **changes: Any
) -> tuple[Any, tuple[str, ...]]:
    """Return the model in float32 and the names of the weights that its files lack.

    `loader` is a class of transformers, such as AutoModel; `changes` are settings of the model's config.
    """
    import transformers

    release()
    model, info = getattr(transformers, loader).from_pretrained(
        folder,
        torch_dtype="float32",
        output_loading_info=True,
        trust_remote_code=trust_remote_code,
        **weight_options(),
        **changes,
    )
    lacking = {*map(str, info.get("missing_keys", ())), *(str(key[0]) for key in info.get("mismatched_keys", ()))}
    return model.to(device).eval(), tuple(sorted(lacking))


def load_whole(
    model: Path | str, task_type: str | None, dtype: str, device: str, *, trust_remote_code: bool, vectors: bool = False
) -> Any:
    """Return a model, ready to run, in the class that PEFT calls `task_type`; with `vectors` nobody reads its words.

    Raises WorkerError where its files do not fill it.
    """
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    release()
    speaks = task_type == "CAUSAL_LM" and not vectors
    use = NEW_HEAD if task_type == "SEQ_CLS" else WORDS if speaks else VECTORS
    require_whole(model, use, trust_remote_code=trust_remote_code)
    loaders = {"SEQ_CLS": AutoModelForSequenceClassification, "FEATURE_EXTRACTION": AutoModel}
    loaded = loaders.get(task_type or "", AutoModelForCausalLM).from_pretrained(
        model,
        torch_dtype=dtype,  # not `dtype`, which transformers has since 4.56 only; FlagEmbedding itself says torch_dtype
        trust_remote_code=trust_remote_code,
        **({"num_labels": 1} if task_type == "SEQ_CLS" else {}),
        **weight_options(),
    )
    return loaded.to(device).eval()


def load_tokenizer(folder: Path | str, *, trust_remote_code: bool = False) -> Any:
    """Return the folder's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def release() -> None:
    """Give back the memory of models that went out of scope, as every door does before it loads another."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def name_head(model: str, *, trust_remote_code: bool = False, labels: int | None = 1) -> str:
    """Return where a classifier's head comes from: pretrained or new.

    Raises WorkerError for one of more than `labels` labels, where that is said.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if classifies and labels is not None and config.num_labels != labels:
        raise WorkerError(f"{model} has a head of {config.num_labels} labels; a reranker has one")
    return "pretrained" if classifies else "new"
