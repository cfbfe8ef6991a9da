"""The conversations that a packaged chat model is verified on: some of the run's own, and some built to be awkward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.workers.eval_files import ChatRow, Message

MAX_FROM_DATA = 16
# a longer probe would cost more than it shows
LONGEST_CHARS = 4000


@dataclass(frozen=True)
class ChatProbe:
    """One conversation, the answer to it, and where it comes from: `data`, `turns` (several of them) or `built`."""

    messages: list[Message]
    answer: str
    origin: str


def speak(role: str, content: str) -> Message:
    """Return one message."""
    return {"role": role, "content": content}


BUILT: tuple[ChatProbe, ...] = (
    ChatProbe([speak("user", "What is the capital of France?")], "Paris.", "built"),
    ChatProbe([speak("user", "中国的首都是哪里？")], "北京是中国的首都。", "built"),
    ChatProbe(
        [speak("system", "You answer in one word."), speak("user", "How many legs has a spider?")], "Eight", "built"
    ),
    ChatProbe([speak("user", "emoji 👩‍🔬🚀?\n\nTwo of them.")], "🙂 yes", "built"),
    ChatProbe(
        [speak("user", "jinja {{ query }} {% raw %} {# note #} <think> \\ 'quoted' \"twice\"")],
        "{{ 1 + 1 }} and {% if x %}",
        "built",
    ),
    ChatProbe([speak("user", " spaces around ")], "def f(x):\n\treturn x", "built"),
)
SEVERAL_TURNS: tuple[ChatProbe, ...] = (
    ChatProbe(
        [speak("user", "My name is Ada."), speak("assistant", "Hello Ada."), speak("user", "What is my name?")],
        "Ada.",
        "turns",
    ),
    ChatProbe(
        [
            speak("system", "Be brief."),
            speak("user", "一加一？"),
            speak("assistant", "二。"),
            speak("user", "And two more?"),
            speak("assistant", "Four."),
            speak("user", "Sure?"),
        ],
        "Yes.",
        "turns",
    ),
)


def build_chat_probes(rows: Sequence[ChatRow]) -> list[ChatProbe]:
    """Return up to 16 conversations spread over the eval rows that are not very long, and the built ones."""
    short = [
        row
        for row in rows
        if sum(len(message["content"]) for message in row.messages) + len(row.reference) <= LONGEST_CHARS
        and row.messages[-1]["role"] == "user"
    ]
    stride = max(1, len(short) // MAX_FROM_DATA)
    probes = [ChatProbe(row.messages, row.reference, "data") for row in short[::stride][:MAX_FROM_DATA]]
    return [*probes, *BUILT, *SEVERAL_TURNS]
