"""Messages of any tool: who says what, and the marks by which data says what of a conversation is learnt."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.data.rows.texts import bad_row, is_finite_number, name_type, quote, require_type

# However written: OpenAI's newer models call the system developer, Gemini calls the assistant model.
ROLES = {
    **dict.fromkeys(("system", "developer", "系统"), "system"),
    **dict.fromkeys(("user", "human", "用户"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "助手"), "assistant"),
}
_TOOL_ROLES = frozenset({
    *("tool", "function", "tool_call", "tool_response", "function_call", "function_response"),
    *("observation", "observations", "developer_tool"),
})  # fmt: skip
_MESSAGE = 'write {"role": "user", "content": "…"}'
# ms-swift and XTuner (loss, loss_scale), OpenAI and Mistral (weight), LLaMA-Factory (loss_weight), axolotl (train,
# training), slime (step_loss_mask), torchtune (masked, the other way round).
_LEARNT = ("loss", "loss_scale", "weight", "loss_weight", "train", "training", "trainable", "step_loss_mask")
_MASKED = ("masked",)
# Some tools learn what is masked with 1, others leave it out; axolotl's details are ranges of characters.
_UNCLEAR = ("mask", "loss_mask", "train_detail", "training_detail")
MARK_KEYS = frozenset({*_LEARNT, *_MASKED, *_UNCLEAR})
_PLAIN = frozenset({"role", "content", "from", "value"})
# Any other name of this sort, beside true, false or a number, is a mark as well, in words that nobody here knows.
_SPEAKS = re.compile(
    "loss|learn|train|mask|weight|supervis|ignore|exclude|skip|^(is_)?(label|target)$|训练|学习|损失|掩码|权重|忽略|跳过",
    re.IGNORECASE,
)
# At the row, false says that its answer is not wanted (TRL and ms-swift: label, LLaMA-Factory: kto_tag) or is not for
# training; of a prompt or question it says what is done anyway.
_UNWANTED = re.compile("^(label|kto_tag|(is_)?(desirable|good|valid))$|train|learn|训练|学习", re.IGNORECASE)
_OF_QUESTIONS = re.compile("prompt|input|question|history|user", re.IGNORECASE)
_LEFT_OUT = frozenset({"ignore", "ignored", "exclude", "excluded", "skip", "skipped", "deleted", "discarded", "忽略"})
_ROW_WEIGHTS = frozenset({"sample_weight", "example_weight", "row_weight", "instance_weight"})
_MESSAGE_KEYS = _PLAIN | MARK_KEYS
_CONVERSATIONS = frozenset({"messages", "conversations", "positive_messages", "negative_messages"})


def read_mark(message: Mapping[str, Any], role: str, name: str) -> bool | None:
    """Return whether a message is learnt as its marks say, None where it has none.

    Raises BadRowError where they cannot be obeyed.
    """
    found: dict[str, bool] = {}
    for key in message.keys() - _PLAIN:
        value = message[key]
        if value is None or not (key in MARK_KEYS or _speaks(key, value)):
            continue
        said = _read(key, value)
        if said is None:
            raise bad_row("loss-mark", f"{name} has {quote(key)}: {_show(value)}, {_explain(key)}")
        found[key] = said
    if len(set(found.values())) > 1:
        keys = " and ".join(quote(key) for key in sorted(found))
        raise bad_row("loss-mark", f"{name} has {keys}, and one of them says the opposite of the other")
    if not found:
        return None
    [learnt] = set(found.values())
    if learnt and role != "assistant":
        key = quote(min(found))
        raise bad_row("loss-mark", f"{name} is marked as to be learnt by {key}, and answers alone are learnt")
    return learnt


def require_no_row_mark(row: Mapping[str, Any]) -> None:
    """Raise BadRowError for a mark that stands at the row, outside its messages, and says anything but "learn"."""
    for key, value in row.items():
        if key in MARK_KEYS and isinstance(value, bool | int | float | list) and value != []:
            if _read(key, value) is not True:
                message = f"the row itself has {quote(key)}: {_show(value)}, and marks are obeyed in messages only"
                raise bad_row("loss-mark", message)
        elif _is_unwanted(key, value):
            message = f"the row itself has {quote(key)}: {_show(value)}, as if it were not to be learnt as it stands"
            hint = f"leave such rows out; data.ignore: [{key}] (--ignore {key}) trains on all of them alike"
            raise bad_row("loss-mark", message, hint)


def _is_unwanted(key: str, value: Any) -> bool:
    """Whether a key of a row, no known mark, says that the row is not to be learnt, or not as others are."""
    if value is False:
        return bool(_UNWANTED.search(key)) and not _OF_QUESTIONS.search(key)
    if value is True:
        return key.lower() in _LEFT_OUT
    return key.lower() in _ROW_WEIGHTS and is_finite_number(value) and value != 1


def names_mark(key: str) -> bool:
    """Whether a key of a conversation may be a mark, by its name."""
    lower = key.lower()
    return bool(
        key in MARK_KEYS or _SPEAKS.search(key) or _UNWANTED.search(key) or lower in _LEFT_OUT or lower in _ROW_WEIGHTS
    )


def leave_out_marks(row: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return the row without marks of these names, at the row and in lists of messages."""
    kept = {key: value for key, value in row.items() if key not in keys}
    for name in _CONVERSATIONS & kept.keys():
        if isinstance(kept[name], list):
            kept[name] = [
                {key: value for key, value in one.items() if key not in keys} if isinstance(one, dict) else one
                for one in kept[name]
            ]
    return kept


