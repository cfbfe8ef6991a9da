"""Read a chat scoring spec: everything that decides how one model answers a conversation, and how that is measured."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring_spec import DTYPES, load_raw_spec

SCORER = "chat"
# what decides the ids and labels of a conversation in ms-swift besides template and system, under its own names
# (swift/arguments/base_args/template_args.py), with their defaults
TEMPLATE_ARGUMENTS: dict[str, Any] = {
    "add_non_thinking_prefix": True,
    "agent_template": None,
    "disable_ignore_empty_think": False,
    "enable_thinking": None,
    "loss_scale": "default",
    "preserve_thinking": None,
    "use_chat_template": True,
}


@dataclass(frozen=True)
class ChatSpec:
    """How conversations are scored; lengths are in tokens.

    `system` is for conversations without a system message. `generate` says for how many rows, the first ones, the model
    also writes its own answer. `tool` swift and `template` name the format of training, `template_args` what of it the
    training changed; without `tool` the model's own chat template is the format.
    """

    scorer: str = SCORER
    name: str = ""
    label: str = ""
    dtype: str = "float32"
    trust_remote_code: bool = False
    batch_size: int = 8
    max_length: int = 2048
    system: str | None = None
    max_new_tokens: int = 256
    generate: int = 0
    tool: str | None = None
    model_type: str | None = None
    task_type: str | None = None
    template: str | None = None
    template_args: dict[str, Any] = field(default_factory=dict)
    version: int = 1


def parse_chat_spec(raw: dict[str, Any], origin: str) -> ChatSpec:
    """Return the spec; keys that are not its own are for other readers. Raises WorkerError, every problem a line."""
    if raw.get("scorer") != SCORER:
        raise WorkerError(f"{origin}: scorer is {raw.get('scorer')!r}, where chat is wanted")
    if raw.get("version", 1) != 1:
        raise WorkerError(f"{origin}: version {raw['version']} of the scoring spec is not known to this worker")
    known = {one.name for one in fields(ChatSpec)}
    spec = ChatSpec(**{key: value for key, value in raw.items() if key in known})
    problems = list(find_problems(spec))
    if problems:
        raise WorkerError(*(f"{origin}: {problem}" for problem in problems))
    return spec


def find_problems(spec: ChatSpec) -> list[str]:
    """Return one line for each value that is not possible."""
    problems = []
    if spec.dtype not in DTYPES:
        problems.append(f"dtype is {spec.dtype!r}; known are {', '.join(DTYPES)}")
    for name, least in (("batch_size", 1), ("max_length", 2), ("max_new_tokens", 1), ("generate", 0)):
        value = getattr(spec, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            problems.append(f"{name} is {value!r}; it is a whole number of at least {least}")
    if spec.system is not None and not isinstance(spec.system, str):
        problems.append(f"system is {spec.system!r}; it is a text or null")
    if spec.tool not in {None, "swift"}:
        problems.append(f"tool is {spec.tool!r}; known is swift, or leave it out for the model's own chat template")
    if spec.tool == "swift" and not spec.template:
        problems.append("template is missing: name ms-swift's template that the model is trained with, such as qwen3")
    if not isinstance(spec.template_args, dict):
        problems.append(f"template_args is {spec.template_args!r}; it is an object")
    else:
        unknown = sorted(set(spec.template_args) - set(TEMPLATE_ARGUMENTS))
        if unknown:
            problems.append(
                f"template_args has {', '.join(map(repr, unknown))}; known are {', '.join(TEMPLATE_ARGUMENTS)}"
            )
    return problems


def load_chat_spec(path: Path) -> ChatSpec:
    """Return the spec in a JSON file. Raises WorkerError when it cannot be read."""
    return parse_chat_spec(load_raw_spec(path), str(path))
