"""Choose the chat template of a packaged model: the base's own when it renders what was trained, else one that does.

Rendered with nothing but the messages, as vLLM and transformers do for a user who knows nothing of switches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.workers.chat.encoding import join_turns, render_own, tokenize
from orchestrator.workers.chat.template_writer import write_template
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.formats import quote_jinja

if TYPE_CHECKING:
    from orchestrator.workers.chat.encoding import ChatFormat
    from orchestrator.workers.chat.probes import ChatProbe

THINKING_OFF = "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}"


@dataclass(frozen=True)
class Chosen:
    """A chat template: `kind` is base, adjusted (the base's) or written; `note` says what was done, and why.

    `differs` counts the probes of each origin that it renders otherwise than the training.
    """

    text: str
    kind: str
    note: str
    differs: dict[str, int]

    @property
    def source(self) -> str:
        """Whose template it is: base or orch."""
        return "base" if self.kind == "base" else "orch"

    @property
    def exact(self) -> bool:
        """Whether every probe that counts has the ids of training."""
        return not any(self.differs.values())


def choose_template(tokenizer: Any, trained: ChatFormat, probes: Sequence[ChatProbe], *, turns: bool) -> Chosen:
    """Return the first candidate that renders every probe as training did, or the one that comes nearest.

    `turns` says that the data have conversations of several turns; otherwise the built ones of several turns decide
    nothing, so that a base's template is not lost (with its tools) over what was never trained. The tokenizer keeps
    the template that it has.
    """
    own = tokenizer.chat_template
    tried = []
    try:
        for text, kind, note in build_candidates(tokenizer, trained):
            tokenizer.chat_template = text
            differs = count_differing(tokenizer, trained, probes)
            if not turns:
                differs.pop("turns", None)
            tried.append(Chosen(text, kind, note, differs))
            if tried[-1].exact:
                break
    finally:
        tokenizer.chat_template = own
    if not tried:
        raise WorkerError("the model has no chat template, and ms-swift's cannot be written as one")
    return min(tried, key=lambda chosen: sum(chosen.differs.values()))


def count_differing(tokenizer: Any, trained: ChatFormat, probes: Sequence[ChatProbe]) -> dict[str, int]:
    """Return how many probes of each origin the tokenizer's template renders otherwise than the training."""
    counts: dict[str, int] = {}
    for probe in probes:
        counts[probe.origin] = counts.get(probe.origin, 0) + (not renders_as_trained(tokenizer, trained, probe))
    return counts


def renders_as_trained(tokenizer: Any, trained: ChatFormat, probe: ChatProbe) -> bool:
    """Tell whether the prompt, and the conversation with its answer, have the ids of training."""
    try:
        prompt = tokenize(tokenizer, render_own(tokenizer, probe.messages, prompt=True))
        whole = tokenize(tokenizer, render_own(tokenizer, join_turns(probe.messages, probe.answer), prompt=False))
    except (WorkerError, TypeError, ValueError):
        return False
    if prompt != trained.encode_prompt(probe.messages):
        return False
    # many templates cut white space around an answer, ms-swift joins it to the prompt: no prompt depends on it
    return probe.answer != probe.answer.strip() or whole == trained.encode(probe.messages, probe.answer).ids


def build_candidates(tokenizer: Any, trained: ChatFormat) -> Iterator[tuple[str, str, str]]:
    """Yield template, kind and note: the base's, the base's with training's defaults in front, a written one."""
    own = tokenizer.chat_template
    if own:
        yield own, "base", "the base model's own chat template renders what was trained"
        lines, changes = [], []
        if "enable_thinking" in own:
            lines.append(THINKING_OFF)
            changes.append("thinking is off unless enable_thinking is true")
        system = trained.facts.get("default_system")
        if system:
            lines.append(build_default_system(system))
            changes.append("the system prompt of training is the default")
        if lines:
            yield "\n".join([*lines, own]), "adjusted", f"the base model's own chat template; {', '.join(changes)}"
    if trained.template is not None:
        text = write_template(tokenizer, trained.template)
        if text is not None:
            yield text, "written", "written after ms-swift's template, because the base model's own renders other ids"


def build_default_system(system: str) -> str:
    """Return the Jinja line that puts a system message in front of messages without one."""
    message = f"{{'role': 'system', 'content': {quote_jinja(system)}}}"
    condition = "{%- if messages and messages[0].role != 'system' %}"
    return f"{condition}{{%- set messages = [{message}] + messages %}}{{%- endif %}}"
