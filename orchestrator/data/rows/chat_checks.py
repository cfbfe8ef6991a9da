"""The fields of a conversation are checked and become a chat."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.data.reasons import Fault
from orchestrator.data.rows.field_readers import Fields
from orchestrator.data.rows.records import Chat, Message, join_question
from orchestrator.data.rows.texts import build_fault, find_surrogate, is_blank


def check_chat(fields: Fields, source: str, line: int) -> tuple[Chat, int] | Fault:
    """Return the conversation up to the last answer that is learnt, and how many turns came after it; or its fault.

    What follows the last learnt answer has no part in any loss; ms-swift would learn the end of the last turn though,
    whatever its mark says (swift/loss_scale/base.py: marks are for the response, not for the suffix behind it).
    """
    turns: list[tuple[str, str]] = fields.values["messages"]
    names: list[str] = fields.values["names"]
    learnt: list[bool | None] = fields.values["learnt"]
    for (_, content), name in zip(turns, names, strict=True):
        if not isinstance(content, str):  # only of rows without messages: their one answer
            return build_fault("wrong-type", f"{name} is no string", "write one string")
    if fault := _check_order([role for role, _ in turns], names):
        return fault
    last = _find_last_learnt(fields)
    left_out = len(turns) - 1 - last if last >= 0 else 0
    if left_out:
        turns, names = turns[: last + 1], names[: last + 1]
    if fault := find_surrogate((name, content) for (_, content), name in zip(turns, names, strict=True)):
        return fault
    if fault := _check_present(turns, names):
        return fault
    marks = (mark if role == "assistant" else None for (role, _), mark in zip(turns, learnt, strict=False))
    messages = (Message(role, content, mark) for (role, content), mark in zip(turns, marks, strict=True))
    return Chat(tuple(messages), source, line), left_out


def find_question(fields: Fields) -> str:
    """Return what comes before the last answer that is learnt, "" where nobody asks anything."""
    turns: list[tuple[str, str]] = fields.values["messages"]
    last = _find_last_learnt(fields)
    asked = turns[:last] if last >= 0 else turns
    return join_question(asked) if any(role == "user" and not is_blank(content) for role, content in asked) else ""


def _find_last_learnt(fields: Fields) -> int:
    """Return the place of the last answer that is learnt, -1 where none is."""
    turns, learnt = fields.values["messages"], fields.values["learnt"]
    return max(
        (at for at, (role, _) in enumerate(turns) if role == "assistant" and learnt[at] is not False), default=-1
    )


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
        hint = None if not roles or "assistant" in roles else "add the answer that is to be learnt, as the last message"
        return build_fault("no-answer", f"the conversation does not end with the assistant: {last}", hint)
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
