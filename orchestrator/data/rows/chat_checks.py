"""The fields of a conversation are checked and become a chat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.data.rows.records import Chat, Message
from orchestrator.data.rows.texts import build_fault, find_surrogate, is_blank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.data.reasons import Fault
    from orchestrator.data.rows.field_readers import Fields


def check_chat(fields: Fields, source: str, line: int) -> Chat | Fault:
    """Return the conversation, or its first fault."""
    turns: list[tuple[str, str]] = fields.values["messages"]
    names: list[str] = fields.values["names"]
    for (_, content), name in zip(turns, names, strict=True):
        if not isinstance(content, str):  # only of rows without messages: their one answer
            return build_fault("wrong-type", f"{name} is no string", "write one string")
    if fault := _check_order([role for role, _ in turns], names):
        return fault
    if fault := find_surrogate((name, content) for (_, content), name in zip(turns, names, strict=True)):
        return fault
    if fault := _check_present(turns, names):
        return fault
    return Chat(tuple(Message(role, content) for role, content in turns), source, line)


def _check_order(roles: Sequence[str], names: Sequence[str]) -> Fault | None:
    """Refuse all but a system message or none, then user and assistant in turn up to an assistant."""
    start = 1 if roles and roles[0] == "system" else 0
    for place in range(start, len(roles)):
        wanted = ("user", "assistant")[(place - start) % 2]
        if roles[place] != wanted:
            message = f"{names[place]} is of the role {roles[place]}, where {wanted} should speak"
            return build_fault("broken-turns", message)
    if not roles or roles[-1] != "assistant":
        last = f"{names[-1]} is of the role {roles[-1]}" if roles else "there are no messages"
        return build_fault("no-answer", f"the conversation does not end with the assistant: {last}")
    return None


def _check_present(turns: Sequence[tuple[str, str]], names: Sequence[str]) -> Fault | None:
    last = len(turns) - 1
    first_user = next(place for place, (role, _) in enumerate(turns) if role == "user")
    for place, (role, content) in enumerate(turns):
        if role == "system" or not is_blank(content):
            continue
        code = "empty-answer" if place == last else "empty-query" if place == first_user else "empty-text"
        return build_fault(code, f"{names[place]} is empty or white space")
    return None
