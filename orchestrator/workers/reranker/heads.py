"""The head that turns a model's last hidden state into a score: where it comes from, and what a new one is drawn by."""

from __future__ import annotations

from orchestrator.workers.failure import WorkerError

LOGITS = {"method": "forward", "method_output_name": "logits"}
# said and not inferred: a vision-language template would make it read lists of parts
CHAT = {"text": LOGITS, "message": {**LOGITS, "format": "flat"}}
HEAD_SEED = 42


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
