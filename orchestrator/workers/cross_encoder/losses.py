"""A loss's name and settings → its module: the library's own, or one of the two that it does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.workers.cross_encoder.list_losses import (
    build_list_loss,
    ranknet,
    softmax_of_grades,
    softmax_of_one,
)
from orchestrator.workers.failure import WorkerError

if TYPE_CHECKING:
    from orchestrator.workers.cross_encoder.settings import LossSettings

# LambdaLoss and ListMLELoss call the model once for so many documents as a batch has queries, unless this is given;
# 0 and less is all at once: one call a step, whose gradients DistributedDataParallel sums when the step ends
ALL_AT_ONCE = -1


def build_loss(model: Any, settings: LossSettings) -> Any:
    """Return the loss as a torch module over `model` (a CrossEncoder of one label)."""
    import torch
    from sentence_transformers.cross_encoder import losses

    activation = torch.nn.Sigmoid() if settings.activation == "sigmoid" else torch.nn.Identity()
    weight = None if settings.pos_weight is None else torch.tensor(float(settings.pos_weight))
    known = {
        "pointwise_bce": lambda: losses.BinaryCrossEntropyLoss(model, pos_weight=weight),
        "pointwise_mse": lambda: losses.MSELoss(model, activation_fn=activation),
        "pairwise_ranknet": lambda: build_list_loss(model, ranknet),
        "listwise_ce": lambda: build_list_loss(model, softmax_of_grades if settings.graded else softmax_of_one),
        "lambda_loss": lambda: losses.LambdaLoss(
            model, weighting_scheme=losses.NDCGLoss2PPScheme(), k=settings.k, mini_batch_size=ALL_AT_ONCE
        ),
        "list_mle": lambda: losses.ListMLELoss(model, mini_batch_size=ALL_AT_ONCE, respect_input_order=True),
        "margin_mse": lambda: losses.MarginMSELoss(model, activation_fn=activation),
    }
    return known[settings.type]()


def guard_loss(loss: Any) -> None:
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

    loss.register_forward_hook(check)
