"""What is known of every loss of the schema, in one place."""

from __future__ import annotations

from typing import get_args

from orchestrator.recipe.losses import _OBSTACLES
from orchestrator.recipe.schema import Loss


def test_of_every_loss_it_is_known_whether_its_batch_may_be_split():
    assert set(_OBSTACLES) == set(get_args(Loss.model_fields["type"].annotation))
