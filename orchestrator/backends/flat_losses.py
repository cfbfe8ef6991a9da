"""The loss of a model that scores everything alike, for each loss whose value is then one number: ln of the group.

None for losses that measure distances, that learn a teacher's scores, or whose groups differ in size: there the number
depends on the data, or is where a good training may end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.recipe.schema import Loss

_LN2 = math.log(2)
_MAX_NEGATIVES = 7  # ms-swift's default of MAX_NEGATIVE_SAMPLES, as rendered


def find_flagembedding_flat_loss(values: Mapping[str, Any]) -> float | None:
    """Return ln(train_group_size): FlagEmbedding fills every group to that size."""
    if values.get("knowledge_distillation"):
        return None
    return _ln(int(values["train_group_size"]))


def find_swift_flat_loss(loss: Loss | None, rows: int) -> float | None:
    """Return ln of the candidates of a text, which ms-swift's loss sees at most; `rows`: of one step's batch."""
    if loss is None:
        return None
    if loss.type == "pointwise":
        return _LN2
    if loss.type == "listwise":
        return _ln(1 + (loss.max_negatives or _MAX_NEGATIVES))
    if loss.type == "infonce" and loss.hard_negatives and not (loss.mrl_dims or loss.include_qq or loss.include_dd):
        return _ln((1 + loss.hard_negatives) * (1 if loss.use_batch is False else rows))
    return None


def find_cross_encoder_flat_loss(loss: Loss, values: Mapping[str, Any]) -> float | None:
    """Return ln 2 for single pairs, ln(train_group_size) for the choice among that many documents."""
    if loss.target == "teacher":
        return None
    if loss.type == "pointwise_bce":
        return _LN2 if loss.pos_weight in (None, 1) else None
    if loss.type == "listwise_ce" and not loss.graded and "train_group_size" in values:
        return _ln(int(values["train_group_size"]))
    return None


def _ln(candidates: int) -> float | None:
    return math.log(candidates) if candidates > 1 else None
