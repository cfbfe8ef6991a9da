"""How a model that ms-swift trains must be scored: the same prompt, pooling, length and tokens as in its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.backends.protocol import Job
from orchestrator.backends.swift_models import SwiftModel
from orchestrator.recipe.schema import Loss

GENERATIVE = "generative_reranker"
SCORE_HEAD = "reranker"
# What decides how ms-swift turns a conversation into tokens and which of them have a loss.
_TEMPLATE_ARGUMENTS = (
    "add_non_thinking_prefix",
    "agent_template",
    "disable_ignore_empty_think",
    "enable_thinking",
    "loss_scale",
    "preserve_thinking",
    "use_chat_template",
)
TASK_TYPES = {"embedding": ("embedding",), "reranker": (GENERATIVE, SCORE_HEAD), "sft": ("causal_lm",)}


def find_task_type(job: Job, arguments: Mapping[str, Any]) -> str:
    """Return ms-swift's task type: the recipe's task, and for a reranker what it gives, or Qwen3's own yes and no."""
    known = TASK_TYPES[job.recipe.task]
    asked = arguments.get("task_type")
    return str(asked) if asked in known else known[0]


def query_prompt(instruction: str | None) -> str:
    """Return what stands in front of a query: Qwen3-Embedding's form, inline, and without a blank behind the colon."""
    return f"Instruct: {instruction}\nQuery:" if instruction else ""


def build_scoring(
    job: Job, named: SwiftModel, values: Mapping[str, Any], loss: Loss | None, task_type: str
) -> dict[str, Any]:
    """Return the scoring spec of the trained format, without what the plan adds (name, label, dtype, batch size)."""
    tool = {
        "tool": "swift",
        "model_type": named.model_type,
        "template": named.template,
        "task_type": task_type,
        "max_length": int(values["max_length"]),
    }
    instruction = job.recipe.data.instruction
    if job.recipe.task == "embedding":
        sizes = sorted(loss.mrl_dims, reverse=True) if loss and loss.mrl_dims else None
        return {
            "scorer": "embedding",
            **tool,
            "query_prompt": query_prompt(instruction),
            "document_prompt": "",
            "pooling": "lasttoken",
            "normalize": True,
            "truncate_dim": None,
            "mrl_dims": sizes,
        }
    if job.recipe.task == "reranker":
        scorer = "qwen3-native" if task_type == GENERATIVE else "qwen3-score-head"
        return {"scorer": scorer, **tool, "instruction": instruction}
    evaluate = job.recipe.evaluate
    return {
        "scorer": "chat",
        **tool,
        "system": values.get("system"),
        "template_args": {name: values[name] for name in _TEMPLATE_ARGUMENTS if name in values},
        "max_new_tokens": 16 if job.smoke else evaluate.max_new_tokens,
        "generate": evaluate.generate,
    }
