"""Read the conversations of a chat eval file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError

Message = dict[str, str]


@dataclass(frozen=True)
class ChatRow:
    """One conversation up to the answer that is wanted, and that answer."""

    id: str
    messages: list[Message]
    reference: str

    @property
    def several_turns(self) -> bool:
        """Whether an answer comes before the one that is wanted."""
        return any(message["role"] == "assistant" for message in self.messages)


def parse_messages(value: Any) -> list[Message] | None:
    """Return the messages with role and content only, or None where they are not a conversation."""
    if not isinstance(value, list) or not value:
        return None
    messages = []
    for message in value:
        if not isinstance(message, dict):
            return None
        role, content = message.get("role"), message.get("content")
        if role not in {"system", "user", "assistant"} or not isinstance(content, str):
            return None
        messages.append({"role": role, "content": content})
    return messages


def parse_row(line: str) -> ChatRow | None:
    """Return the row, or None for a line that is no chat row."""
    try:
        raw = json.loads(line)
    except ValueError:
        return None
    messages = parse_messages(raw.get("messages")) if isinstance(raw, dict) else None
    if messages is None or not isinstance(raw.get("reference"), str) or "id" not in raw:
        return None
    return ChatRow(str(raw["id"]), messages, raw["reference"])


def read_chat_rows(path: Path) -> list[ChatRow]:
    """Return the rows of a chat eval file. Raises WorkerError for a file without any, or with another line in it."""
    rows = []
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            row = parse_row(line)
            if row is None:
                raise WorkerError(f'{path}:{number}: not {{"id": …, "messages": […], "reference": …}}, a chat row')
            rows.append(row)
    if not rows:
        raise WorkerError(f"{path} holds no rows: there is nothing to score")
    return rows