def _speaks(key: str, value: Any) -> bool:
    """Whether a key, no known mark, beside such a value is one; a number as label or target is a class."""
    if not _SPEAKS.search(key):
        return False
    return isinstance(value, bool if key.lower().endswith(("label", "target")) else bool | int | float)


def _read(key: str, value: Any) -> bool | None:
    """Return whether a mark says "learn", or None where it is none of true, false, 1 and 0."""
    says = isinstance(value, bool) or (is_finite_number(value) and value in {0, 1})
    return bool(value) is (key in _LEARNT) if says and key in (*_LEARNT, *_MASKED) else None


def _show(value: Any) -> str:
    return (
        f"{value:g}" if is_finite_number(value) else str(value).lower() if isinstance(value, bool) else name_type(value)
    )


def _explain(key: str) -> str:
    if key not in (*_LEARNT, *_MASKED):
        return "which does not say whether a whole message is learnt or left out"
    return "and a message is learnt or is not"


# Messages and conversations


@dataclass(frozen=True)
class Messages:
    """The (role, content) of each message, whether it is learnt (None: it has no mark), and keys that nothing reads."""

    turns: list[tuple[str, str]]
    learnt: list[bool | None]
    unknown: tuple[str, ...] = ()


def read_messages(value: Any, name: str) -> Messages:
    """Return the messages of swift's or ShareGPT's form. Raises BadRowError for the first that is none."""
    require_type(value, list, f'"{name}"', 'write [{"role": "user", "content": "…"}, …]', "a list of messages")
    found = Messages([], [])
    unknown: dict[str, None] = {}
    for place, item in enumerate(value):
        shown = f'"{name}"[{place}]'
        turn = _read_message(item, shown)
        found.turns.append(turn)
        found.learnt.append(read_mark(item, turn[0], shown))
        unknown |= {f"messages[].{key}": None for key in item if key not in _MESSAGE_KEYS and item[key] is not None}
    return replace(found, unknown=tuple(unknown))


def _read_message(item: Any, name: str) -> tuple[str, str]:
    require_type(item, dict, name, 'write {"role": …, "content": …}', "a message")
    role_key = "role" if "role" in item else "from"
    content_key = "content" if "content" in item else "value"
    role = item.get(role_key)
    if role is None:
        raise bad_row("missing-key", f'{name} has no "role"', _MESSAGE)
    require_type(role, str, f"the role of {name}")
    plain = role.lower().strip()
    if plain.replace("-", "_") in _TOOL_ROLES or item.get("tool_calls") or item.get("function_call"):
        raise bad_row("not-text", f"{name} is a tool message")
    if plain not in ROLES:
        known = ", ".join(ROLES)
        raise bad_row("unknown-role", f"{name} is from {quote(role)}", f"the known names are {known}")
    if content_key not in item:
        raise bad_row("missing-key", f'{name} has no "content"', _MESSAGE)
    return ROLES[plain], _read_content(item[content_key], name)


def _read_content(content: Any, name: str) -> str:
    if isinstance(content, str):
        return content
    require_type(content, list, f"the content of {name}")
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            what = quote(str(part.get("type"))) if isinstance(part, dict) else name_type(part)
            raise bad_row("not-text", f"the content of {name} has a part that is no text: {what}")
    return "".join(part["text"] for part in content)


def read_anchor(messages: Any) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the anchor's text, its system message or None, and keys that nothing reads."""
    if isinstance(messages, str):
        return messages, None, ()
    found = read_messages(messages, "messages")
    _require_no_mask(found, "messages")
    roles = [role for role, _ in found.turns]
    if roles not in (["user"], ["system", "user"]):
        message = f'"messages" holds {", ".join(roles) or "nothing"}, and a query is one user message'
        raise bad_row("broken-turns", message, "keep one user message, with a system message before it or none")
    return found.turns[-1][1], found.turns[0][1] if len(roles) > 1 else None, found.unknown


def read_documents(value: Any, name: str) -> list[str]:
    """Return the texts of a list whose elements are lists of one message, bare messages or plain texts."""
    if value is None or value == "":
        return []
    require_type(value, list, f'"{name}"', f'write "{name}": [[…], …]', "a list")
    texts: list[str] = []
    for place, item in enumerate(value):
        if isinstance(item, str):
            texts.append(item)
            continue
        found = read_messages(item if isinstance(item, list) else [item], f"{name}[{place}]")
        _require_no_mask(found, name)
        if len(found.turns) != 1:
            message = f'"{name}"[{place}] holds {len(found.turns)} messages, and a document is one'
            raise bad_row("broken-turns", message, "write one message a document")
        texts.append(found.turns[0][1])
    return texts


def _require_no_mask(found: Messages, name: str) -> None:
    """Raise for a text that is not to be learnt where no trainer has a mask: in a query or document."""
    if False in found.learnt:
        message = f'"{name}" holds a message that is marked as not to be learnt, and only conversations have such'
        raise bad_row("loss-mark", message, "remove the mark, or the row")


def read_history(value: Any) -> list[tuple[str, str]]:
    """Return the turns of [[question, answer], …]. Raises BadRowError."""
    turns: list[tuple[str, str]] = []
    for pair in value if isinstance(value, list) else [] if value in (None, "") else [None]:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):  # noqa: PLR2004 - question and answer
            raise bad_row("wrong-type", '"history" is not a list of pairs', 'write [["question", "answer"], …]')
        turns += [("user", pair[0]), ("assistant", pair[1])]
    return turns
