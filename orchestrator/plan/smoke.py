"""What `--smoke` makes of a job: few rows and steps, no gates, and tiny random models instead of the real ones."""

from __future__ import annotations

import math
from dataclasses import replace

from orchestrator.backends.models import BaseModel
from orchestrator.backends.protocol import Job, SmokeScale
from orchestrator.plan.draft import Draft
from orchestrator.recipe.schema import Evaluate

_LIKE_TASKS = {"embedding": ("embedding", "qwen3"), "sft": ("chat", "qwen3")}
_LIKE_FAMILIES = {"encoder": ("encoder", "bert"), "decoder": ("decoder", "qwen3")}
TEACHER_SEED = 7  # another one than the student's, or both would be the same random model


def shrink_job(job: Job) -> tuple[Job, SmokeScale]:
    """Return the smoke version of a job: same recipe, stages and templates, on a tiny model with few rows and steps."""
    scale = job.backend.smoke_scale(job)
    train = {name: value for name, value in job.recipe.train.items() if name not in scale.leave_out}
    recipe = job.recipe.model_copy(update={**scale.recipe, "train": train | scale.train, "gate": {}})
    if recipe.evaluate.guard:
        recipe = recipe.model_copy(update={"evaluate": _drop_gates(recipe.evaluate)})
    return replace(job, recipe=recipe, smoke=True), scale


def _drop_gates(evaluate: Evaluate) -> Evaluate:
    guards = {name: guard.model_copy(update={"gate": {}}) for name, guard in evaluate.guard.items()}
    return evaluate.model_copy(update={"guard": guards})


def count_teacher_rows(job: Job, scale: SmokeScale) -> int:
    """Return how many raw rows the teacher scores, so that `prepare` finds its few rows on every side among them.

    Sides are drawn by query, so that a share of few rows varies: twice as many are scored where sides are split off.
    """
    data = job.recipe.data
    held_out, validation = data.eval_ratio or 0.0, data.validation_ratio or 0.0
    if not held_out and not validation:
        return scale.limit_train
    wanted = [scale.limit_train / ((1 - held_out) * (1 - validation))]
    if held_out:
        wanted.append(scale.limit_eval / held_out)
    if validation:
        wanted.append(1 / (validation * (1 - held_out)))
    return 2 * math.ceil(max(wanted))


def add_tiny_model(draft: Draft) -> str:
    """Add the stage that builds the tiny base model from the prepared texts; return its folder."""
    run, like = draft.run, draft.scale.like if draft.scale else None
    like = like or _find_like(draft.job.recipe.task, draft.job.model)
    texts = [run.train_jsonl, run.eval_jsonl, *([run.corpus_jsonl] if draft.searches_corpus else [])]
    title, inputs = "Build a tiny model of the same architecture", [f"data/{path.name}" for path in texts]
    return _add_tiny(draft, "tiny-model", title, like, texts=[str(path) for path in texts], inputs=inputs)


def add_tiny_teacher(draft: Draft, teacher: BaseModel, scorer: str, pairs: str) -> str:
    """Add the stage that builds a tiny model in the teacher's place from the texts it will score; return its folder."""
    embeds = teacher.family == "decoder" and scorer == "embedding"
    like = _LIKE_TASKS["embedding"] if embeds else _find_like("reranker", teacher)
    title = "Build a tiny model of the teacher's architecture"
    return _add_tiny(draft, "tiny-teacher", title, like, texts=[pairs], inputs=[pairs], seed=TEACHER_SEED)


def _add_tiny(
    draft: Draft, kind: str, title: str, like: tuple[str, str], *, texts: list[str], inputs: list[str], seed: int = 0
) -> str:
    out = draft.output(kind)
    values = {"like": like[0], "model_type": like[1], "texts": texts, "out": out, "seed": seed}
    outputs = (f"{out}/config.json",)
    draft.add_worker(kind, title, "orch/tiny_model.j2", values, inputs=tuple(inputs), outputs=outputs)
    return out


def _find_like(task: str, model: BaseModel) -> tuple[str, str]:
    """Return kind and model type of the tiny model in a model's place: a reward model is asked in a chat template."""
    if task == "embedding" and model.family == "encoder":
        return _LIKE_FAMILIES["encoder"]
    chats = task == "reranker" and model.native == "reward-model"
    return _LIKE_TASKS["sft"] if chats else _LIKE_TASKS.get(task) or _LIKE_FAMILIES[model.family]
