"""Choose the chat template of a packaged model: the base's own when it renders what was trained, else one that does.

Rendered with nothing but the messages, as vLLM and transformers do for a user who knows nothing of switches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.chat.encoding import ChatFormat, find_non_thinking_prefix, join_turns, render_own
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.kinds.probes import ChatProbe
from orchestrator.workers.reranker.formats import encode_plain, quote_jinja

# what ms-swift does with the thoughts of earlier answers decides which of them is written
TEMPLATES = Path(__file__).resolve().parent / "templates"
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
            differs = dict.fromkeys((probe.origin for probe in probes), 0)
            for probe in probes:
                differs[probe.origin] += not renders_as_trained(tokenizer, trained, probe)
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


def renders_as_trained(tokenizer: Any, trained: ChatFormat, probe: ChatProbe) -> bool:
    """Tell whether the prompt, and the conversation with its answer, have the ids of training."""
    try:
        prompt = encode_plain(tokenizer, render_own(tokenizer, probe.messages, prompt=True))
        whole = encode_plain(tokenizer, render_own(tokenizer, join_turns(probe.messages, probe.answer), prompt=False))
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


# A template of ms-swift written as a chat template: the same texts around the same messages, as in training.


def as_text(tokenizer: Any, parts: list[Any] | None) -> str | None:
    """Return a part of ms-swift's template, texts and lists of ids, as one text; None for what is no text."""
    texts = []
    for part in parts or []:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, list) and all(isinstance(one, int) for one in part):
            texts += tokenizer.convert_ids_to_tokens(part)
        else:
            return None
    return "".join(texts)


def write_template(tokenizer: Any, template: Any) -> str | None:
    """Return ms-swift's template as a chat template; None for one that is more than texts around the messages."""
    meta = template.template_meta
    found = {
        name: as_text(tokenizer, getattr(meta, name))
        for name in ("prefix", "system_prefix", "prompt", "chat_sep", "suffix")
    }
    prompt, system = found["prompt"], found["system_prefix"]
    if None in found.values() or prompt is None or prompt.count("{{QUERY}}") != 1 or meta.is_post_system:
        return None
    if system and system.count("{{SYSTEM}}") != 1:
        return None
    before, behind = prompt.split("{{QUERY}}")
    end, separator = found["suffix"] or "", found["chat_sep"] or ""
    # where a turn of the user ends as one of the assistant does, the rest opens the answer
    closing = separator if separator and behind.startswith(separator) else ""
    opening = behind.removeprefix(closing)
    prefix = find_non_thinking_prefix(template)
    bos = tokenizer.bos_token if meta.auto_add_bos and has_bos(tokenizer) else ""
    start, finish = (system or "").split("{{SYSTEM}}") if system else ("", "")
    values = {
        "default_system": meta.default_system or "",
        "bos": bos,
        "no_system": found["prefix"] or "",
        "system_start": start,
        "system_end": finish,
        "user_start": before,
        "user_end": closing,
        "answer_start": opening,
        "no_thinking": prefix,
        "answer_end": end,
        "between": separator,
    }
    settings = "".join(f"{{%- set {name} = {quote_jinja(value)} %}}\n" for name, value in values.items())
    body = "keeps_thinking" if keeps_thinking(template) else "drops_thinking"
    return settings + (TEMPLATES / f"{body}.jinja").read_text(encoding="utf-8")


def has_bos(tokenizer: Any) -> bool:
    """Tell whether the tokenizer puts its beginning token in front of a text."""
    return bool(tokenizer.bos_token) and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def keeps_thinking(template: Any) -> bool:
    """Tell whether earlier answers keep their think blocks in training."""
    if hasattr(template, "_get_preserve_thinking"):
        return bool(template._get_preserve_thinking())  # noqa: SLF001  ms-swift 4 decides it from five settings
    # ms-swift 3 drops them where the last answer alone has a loss: Template of 3.12, ThinkingTemplate of 3.6
    rule = "base_strategy" if hasattr(template.loss_scale, "base_strategy") else "name"
    return bool(getattr(template.loss_scale, rule) != "last_round")
