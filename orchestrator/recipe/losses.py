"""What is true of a recipe's loss, whoever asks: which it is where nothing is said, and whether its batch may be split.

A batch may be split into smaller ones whose gradients are accumulated only where the objective stays. It stays where
the loss of a batch is the mean over its rows, each row's loss without the others: then the mean over 4 rows is the mean
of the means over 2 and 2. Sources: AbsRerankerModel.forward of FlagEmbedding 1.4.2, swift/loss of ms-swift 4.6.0,
sentence_transformers/cross_encoder/losses 6.2.0, workers/cross_encoder/losses.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.recipe.schema import Loss

# `--loss_type` as scripts for ms-swift 3 and 4 write it
OLD_LOSS_TYPES = {
    "infonce": "infonce",
    "cosine_similarity": "cosine_similarity",
    "contrastive": "contrastive",
    "online_contrastive": "online_contrastive",
    "reranker": "pointwise",
    "generative_reranker": "pointwise",
    "pointwise_reranker": "pointwise",
    "listwise_reranker": "listwise",
    "listwise_generative_reranker": "listwise",
}
# What other tools call a loss, in small letters and without its `Loss` → ours, where a backend has it.
_FOREIGN = {
    "binarycrossentropy": "pointwise_bce", "bce": "pointwise_bce", "point_ce": "pointwise_bce",
    "mse": "pointwise_mse", "point_mse": "pointwise_mse", "marginmse": "margin_mse",
    "ranknet": "pairwise_ranknet", "listnet": "{type: listwise_ce, graded: true}", "lambda": "lambda_loss",
    "listmle": "list_mle", "multiplenegativesranking": "infonce", "cachedmultiplenegativesranking": "infonce",
    "mnrl": "infonce", "info_nce": "infonce", "cosinesimilarity": "cosine_similarity",
    "onlinecontrastive": "online_contrastive",
}  # fmt: skip
_NEAR = 0.7  # how alike two words are, of which one is meant to be the other
_OF_BACKEND = {
    "swift": ("infonce", "cosine_similarity", "contrastive", "online_contrastive", "pointwise", "listwise"),
    "sentence-transformers": (
        "pointwise_bce", "pointwise_mse", "pairwise_ranknet", "listwise_ce", "lambda_loss", "list_mle", "margin_mse",
    ),
}  # fmt: skip
_DEFAULTS = {("swift", "reranker"): "pointwise", ("sentence-transformers", "reranker"): "pointwise_bce"}


def choose_loss(backend: str, task: str, given: Loss | None, train: Mapping[str, Any]) -> Loss | None:
    """Return the loss that is minimised: the recipe's, an old script's `loss_type`, or the backend's default.

    None where a trainer has only one loss, and for an embedding model without one, which is refused.
    """
    if given is not None:
        return given
    old = OLD_LOSS_TYPES.get(str(train.get("loss_type"))) if backend == "swift" and task != "sft" else None
    kind = old or _DEFAULTS.get((backend, task))
    return Loss.model_validate({"type": kind}) if kind else None


def find_own_loss(name: str, backend: str) -> str | None:
    """Return what to say for a loss that no recipe knows: another tool's name of it, or one that is near.

    Only what the backend has is named; None where it has nothing of the kind.
    """
    own = _OF_BACKEND.get(backend, tuple(kind for kinds in _OF_BACKEND.values() for kind in kinds))
    plain = name.lower().replace("-", "_").removesuffix("loss").rstrip("_")
    known = _FOREIGN | OLD_LOSS_TYPES | {kind: kind for kind in own}
    known |= {kind.removesuffix("_loss").replace("_", ""): kind for kind in own}
    found = known.get(plain) or known.get(plain.replace("_", ""))
    if found and any(kind in found for kind in own):
        return f"say {found}"
    near = difflib.get_close_matches(plain, own, n=1, cutoff=_NEAR)
    return f"did you mean {near[0]!r}?" if near else None


def find_batch_obstacle(loss: Loss | None, train: Mapping[str, Any]) -> str | None:
    """Return why a smaller batch would change what is learnt, as a sentence; None where it would not.

    Without a loss: FlagEmbedding's softmax over each group, and an LLM's mean over the tokens of a whole step.
    """
    if _is_positive(train.get("router_aux_loss_coef")):
        return "router_aux_loss_coef balances the experts over the rows of a batch"
    return _OBSTACLES[loss.type](loss) if loss else None


def _is_positive(value: object) -> bool:
    try:
        return float(str(value)) > 0
    except ValueError:
        return False


def _always(reason: str | None) -> Callable[[Loss], str | None]:
    return lambda _: reason


def _of_infonce(loss: Loss) -> str | None:
    return None if loss.use_batch is False else "the other rows of a batch are the negatives of infonce (use_batch)"


def _of_listwise(loss: Loss) -> str | None:
    if (loss.max_positives or 1) > 1:
        return "with max_positives a row is several groups, and listwise is the mean over a batch's groups"
    if (loss.min_group_size or 0) > 2:  # noqa: PLR2004  (a positive and one negative: what every row has)
        return "min_group_size leaves groups out, and listwise is the mean over the others of a batch"
    return None


# Every loss of the schema stands here: what is not known to be a mean over rows is never split unasked.
_OBSTACLES: dict[str, Callable[[Loss], str | None]] = {
    "infonce": _of_infonce,
    "cosine_similarity": _always(None),  # a row is a pair
    "contrastive": _always(None),
    "online_contrastive": _always("online_contrastive picks the hard pairs of a batch, and sums them"),
    "pointwise": _always("pointwise is the mean over a batch's documents, of which rows have different numbers"),
    "listwise": _of_listwise,
    "pointwise_bce": _always(None),
    "pointwise_mse": _always(None),
    "pairwise_ranknet": _always(None),  # each list has a mean of its own
    "listwise_ce": _always(None),
    "lambda_loss": _always(
        "lambda_loss is the mean over all pairs of documents in a batch, of which queries have different numbers"
    ),
    "list_mle": _always(None),
    "margin_mse": _always(None),
}
