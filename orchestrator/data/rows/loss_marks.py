"""The marks by which data says what of a conversation is learnt, whoever's they are: yes or no, a message."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.data.rows.texts import bad_row, is_finite_number, name_type, quote

# ms-swift and XTuner (loss, loss_scale), OpenAI and Mistral (weight), LLaMA-Factory (loss_weight), axolotl (train,
# training), slime (step_loss_mask), torchtune (masked, the other way round).
_LEARNT = ("loss", "loss_scale", "weight", "loss_weight", "train", "training", "trainable", "step_loss_mask")
_MASKED = ("masked",)
# Some tools learn what is masked with 1, others leave it out; axolotl's details are ranges of characters.
_UNCLEAR = ("mask", "loss_mask", "train_detail", "training_detail")
MARK_KEYS = frozenset({*_LEARNT, *_MASKED, *_UNCLEAR})
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
_PLAIN = frozenset({"role", "content", "from", "value"})
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
    """Return whether a mark says "learn", or None where it says neither yes nor no."""
    if not is_yes_or_no(value) or key not in (*_LEARNT, *_MASKED):
        return None
    return bool(value) is (key in _LEARNT)


def is_yes_or_no(value: Any) -> bool:
    """Whether a value is true, false, 1 or 0."""
    return isinstance(value, bool) or (is_finite_number(value) and value in {0, 1})


def _show(value: Any) -> str:
    return (
        f"{value:g}" if is_finite_number(value) else str(value).lower() if isinstance(value, bool) else name_type(value)
    )


def _explain(key: str) -> str:
    if key not in (*_LEARNT, *_MASKED):
        return "which does not say whether a whole message is learnt or left out"
    return "and a message is learnt or is not"
