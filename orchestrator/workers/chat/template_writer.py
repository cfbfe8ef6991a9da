"""Write one of ms-swift's templates as a chat template: the same texts around the same messages, as in training."""

from __future__ import annotations

from typing import Any

from orchestrator.workers.reranker.formats import quote_jinja


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
    return settings + (BODY_KEEPING if keeps_thinking(template) else BODY_FORGETTING)


def has_bos(tokenizer: Any) -> bool:
    """Tell whether the tokenizer puts its beginning token in front of a text."""
    return bool(tokenizer.bos_token) and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def find_non_thinking_prefix(template: Any) -> str:
    """Return the empty think block in front of answers without thoughts; empty where training adds none, as in 3.6."""
    return template.template_meta.non_thinking_prefix if getattr(template, "add_non_thinking_prefix", False) else ""


def keeps_thinking(template: Any) -> bool:
    """Tell whether earlier answers keep their think blocks in training."""
    if hasattr(template, "_get_preserve_thinking"):
        return bool(template._get_preserve_thinking())  # noqa: SLF001  ms-swift 4 decides it from five settings
    # ms-swift 3 drops them where the last answer alone has a loss: Template of 3.12, ThinkingTemplate of 3.6
    rule = "base_strategy" if hasattr(template.loss_scale, "base_strategy") else "name"
    return bool(getattr(template.loss_scale, rule) != "last_round")


_HEAD = """\
{%- if messages and messages[0].role == 'system' %}
    {%- set system, turns = messages[0].content, messages[1:] %}
{%- else %}
    {%- set system, turns = default_system, messages %}
{%- endif %}
{{- bos + (system_start + system + system_end if system else no_system) }}
{%- for turn in turns %}
    {%- if turn.role == 'user' %}
        {{- user_start + turn.content + user_end }}
    {%- elif turn.role == 'assistant' %}
"""
_TAIL = """\
        {{- answer_start + content + (answer_end if loop.last else between) }}
    {%- else %}
        {{- raise_exception('no role ' ~ turn.role ~ ' in the format that this model was trained in') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- answer_start + ('' if enable_thinking is defined and enable_thinking else no_thinking) }}
{%- endif %}
"""
BODY_KEEPING = (
    _HEAD
    + """\
        {%- set content = turn.content if turn.content.startswith('<think>') else no_thinking + turn.content %}
"""
    + _TAIL
)
BODY_FORGETTING = (
    _HEAD
    + """\
        {%- if loop.last %}
            {%- set content = turn.content if turn.content.startswith('<think>') else no_thinking + turn.content %}
        {%- else %}
            {%- set content = turn.content.split('</think>')[-1].strip() %}
        {%- endif %}
"""
    + _TAIL
)
