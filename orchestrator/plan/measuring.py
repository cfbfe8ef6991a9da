"""Which models a run measures, and how each is scored: the baselines, the teacher, and the packaged model."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.backends import scorers
from orchestrator.backends.embeddings import Embedding, read_own
from orchestrator.backends.known_models import refuse_layerwise
from orchestrator.backends.protocol import Job, Training, eval_kind
from orchestrator.errors import Problem, RecipeError
from orchestrator.recipe.plan import Note

TEACHER = "teacher"
# FlagEmbedding/inference/reranker/decoder_only/base.py (1.4.2): FlagLLMReranker's own defaults
_FLAG_LLM_MARKS = {
    "prompt": None, "true_token": "Yes", "query_instruction": "A: ", "passage_instruction": "B: ",
    "query_instruction_format": "{}{}", "passage_instruction_format": "{}{}",
}  # fmt: skip
_PART_LABELS = {
    "sparse": "its sparse weights",
    "colbert": "its ColBERT vectors (its nearest 100)",
    "sum": "the sum of dense, sparse and ColBERT (its nearest 100)",
}
_NATIVES = "one of qwen3-native, cross-encoder, bi-encoder, flag-llm-reranker, qwen3-score-head, reward-model"
_OF_SYSTEM = ("name", "label", "dtype", "trust_remote_code", "batch_size", "base_name")
_TUNED_LABEL = "tuned model, packaged, in the format of its training"


class System(msgspec.Struct, frozen=True):
    """One model as it is scored: its name in the plan, the whole scoring spec, and the stage's title."""

    name: str
    spec: dict[str, Any]
    title: str


class Measured(msgspec.Struct, frozen=True):
    """The untouched model in each format that the recipe asks for, the teacher last; and the tuned one.

    `reference_baseline` is the first baseline of the base model. It is there where the recipe asks for none, too:
    guards are measured before and after. `parts` are the tuned model's other ways of comparing texts.
    """

    baselines: tuple[System, ...]
    packaged: System
    reference_baseline: System
    notes: tuple[Note, ...] = ()
    parts: tuple[System, ...] = ()


def build_measured(job: Job, training: Training) -> Measured:
    """Return what is scored. A base model without a format of its own, or with the training's, has one baseline."""
    native = _packaged_head(job) or _native(job, training)
    same = native is not None and native == training.scoring
    only = "trained-format" if native is None else None
    if same:
        only = "native"
    names = dict.fromkeys(only or asked for asked in job.recipe.evaluate.baselines)
    notes: tuple[Note, ...] = ()
    if native is None and "native" in job.recipe.evaluate.baselines:
        why = "the base model has no way of scoring of its own, or it is the training's"
        notes = (Note("baseline", "native", "trained-format", "orch", why),)
    baselines = [_baseline(job, training, name, native if name == "native" and not same else None) for name in names]
    reference_baseline = baselines[0] if baselines else _baseline(job, training, "trained-format", None)
    teachers = [build_teacher(job)] if job.teacher else []
    if eval_kind(job) == "retrieval":  # every query with every text of the corpus: what a reranker is not made for
        why = "it scores pairs, and the evaluation searches a whole corpus"
        notes += tuple(Note("baseline", TEACHER, "(not measured)", "orch", why) for _ in teachers)
        teachers = []
    packaged = _build_system(job, "packaged", training.scoring, _TUNED_LABEL, _TUNED_LABEL)
    by_parts, tuned_parts = ([], []) if job.kind == "pair" else _list_parts(job, training)
    return Measured((*baselines, *by_parts, *teachers), packaged, reference_baseline, notes, tuple(tuned_parts))


def _list_parts(job: Job, training: Training) -> tuple[list[System], list[System]]:
    """Return how base and tuned model are measured by what they have besides their vector, in the training's format."""
    base, tuned = [], []
    for part in training.parts:
        scoring, what = {**training.scoring, "part": part}, _PART_LABELS[part]
        before, after = f"base model by {what}", f"tuned model by {what}"
        base.append(_build_system(job, part, scoring, before, f"Score the untouched {before}"))
        tuned.append(_build_system(job, f"tuned-{part}", scoring, after, f"Score the {after}"))
    return (base if training.base_has_parts else []), tuned


def build_teacher(job: Job) -> System:
    """Return how the job's teacher scores pairs. Raises RecipeError for one that cannot."""
    spec = find_teacher_spec(job)
    if isinstance(spec, Problem):
        raise RecipeError.from_problems([spec])
    return System(TEACHER, spec, f"Score the teacher {job.teacher.name if job.teacher else TEACHER}")


