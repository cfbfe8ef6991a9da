"""Whether the lengths that a job trains with are ones that the model was made for, by its config.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.backends.models import load_config
from orchestrator.backends.protocol import Job
from orchestrator.checks.tensor_names import read_text_config
from orchestrator.checks.train_values import read_train_values
from orchestrator.errors import Problem
from orchestrator.recipe.plan import Plan

# RoBERTa's family numbers its positions from pad_token_id + 1 (create_position_ids_from_input_ids).
_OFFSET_FAMILIES = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text"}
)
# Their positions are distances between tokens, whatever the config says (modeling_t5.py: compute_bias).
_RELATIVE_FAMILIES = frozenset({"t5", "mt5", "umt5", "longt5", "funnel"})
_PLAIN_ROPE = frozenset({None, "default"})


def check_lengths(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield the lengths beyond the last position that the model, or the teacher, knows."""
    if job.smoke:
        return
    length, names = find_longest(job, plan)
    stretched = "rope_scaling" in read_train_values(plan)  # ms-swift puts it in the place of the config's
    if job.model.folder is not None and length is not None and not stretched:
        yield from _check(length, names, load_config(job.model.folder), job.model.name)
    teacher = job.recipe.teacher
    if teacher is not None and job.teacher is not None and job.teacher.folder is not None:
        yield from _check(teacher.max_length, "teacher.max_length", load_config(job.teacher.folder), job.teacher.name)


def find_longest(job: Job, plan: Plan) -> tuple[int | None, str]:
    """Return how many tokens the trainer reads at most, and the arguments that say so."""
    values, names = read_train_values(plan), job.backend.lengths
    found = [values.get(name, "") for name in names]
    known = all(value.isdigit() for value in found)
    return (sum(map(int, found)) if known else None), " + ".join(f"train.{name}" for name in names)


def find_positions(config: dict[str, Any]) -> int | None:
    """Return how many tokens a text may have; None where the config sets no end, or stretches it."""
    text = read_text_config(config)
    positions = text.get("max_position_embeddings") or text.get("n_positions")
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else None
    relative = (
        text.get("position_embedding_type") == "alibi"
        or text.get("position_biased_input") is False
        or text.get("model_type") in _RELATIVE_FAMILIES
    )
    if not isinstance(positions, int) or positions < 1 or relative or not _is_plain(rope, kind):
        return None
    if text.get("model_type") in _OFFSET_FAMILIES:
        padding = text.get("pad_token_id", 1)
        return positions - (padding if isinstance(padding, int) else 1) - 1
    return positions


def _is_plain(rope: Any, kind: Any) -> bool:
    """Tell whether the positions are those of the config; Gemma gives each kind of layer its own rope_parameters."""
    if isinstance(rope, dict) and any(isinstance(value, dict) for value in rope.values()):
        return all(value.get("rope_type") in _PLAIN_ROPE for value in rope.values() if isinstance(value, dict))
    return kind in _PLAIN_ROPE


def _check(length: int, names: str, config: dict[str, Any], model: str) -> Iterator[Problem]:
    positions = find_positions(config)
    if positions is not None and length > positions:
        message = f"{names} is {length}, and {model} reads {positions} tokens at most"
        yield Problem(message, f"give at most {positions}: longer texts end in an index error, or in noise")
