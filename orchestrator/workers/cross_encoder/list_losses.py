"""The two losses over a query's documents that sentence-transformers does not have: their formulas, and their module.

A formula takes one query's scores and labels, both of shape (documents,), and gives a loss without dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def ranknet(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over pairs with r_i < r_j of (r_j - r_i) · log(1 + exp(s_i - s_j)).

    RankNet (Burges et al. 2005, https://icml.cc/Conferences/2005/proceedings/papers/012_LearningToRank_BurgesEtAl.pdf)
    with each pair weighted by how far apart its labels are; equal labels make no pair.
    """
    from torch.nn.functional import softplus

    gaps = labels[None, :] - labels[:, None]  # [i, j]: r_j - r_i
    losses = softplus(scores[:, None] - scores[None, :])
    return (gaps.clamp(min=0) * losses).sum()


def softmax_of_one(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of softmax(s) with the one positive: the document of the highest label."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(scores[None], labels.argmax()[None])


def softmax_of_grades(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of softmax(s) with the labels divided by their sum (labels ≥ 0, one of them above)."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(scores[None], (labels / labels.sum())[None])


def build_list_loss(model: Any, formula: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Return a loss for CrossEncoderTrainer: `formula` of each query's documents, the mean over queries.

    Its inputs are those of the library's list losses: queries, lists of documents of any length, and lists of labels.
    All documents of a batch pass the model at once, which is what DistributedDataParallel expects of a step.
    """
    import torch
    from sentence_transformers.util import batch_to_device

    class ListLoss(torch.nn.Module):  # type: ignore[misc]  # the trainer takes nothing but modules
        """Holds the model under the name by which the trainer replaces it with the distributed one."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self,
            inputs: list[Any],
            labels: list[Tensor],
            prompt: str | None = None,
            task: str | None = None,
        ) -> Tensor:
            """Return the loss of a batch."""
            queries, lists = inputs
            pairs = [(query, text) for query, texts in zip(queries, lists, strict=True) for text in texts]
            features = batch_to_device(self.model.preprocess(pairs, prompt=prompt, task=task), self.model.device)
            # float32 also under autocast: differences of half precision scores are too coarse
            scores = self.model(features)["scores"].view(-1).float().split([len(texts) for texts in lists])
            losses = [formula(own, truth.to(own.device).float()) for own, truth in zip(scores, labels, strict=True)]
            return torch.stack(losses).mean()

        def get_config_dict(self) -> dict[str, str]:
            """Return what the model card says of the loss."""
            return {"formula": formula.__name__}

    return ListLoss()