def find_teacher_spec(job: Job) -> dict[str, Any] | Problem:
    """Return the scoring spec of the job's teacher, or why it has none; the job has a teacher."""
    teacher, said = job.teacher, job.recipe.teacher
    if teacher is None or said is None:
        return Problem("the recipe names no teacher", "say it: teacher: owner/name")
    if teacher.native is None and (why := refuse_layerwise(teacher.name, teacher.architectures)):
        return Problem(why, "choose another teacher, such as BAAI/bge-reranker-v2-gemma")
    if teacher.brings_code and not teacher.trust_remote_code:
        hint = "read it, then say teacher: {path: …, trust_remote_code: true}; or take a teacher without code"
        return Problem(f"the teacher {teacher.name} brings Python code along, and does not load without it", hint)
    spec = scorers.build_scoring(
        teacher,
        dtype=scorers.DTYPES[job.hardware.precision],
        name=TEACHER,
        label=f"teacher: {teacher.name}",
        max_length=said.max_length,
        instruction=said.instruction,
        batch_size=said.batch_size,
    )
    if isinstance(spec, Problem):
        unknown = scorers.load_own_spec(teacher) is None and scorers.find_format(teacher) is None
        in_recipe = f"say it: teacher: {{path: {teacher.name}, native: …}}, {_NATIVES}"
        else_ = (
            "name a whole SentenceTransformer, such as BAAI/bge-m3" if spec.hint == scorers.AS_VECTORS else spec.hint
        )
        return Problem(spec.message, in_recipe if unknown else else_, spec.where)
    return {**spec, **({"base_name": "a tiny random model"} if job.smoke else {})}


def _baseline(job: Job, training: Training, name: str, native: dict[str, Any] | None) -> System:
    scoring = training.scoring if native is None else native
    own = native is not None or (name == "native" and scoring["scorer"] in {"qwen3-native", "flag-llm-reranker"})
    called = scorers.SCORERS.get(scoring["scorer"], {})
    label = called["base"] if own else called.get("trained") or "base model in the format of the training"
    return _build_system(job, name, scoring, label, f"Score the untouched {label}")


def _packaged_head(job: Job) -> dict[str, Any] | None:
    """Return how a packaged LLM with a head says that it is scored; None for any other base model."""
    own = scorers.load_own_spec(job.model) if job.model.score_head and job.model.native is None else None
    return {key: value for key, value in own.items() if key not in _OF_SYSTEM} if isinstance(own, dict) else None


def _native(job: Job, training: Training) -> dict[str, Any] | None:
    """Return how the base model's authors score with it; None where that is unknown, or a cross-encoder's logit."""
    scorer, max_length = training.scoring["scorer"], training.scoring["max_length"]
    if scorer == "chat":
        return training.scoring
    if scorer == "embedding":
        return _native_embedding(job, training)
    native = job.model.native
    if scorer == native == "qwen3-native":
        return training.scoring
    if native is None or native == "cross-encoder":
        return None
    spec: dict[str, Any] = {"scorer": native, "max_length": max_length}
    if native == "flag-llm-reranker":  # with the training's lengths, where that is FlagEmbedding's too
        return (training.scoring if scorer == native else spec) | _FLAG_LLM_MARKS
    if native == "bi-encoder":  # it reads query and document apart, up to its own length
        spec["max_length"] = max(max_length, scorers.BI_ENCODER_TOKENS)
        own = read_own(job.model)
        spec |= own.instructions() if isinstance(own, Embedding) else {}
    if native in {"qwen3-native", "qwen3-score-head"}:
        if not job.backend.length_counts_prompt:
            spec["max_length"] += scorers.QWEN3_PROMPT_TOKENS
        spec["instruction"] = (
            job.recipe.data.instruction or job.recipe.evaluate.instruction or scorers.QWEN3_INSTRUCTION
        )
    return spec


def _native_embedding(job: Job, training: Training) -> dict[str, Any]:
    """Return how the base model's authors embed with it; pairs are compared as they are trained.

    A model whose prompt takes any task is asked the training's.
    """
    prompt, own = training.scoring["query_prompt"], read_own(job.model)
    if job.kind == "pair":
        return training.scoring
    if job.backend.embeds_by and job.model.family == "decoder":
        return training.scoring | ({} if prompt else {"query_prompt": f"Instruct: {scorers.QWEN3_INSTRUCTION}\nQuery:"})
    if not isinstance(own, Embedding):
        return training.scoring
    told = {} if own.takes_task(prompt) else {"query_prompt": own.query, "document_prompt": own.document}
    return training.scoring | told | ({"query_suffix": own.suffix} if "query_suffix" in training.scoring else {})


def _build_system(job: Job, name: str, scoring: dict[str, Any], label: str, title: str) -> System:
    """Return a system whose spec has what every scorer needs to know."""
    spec = {
        "version": 1,
        "name": name,
        "label": label,
        "dtype": scorers.DTYPES[job.hardware.precision],
        "trust_remote_code": job.model.trust_remote_code,
        "batch_size": job.recipe.evaluate.batch_size or scorers.default_batch_size(scoring["scorer"], job.model.family),
        **({"base_name": "a tiny random model"} if job.smoke else {}),
        **scoring,
    }
    return System(name, spec, title)
