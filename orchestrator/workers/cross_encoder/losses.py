"""The losses of a cross-encoder, one function each: the library's own, and the two that it does not have.

To add one, write a function under `@loss`: its name is what recipes say, it returns the module, and its decorator says
which form of rows it reads, which settings it has, and what it cannot learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.settings import COUNT, FACTOR, one_of, or_null

if TYPE_CHECKING:
    from torch import Tensor

PAIRS, LISTS, MARGINS = "cross-encoder-pairs", "cross-encoder-lists", "cross-encoder-margins"
RELEVANT = 0.5  # a label of at least this counts as relevant where only yes or no is known
# LambdaLoss and ListMLELoss call the model once for so many documents as a batch has queries, unless this is given;
# 0 and less is all at once: one call a step, whose gradients DistributedDataParallel sums when the step ends
ALL_AT_ONCE = -1


@dataclass(frozen=True)
class LossSettings:
    """What is minimised; `pos_weight` None is 1, `k` None is no cutoff."""

    type: str
    graded: bool = False
    activation: Annotated[str, one_of("identity", "sigmoid")] = "identity"
    pos_weight: Annotated[float | None, or_null(FACTOR)] = None
    k: Annotated[int | None, or_null(COUNT)] = None


Labels = Sequence[float]
Formula = Callable[["Tensor", "Tensor"], "Tensor"]
LabelCheck = Callable[[Labels, LossSettings], str | None]  # what of a row's labels cannot be learnt from


@dataclass(frozen=True)
class Loss:
    """One loss: `build(model, settings)` makes the module over a CrossEncoder of one label."""

    build: Callable[[Any, LossSettings], Any]
    form: str
    settings: tuple[str, ...]
    check: LabelCheck


LOSSES: dict[str, Loss] = {}


def loss(form: str, *settings: str, check: LabelCheck = lambda _labels, _settings: None) -> Callable[[Any], Any]:
    """Register the function under its name, as a loss that reads rows of `form` and has these settings."""

    def register(build: Callable[[Any, LossSettings], Any]) -> Callable[[Any, LossSettings], Any]:
        LOSSES[build.__name__] = Loss(build, form, settings, check)
        return build

    return register


def require_probabilities(labels: Labels, _settings: LossSettings) -> str | None:
    """Return what is wrong with the label of a pair."""
    bad = [label for label in labels if not 0 <= label <= 1]
    return f"label is {bad[0]:g}; pointwise_bce learns probabilities, from 0 to 1" if bad else None


def require_order(labels: Labels, _settings: LossSettings) -> str | None:
    """Return what is wrong with the order of a query's labels."""
    if any(first < second for first, second in pairwise(labels)):
        return "list_mle learns the order of the documents, and they are not sorted by label, highest first"
    return None


def require_distribution(labels: Labels, settings: LossSettings) -> str | None:
    """Return what is wrong with a query's labels as a distribution, or as one positive among others."""
    if settings.graded:
        if min(labels) < 0 or not sum(labels) > 0:
            return "labels are read as a distribution: none may be below 0, and one must be above"
        return None
    relevant = sum(label >= RELEVANT for label in labels)
    if relevant != 1:
        return f"{relevant} documents are relevant; listwise_ce needs exactly one, or loss.graded: true"
    return None


@loss(PAIRS, "pos_weight", check=require_probabilities)
def pointwise_bce(model: Any, settings: LossSettings) -> Any:
    """Return the cross-entropy of the sigmoid with the label."""
    import torch
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    weight = None if settings.pos_weight is None else torch.tensor(float(settings.pos_weight))
    return BinaryCrossEntropyLoss(model, pos_weight=weight)


@loss(PAIRS, "activation")
def pointwise_mse(model: Any, settings: LossSettings) -> Any:
    """Return the squared distance of score and label."""
    from sentence_transformers.cross_encoder.losses import MSELoss

    return MSELoss(model, activation_fn=_choose_activation(settings))


@loss(LISTS)
def pairwise_ranknet(model: Any, _settings: LossSettings) -> Any:
    """Return RankNet over a query's documents."""
    return build_list_loss(model, ranknet)


@loss(LISTS, "graded", check=require_distribution)
def listwise_ce(model: Any, settings: LossSettings) -> Any:
    """Return the cross-entropy of the softmax over a query's documents."""
    return build_list_loss(model, softmax_of_grades if settings.graded else softmax_of_one)


@loss(LISTS, "k")
def lambda_loss(model: Any, settings: LossSettings) -> Any:
    """Return the library's LambdaLoss with NDCGLoss2++."""
    from sentence_transformers.cross_encoder.losses import LambdaLoss, NDCGLoss2PPScheme

    return LambdaLoss(model, weighting_scheme=NDCGLoss2PPScheme(), k=settings.k, mini_batch_size=ALL_AT_ONCE)


@loss(LISTS, check=require_order)
def list_mle(model: Any, _settings: LossSettings) -> Any:
    """Return the likelihood of the documents in the order that they come in."""
    from sentence_transformers.cross_encoder.losses import ListMLELoss

    return ListMLELoss(model, mini_batch_size=ALL_AT_ONCE, respect_input_order=True)


@loss(MARGINS, "activation")
def margin_mse(model: Any, settings: LossSettings) -> Any:
    """Return the squared distance of the scores' difference and the teacher's."""
    from sentence_transformers.cross_encoder.losses import MarginMSELoss

    return MarginMSELoss(model, activation_fn=_choose_activation(settings))


def _choose_activation(settings: LossSettings) -> Any:
    from torch import nn

    return nn.Sigmoid() if settings.activation == "sigmoid" else nn.Identity()


def ranknet(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over pairs with r_i < r_j of (r_j - r_i) · log(1 + exp(s_i - s_j)).

    Scores and labels of one query have the shape (documents,). RankNet (Burges et al. 2005,
    https://icml.cc/Conferences/2005/proceedings/papers/012_LearningToRank_BurgesEtAl.pdf) with each pair weighted by
    how far apart its labels are; equal labels make no pair.
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


def build_list_loss(model: Any, formula: Formula) -> Any:
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
            self, inputs: list[Any], labels: list[Tensor], prompt: str | None = None, task: str | None = None
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


def guard_loss(module: Any) -> None:
    """Let the loss end the training when it is not finite, in training and validation alike.

    transformers logs a loss that is NaN as 0 or nan, goes on, and saves weights of NaN with exit code 0.
    """
    import torch

    def check(module: Any, _inputs: Any, value: Any) -> None:
        if not torch.isfinite(value.detach()).all():
            # the trainer turns the model to evaluation, not the loss, and under DistributedDataParallel the inner one
            inner = getattr(module.model, "module", module.model)
            where = "of a training step" if inner.training else "on the validation rows"
            raise WorkerError(
                f"the loss {where} is {float(value.detach().float().mean())}: the training has diverged; nothing of it "
                "is saved. Lower learning_rate, set max_grad_norm, or train in float32 (bf16: false, fp16: false)"
            )

    module.register_forward_hook(check)
