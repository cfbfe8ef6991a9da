"""`loss:` of a recipe → the environment variables that ms-swift reads and records nowhere.

Sources: swift/loss/embedding.py, swift/loss/reranker.py and the collators of swift/template/base.py, ms-swift 4.6.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.arguments import load_arguments
from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem
from orchestrator.recipe.losses import OLD_LOSS_TYPES, choose_loss
from orchestrator.recipe.plan import Note
from orchestrator.recipe.schema import Loss

# loss: {field: (environment variable, the value that is rendered when the recipe gives none)}
_INFONCE: dict[str, tuple[str, Any]] = {
    "temperature": ("INFONCE_TEMPERATURE", 0.1),  # 0.01 before 3.12: never left to the version
    "use_batch": ("INFONCE_USE_BATCH", True),
    "hard_negatives": ("INFONCE_HARD_NEGATIVES", None),  # unset means all; int('None') would be its value
    "mask_fake_negative": ("INFONCE_MASK_FAKE_NEGATIVE", False),
    "fake_neg_margin": ("INFONCE_FAKE_NEG_MARGIN", 0.1),
    "include_qq": ("INFONCE_INCLUDE_QQ", False),
    "include_dd": ("INFONCE_INCLUDE_DD", False),
}
_SAMPLES: dict[str, tuple[str, Any]] = {
    "max_positives": ("MAX_POSITIVE_SAMPLES", 1),
    "max_negatives": ("MAX_NEGATIVE_SAMPLES", 7),
}
_LISTWISE: dict[str, tuple[str, Any]] = {
    "temperature": ("LISTWISE_RERANKER_TEMPERATURE", 1.0),
    "min_group_size": ("LISTWISE_RERANKER_MIN_GROUP_SIZE", 2),
}
_VARIABLES: dict[str, dict[str, tuple[str, Any]]] = {
    "infonce": _INFONCE,
    "cosine_similarity": {},
    "contrastive": {},
    "online_contrastive": {},
    "pointwise": _SAMPLES,
    "listwise": {**_LISTWISE, **_SAMPLES},
}
# What GENERATIVE_RERANKER_*_TOKEN say: Qwen3-Reranker's own answers, on which its package is built.
_ANSWERS = {"GENERATIVE_RERANKER_POSITIVE_TOKEN": "yes", "GENERATIVE_RERANKER_NEGATIVE_TOKEN": "no"}
_OF_TASK = {
    "embedding": ("infonce", "cosine_similarity", "contrastive", "online_contrastive"),
    "reranker": ("pointwise", "listwise"),
    "sft": (),
}
_LOSSES_OF_LLMS = ("cross_entropy", "loss_scale", "channel_loss")  # 4.6 has the first, 3.6 the others
_FITS = "positives only: infonce; labels 0 and 1: contrastive or online_contrastive; scores: cosine_similarity"


def find_loss(job: Job) -> Loss | None:
    """Return the recipe's loss, from `loss:` or an old script's `loss_type`; pointwise for a reranker without one."""
    return choose_loss("swift", job.recipe.task, job.recipe.loss, job.recipe.train)


def list_settings(loss_type: str) -> list[str]:
    """Return the settings of one of ms-swift's losses; none for another's."""
    sizes = ["mrl_dims"] if loss_type in _OF_TASK["embedding"] else []
    return [*_VARIABLES.get(loss_type, {}), *sizes]


def loss_environment(loss: Loss | None, *, generative: bool) -> dict[str, str]:
    """Return every environment variable that decides the loss; none is left to ms-swift's own default."""
    env = dict(_ANSWERS) if generative else {}
    for field, (variable, default) in _VARIABLES[loss.type].items() if loss else ():
        given = getattr(loss, field)
        value = default if given is None else given
        if value is not None:
            env[variable] = str(value).lower() if isinstance(value, bool) else str(value)
    return env


def explain_environment(loss: Loss | None, env: Mapping[str, str]) -> tuple[Note, ...]:
    """Return where each variable of `loss_environment` comes from, for `orch render --explain`."""
    fields = {variable: field for field, (variable, _) in (_VARIABLES[loss.type] if loss else {}).items()}
    notes = []
    for variable, value in env.items():
        field = fields.get(variable)
        given = field is not None and getattr(loss, field) is not None
        origin, why = (
            ("recipe", f"loss.{field}") if given else ("default", "shown, because ms-swift records it nowhere")
        )
        notes.append(Note("train", variable, value, origin, why))
    return tuple(notes)


def prepare_flags(loss: Loss | None) -> dict[str, Any]:
    """Return what the prepare stage needs to refuse rows that the loss would take wrongly."""
    if loss is None:
        return {}
    flags: dict[str, Any] = {"loss": loss.type}
    if loss.type == "infonce":
        if loss.use_batch is False:
            flags["no-in-batch-negatives"] = True
        if loss.hard_negatives:
            flags["hard-negatives"] = loss.hard_negatives
    if loss.type in _OF_TASK["reranker"]:
        flags["max-positives"] = loss.max_positives or _SAMPLES["max_positives"][1]
        flags["max-negatives"] = loss.max_negatives or _SAMPLES["max_negatives"][1]
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
    loss = find_loss(job)
    if "loss_type" in train:
        old = str(train["loss_type"])
        if job.recipe.loss is not None:
            yield ("train", "loss_type"), Problem("the loss is given twice", "keep `loss:`")
        elif task == "sft" and old not in _of_llms(job):
            message = f"loss_type {old!r}: an LLM learns the next token here, and ms-swift has no such loss for it"
            yield ("train", "loss_type"), Problem(message, "remove it; loss_scale weighs tokens")
        elif task != "sft" and old not in OLD_LOSS_TYPES:
            yield ("train", "loss_type"), Problem(f"unknown loss_type {old!r}", f"one of {', '.join(_old_names(task))}")
    yield from _check_environment(job.recipe.launch.env)
    if loss is None:
        if task == "embedding":
            yield ("task",), Problem("an embedding model needs a loss", f"say `loss: infonce`. {_FITS}")
        return
    if loss.type not in _OF_TASK[task]:
        known = ", ".join(_OF_TASK[task])
        hint = f"one of {known}" if known else "remove it: an LLM learns the next token"
        yield ("loss",), Problem(f"the loss {loss.type} is not for task: {task}", hint)
        return
    yield from _check_fields(loss)
    yield from _check_sizes(loss, job.model.hidden_size)


def _of_llms(job: Job) -> tuple[str, ...]:
    """Return the losses of the next token that the installed version has under a name of their own."""
    known = load_arguments("swift", job.versions)["loss_type"].choices or ()
    return tuple(name for name in _LOSSES_OF_LLMS if name in known)


def _old_names(task: str) -> list[str]:
    return [old for old, new in OLD_LOSS_TYPES.items() if new in _OF_TASK[task]]


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


def _check_environment(env: Mapping[str, str]) -> Iterator[Found]:
    fields = {variable: field for fields in _VARIABLES.values() for field, (variable, _) in fields.items()}
    for variable in env:
        if variable in fields:
            message = f"{variable} is a setting of the loss"
            yield ("launch", "env", variable), Problem(message, f"say it as loss.{fields[variable]}")
        elif variable in _ANSWERS:
            yield ("launch", "env", variable), Problem(f"{variable} is set by Orch", "remove it")
