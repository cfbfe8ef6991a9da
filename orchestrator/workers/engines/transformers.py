"""Load a model in plain transformers and float32, without a weight being made up unseen."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from orchestrator.workers.environment import weight_options
from orchestrator.workers.failure import WorkerError

HEAD_SEED = 42  # what a new head is drawn by


def load_float32(
    loader: str, folder: Path | str, device: str, *, trust_remote_code: bool, **changes: Any
) -> tuple[Any, tuple[str, ...]]:
    """Return the model in float32 and the names of the weights that its files lack.

    `loader` is a class of transformers, such as AutoModel; `changes` are settings of the model's config.
    """
    import transformers

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


def load_tokenizer(folder: Path | str, *, trust_remote_code: bool = False) -> Any:
    """Return the folder's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def release() -> None:
    """Give back the memory of models that went out of scope."""
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
