"""What `watch.on_oom: retry` stands on: a batch of 4 and the mean of its halves give the same loss and gradient."""

from __future__ import annotations

import pytest

from orchestrator.recipe.losses import find_batch_obstacle
from orchestrator.recipe.schema import Loss
from tests.workers.test_cross_encoder_losses import compute
from tests.workers.test_train_cross_encoder import files, load_state, train, without_dropout

__all__ = ["files"]  # a fixture

SCORES = [2.0, -1.0, 0.5, 1.5, -0.25, 0.75, 3.0, -2.0]
PAIRS = ([["q1", "q1", "q2", "q2"], ["0", "1", "2", "3"]], [1.0, 0.0, 0.25, 1.0])
LISTS = (
    [["q1", "q2", "q3", "q4"], [["0", "1"], ["2", "3", "4"], ["5", "6", "7"], ["1", "4", "6"]]],
    [[1.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0], [1.0, 0.5, 0.0]],
)
MARGINS = ([["q1", "q2", "q3", "q4"], ["0", "2", "4", "6"], ["1", "3", "5", "7"]], [2.0, 1.0, -0.5, 3.0])
ROWS = {
    "pointwise_bce": PAIRS,
    "pointwise_mse": PAIRS,
    "pairwise_ranknet": LISTS,
    "listwise_ce": LISTS,
    "list_mle": LISTS,
    "plist_mle": LISTS,
    "list_net": LISTS,
    "adr_mse": LISTS,
    "margin_mse": MARGINS,
    "lambda_loss": LISTS,
}


def halve(name):
    inputs, labels = ROWS[name]
    for part in (slice(0, 2), slice(2, 4)):
        yield compute(name, SCORES, [column[part] for column in inputs], labels[part])


@pytest.mark.parametrize("name", ROWS)
def test_a_loss_is_split_exactly_where_its_halves_have_the_same_mean(name):
    value, gradient = compute(name, SCORES, *ROWS[name])
    (first, first_gradient), (second, second_gradient) = halve(name)
    is_same = value == pytest.approx((first + second) / 2) and gradient == pytest.approx(
        [(one + other) / 2 for one, other in zip(first_gradient, second_gradient, strict=True)]
    )
    assert is_same == (find_batch_obstacle(Loss(type=name), {}) is None)


@pytest.mark.alone
def test_a_training_that_goes_on_in_halved_batches_has_the_same_losses(encoder, files, tmp_path):
    base = without_dropout(encoder, tmp_path / "base")
    epochs = {"num_train_epochs": 2, "logging_steps": 1, "save_strategy": "epoch"}
    whole = train(tmp_path / "whole", base, files, "listwise_ce", arguments=epochs)
    first = min(whole.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    halved = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    split = train(tmp_path / "split", base, files, "listwise_ce", resume=first, arguments=epochs | halved)
    losses, again = (
        [line["loss"] for line in load_state(out / "last")["log_history"] if "loss" in line] for out in (whole, split)
    )
    assert len(losses) > 2
    assert again == pytest.approx(losses, rel=1e-3)
