"""Whether a batch may be split into smaller ones whose gradients are accumulated: only where the objective stays.

It stays where the loss of a batch is the mean over its rows, each row's loss without the others: then the mean over 4
rows is the mean of the means over 2 and 2. Sources: AbsRerankerModel.forward of FlagEmbedding 1.4.2, swift/loss of
ms-swift 4.6.0, sentence_transformers/cross_encoder/losses 6.2.0, workers/cross_encoder/list_losses.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.backends.deepspeed import load_deepspeed
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.backends.protocol import Found, Job
    from orchestrator.recipe.schema import Loss

_KEY = ("watch", "on_oom")
_OTHERWISE = "say watch: {on_oom: fail}"
_FIXED = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def check_splitting(job: Job, train: Mapping[str, Any], obstacle: str | None) -> Iterator[Found]:
    """Yield why `watch.on_oom: retry` cannot be had. `obstacle`: why the loss needs its batch whole."""
    if job.recipe.watch.on_oom != "retry":
        return
    if obstacle:
        message = f"on_oom: retry halves the batch, and that would change what is learnt: {obstacle}"
        yield _KEY, Problem(message, f"{_OTHERWISE}, or choose a batch that fits; gradient_checkpointing saves memory")
    if train.get("auto_find_batch_size"):
        message = "auto_find_batch_size halves the batch too, and does not accumulate: two would do it at once"
        yield _KEY, Problem(message, "remove train.auto_find_batch_size")
    if train.get("per_gpu_train_batch_size"):
        message = "on_oom: retry sets per_device_train_batch_size, and per_gpu_train_batch_size would go before it"
        yield _KEY, Problem(message, "say train.per_device_train_batch_size")
    config = load_deepspeed(job)
    fixed = [] if isinstance(config, Problem) else [name for name in _FIXED if config.get(name, "auto") != "auto"]
    if fixed:
        message = f"on_oom: retry changes batch and accumulation, and the DeepSpeed file fixes {', '.join(fixed)}"
        yield _KEY, Problem(message, f'say "auto" there, or {_OTHERWISE}')


def find_swift_obstacle(loss: Loss | None, train: Mapping[str, Any]) -> str | None:
    """Return why ms-swift's loss is no mean over rows; None where it is.

    Without a loss (an LLM) it is the mean over the tokens of a whole step, whatever its parts.
    """
    if float(train.get("router_aux_loss_coef") or 0) > 0:
        return "router_aux_loss_coef balances the experts over the rows of a batch"
    if loss is None:
        return None
    if loss.type == "infonce":
        return None if loss.use_batch is False else "the other rows of a batch are the negatives of infonce (use_batch)"
    if loss.type == "online_contrastive":
        return "online_contrastive picks the hard pairs of a batch, and sums them"
    if loss.type == "pointwise":
        return "pointwise is the mean over a batch's documents, of which rows have different numbers"
    if loss.type == "listwise":
        return _find_listwise_obstacle(loss)
    return None  # contrastive and cosine_similarity: a mean over pairs, and a row is a pair


def _find_listwise_obstacle(loss: Loss) -> str | None:
    if (loss.max_positives or 1) > 1:
        return "with max_positives a row is several groups, and listwise is the mean over a batch's groups"
    if (loss.min_group_size or 0) > 2:  # noqa: PLR2004  (a positive and one negative: what every row has)
        return "min_group_size leaves groups out, and listwise is the mean over the others of a batch"
    return None


def find_cross_encoder_obstacle(loss: Loss) -> str | None:
    """Return why a loss of sentence-transformers' cross-encoders is no mean over rows; None where it is."""
    if loss.type == "lambda_loss":
        return "lambda_loss is the mean over all pairs of documents in a batch, of which queries have different numbers"
    return None
