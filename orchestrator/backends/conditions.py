"""Arguments that go against a plan, or that a trainer refuses at its start: tables of what, when and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem

Applies = Callable[[Job, Mapping[str, Any]], bool]

LOWEST_LOSS = "the best checkpoint is the one with the lowest validation loss"
PUBLISH = "remove it, and publish `model/` once it is measured: hf upload"
# SchedulerType of transformers 4.52 to 5.23 (trainer_utils.py)
_SCHEDULERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
)  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """One argument and when it cannot be given; `why` follows its name and value in the message."""

    name: str
    applies: Applies
    why: str
    hint: str


def is_on(name: str) -> Applies:
    """Return the condition that a switch is on, or that anything is said that is not off."""
    return lambda _, train: bool(train.get(name))


def check_conditions(conditions: Iterable[Condition], job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield every argument that cannot be given here; `train` has the installed version's names and types."""
    for condition in conditions:
        if condition.name in train and condition.applies(job, train):
            value = train[condition.name]
            shown = str(value).lower() if isinstance(value, bool) else value
            message = f"{condition.name}: {shown}: {condition.why}"
            yield ("train", condition.name), Problem(message, condition.hint)


def _steps_differ(_: Job, train: Mapping[str, Any]) -> bool:
    save, evaluate = train.get("save_steps", 500), train.get("eval_steps")
    return bool(train["load_best_model_at_end"] and evaluate and save % evaluate)


def _has_no_validation(job: Job, train: Mapping[str, Any]) -> bool:
    adapts = train["lr_scheduler_type"] in {"reduce_lr_on_plateau", "greedy"}
    return adapts and job.recipe.data.validation_ratio is None


def _prefetches_alone(job: Job, train: Mapping[str, Any]) -> bool:
    default = None if job.recipe.backend == "swift" else 0  # ms-swift takes one worker where nothing is said
    return train["dataloader_prefetch_factor"] is not None and train.get("dataloader_num_workers", default) == 0


# What transformers' Trainer has for every backend. Sources: training_args.py and trainer.py of transformers 5.19.
COMMON = (
    Condition("push_to_hub", is_on("push_to_hub"), "nothing is published before it is measured", PUBLISH),
    Condition("hub_always_push", is_on("hub_always_push"), "nothing is published before it is measured", PUBLISH),
    Condition(
        "save_only_model",
        is_on("save_only_model"),
        "it leaves out what a training is continued with",
        "remove it: save_total_limit keeps the disk small",
    ),
    Condition("greater_is_better", is_on("greater_is_better"), LOWEST_LOSS, "remove it"),
    Condition(
        "metric_for_best_model",
        lambda _, train: train["metric_for_best_model"] not in {"loss", "eval_loss"},
        LOWEST_LOSS,
        "remove it",
    ),
    Condition(
        "load_best_model_at_end",
        _steps_differ,
        "the trainer refuses a save_steps that is no multiple of eval_steps",
        "give both the same number",
    ),
    Condition(
        "lr_scheduler_type",
        lambda _, train: train["lr_scheduler_type"] not in _SCHEDULERS,
        "transformers has no such schedule",
        f"one of {', '.join(_SCHEDULERS)}",
    ),
    Condition(
        "lr_scheduler_type",
        _has_no_validation,
        "this schedule follows the validation loss, and there are no validation rows",
        "say another one, such as linear",
    ),
    Condition(
        "dataloader_prefetch_factor",
        _prefetches_alone,
        "nothing is fetched in advance without workers, and the trainer refuses it",
        "say dataloader_num_workers: 1, or remove it",
    ),
    Condition(
        "logging_steps",
        lambda _, train: train["logging_steps"] <= 0 and train.get("logging_strategy", "steps") == "steps",
        "the trainer refuses it",
        "10 is usual",
    ),
    Condition("warmup_steps", lambda _, train: train["warmup_steps"] < 0, "the trainer refuses it", "0 is none"),
    Condition(
        "bf16_full_eval",
        lambda _, train: bool(train["bf16_full_eval"] and train.get("fp16_full_eval")),
        "bf16 and fp16 exclude each other",
        "keep one",
    ),
    Condition(
        "torch_empty_cache_steps",
        lambda _, train: train["torch_empty_cache_steps"] < 1,
        "the trainer refuses it",
        "remove it, or say 1 or more",
    ),
)
