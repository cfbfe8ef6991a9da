"""`loss:` of a recipe → the environment variables that ms-swift reads and records nowhere.

Sources: swift/loss/embedding.py, swift/loss/reranker.py and the collators of swift/template/base.py, ms-swift 4.6.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.arguments import load_arguments
from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem
from orchestrator.recipe.losses import list_losses, list_script_names, list_settings, list_variables
from orchestrator.recipe.plan import Note
from orchestrator.recipe.schema import Loss

# What GENERATIVE_RERANKER_*_TOKEN say: Qwen3-Reranker's own answers, on which its package is built.
ANSWERS = {"GENERATIVE_RERANKER_POSITIVE_TOKEN": "yes", "GENERATIVE_RERANKER_NEGATIVE_TOKEN": "no"}
_LOSSES_OF_LLMS = ("cross_entropy", "loss_scale", "channel_loss")  # 4.6 has the first, 3.6 the others
_SHOWN = "shown, because ms-swift records it nowhere"
_FITS = "positives only: infonce; labels 0 and 1: contrastive or online_contrastive; scores: cosine_similarity"


def loss_environment(loss: Loss | None, *, generative: bool) -> dict[str, str]:
    """Return every environment variable that decides the loss; none is left to ms-swift's own default."""
    env = dict(ANSWERS) if generative else {}
    for name, setting in loss.facts.settings.items() if loss else ():
        given = getattr(loss, name)
        value = setting.default if given is None else given
        if setting.variable and value is not None:
            env[setting.variable] = str(value).lower() if isinstance(value, bool) else str(value)
    return env


def explain_environment(loss: Loss | None, env: Mapping[str, str]) -> tuple[Note, ...]:
    """Return where each variable of `loss_environment` comes from, for `orch render --explain`."""
    settings = loss.facts.settings if loss else {}
    names = {setting.variable: name for name, setting in settings.items()}
    notes = []
    for variable, value in env.items():
        name = names.get(variable)
        given = name is not None and getattr(loss, name) is not None
        origin, why = ("recipe", f"loss.{name}") if given else ("default", _SHOWN)
        notes.append(Note("train", variable, value, origin, why))
    return tuple(notes)


def prepare_flags(loss: Loss | None) -> dict[str, Any]:
    """Return what the prepare stage needs to refuse rows that the loss would take wrongly."""
    if loss is None:
        return {}
    flags: dict[str, Any] = {"loss": loss.type}
    if loss.use_batch is False:
        flags["no-in-batch-negatives"] = True
    if loss.hard_negatives:
        flags["hard-negatives"] = loss.hard_negatives
    for name in ("max_positives", "max_negatives"):
        if setting := loss.facts.settings.get(name):
            flags[name.replace("_", "-")] = getattr(loss, name) or setting.default
    return flags


def shrink_sizes(loss: Loss, hidden_size: int) -> Loss:
    """Return the loss with as many Matryoshka sizes as fit a small model: its own, half of it, and so on."""
    if not loss.mrl_dims:
        return loss
    weights = [weight for _, weight in sorted(loss.mrl_dims.items(), reverse=True)]
    sizes = {hidden_size >> place: weight for place, weight in enumerate(weights) if hidden_size >> place}
    return loss.model_copy(update={"mrl_dims": sizes})


def check_loss(job: Job) -> Iterator[Found]:
    """Yield what is wrong with the loss: its type for this task, its fields, Matryoshka's sizes, twice the same."""
    task, train = job.recipe.task, job.recipe.train
    loss = job.loss
    if "loss_type" in train:
        old = str(train["loss_type"])
        if job.recipe.loss is not None:
            yield ("train", "loss_type"), Problem("the loss is given twice", "keep `loss:`")
        elif task == "sft" and old not in _of_llms(job):
            message = f"loss_type {old!r}: an LLM learns the next token here, and ms-swift has no such loss for it"
            yield ("train", "loss_type"), Problem(message, "remove it; loss_scale weighs tokens")
        elif task != "sft" and old not in list_script_names(job.recipe.backend):
            known = ", ".join(list_script_names(job.recipe.backend, task))
            yield ("train", "loss_type"), Problem(f"unknown loss_type {old!r}", f"one of {known}")
    yield from _check_environment(job)
    if loss is None:
        if task == "embedding":
            yield ("task",), Problem("an embedding model needs a loss", f"say `loss: infonce`. {_FITS}")
        return
    if loss.type not in (own := list_losses(job.recipe.backend, task)):
        known = ", ".join(own)
        hint = f"one of {known}" if known else "remove it: an LLM learns the next token"
        yield ("loss",), Problem(f"the loss {loss.type} is not for task: {task}", hint)
        return
    yield from _check_fields(loss)
    yield from _check_sizes(loss, job.model.hidden_size)


def _of_llms(job: Job) -> tuple[str, ...]:
    """Return the losses of the next token that the installed version has under a name of their own."""
    known = load_arguments("swift", job.versions)["loss_type"].choices or ()
    return tuple(name for name in _LOSSES_OF_LLMS if name in known)


def _check_fields(loss: Loss) -> Iterator[Found]:
    allowed = {"type", *list_settings(loss.type)}
    for field in sorted(loss.model_fields_set - allowed):
        if getattr(loss, field) is not None:
            others = ", ".join(sorted(allowed - {"type"})) or "none"
            yield ("loss", field), Problem(f"{loss.type} has no {field}", f"its settings: {others}")
    if loss.use_batch is False:
        for field in ("include_qq", "include_dd", "mask_fake_negative"):
            if getattr(loss, field):
                message = f"{field} is about the batch's other texts, and use_batch is off"
                yield ("loss", field), Problem(message, "remove one of the two")


def _check_sizes(loss: Loss, hidden_size: int | None) -> Iterator[Found]:
    for size, weight in (loss.mrl_dims or {}).items():
        if size < 1 or weight <= 0:
            yield ("loss", "mrl_dims"), Problem(f"mrl_dims: {size} with weight {weight}", "both must be above 0")
        elif hidden_size is not None and size > hidden_size:
            message = f"mrl_dims asks for {size} numbers, and the model's vectors have {hidden_size}"
            yield ("loss", "mrl_dims"), Problem(message, f"sizes up to {hidden_size}, such as {hidden_size // 2}")


def _check_environment(job: Job) -> Iterator[Found]:
    settings = list_variables(job.recipe.backend)
    for variable in job.recipe.launch.env:
        if variable in settings:
            message = f"{variable} is a setting of the loss"
            yield ("launch", "env", variable), Problem(message, f"say it as loss.{settings[variable]}")
        elif variable in ANSWERS:
            yield ("launch", "env", variable), Problem(f"{variable} is set by Orch", "remove it")
