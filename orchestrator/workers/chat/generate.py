"""Answer prompts with a packaged chat model as its scoring.json says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.workers.chat.encoding import load_own_format
from orchestrator.workers.chat.model import (
    answer_all,
    choose_pad,
    find_stop_ids,
    load_chat_model,
    load_chat_tokenizer,
)
from orchestrator.workers.chat.rows import Message, parse_messages
from orchestrator.workers.chat.spec import parse_chat_spec
from orchestrator.workers.failure import WorkerError


def read_messages(row: dict[str, Any], number: int) -> list[Message]:
    """Return the conversation of one row, `{"prompt": text}` or `{"messages": […]}`. Raises WorkerError."""
    if isinstance(row.get("prompt"), str):
        return [{"role": "user", "content": row["prompt"]}]
    messages = parse_messages(row.get("messages"))
    if messages is None:
        raise WorkerError(f'row {number} is not {{"prompt": TEXT}} or {{"messages": [{{"role", "content"}}, …]}}')
    if messages[-1]["role"] != "user":
        raise WorkerError(f"row {number}: its last message is the {messages[-1]['role']}'s, where the user's is wanted")
    return messages


def predict(model: Path, raw: dict[str, Any], rows: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """Return `{"answer": text}` for each row, greedy, in the folder's own chat template. Raises WorkerError."""
    spec = parse_chat_spec(raw, str(model / "scoring.json"))
    conversations = [read_messages(row, number) for number, row in enumerate(rows, start=1)]
    if not conversations:
        return []
    tokenizer = load_chat_tokenizer(str(model), trust_remote_code=spec.trust_remote_code)
    chat = load_own_format(tokenizer, spec.system)
    prompts = [chat.encode_prompt(messages)[-spec.max_length :] for messages in conversations]
    loaded = load_chat_model(str(model), spec.dtype, device, trust_remote_code=spec.trust_remote_code)
    answers = answer_all(
        loaded,
        prompts,
        pad=choose_pad(tokenizer),
        stop_ids=find_stop_ids(loaded, tokenizer, chat.stop_id),
        max_new_tokens=spec.max_new_tokens,
        batch_size=spec.batch_size,
    )
    return [{"answer": tokenizer.decode(answer.ids, skip_special_tokens=True)} for answer in answers]
