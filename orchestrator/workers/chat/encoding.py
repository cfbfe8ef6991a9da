r"""The token ids of a conversation, which of them the training puts a loss on, and the chat template of its package.

What ms-swift 4.6 makes of `{"messages": [user, assistant]}` with `--template qwen3` (its `Template.encode`, which is
called here and not rebuilt):

    <|im_start|>user\nQUERY<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nANSWER<|im_end|>\n

- The empty think block comes in front of every answer that does not begin with `<think>` (`add_non_thinking_prefix`),
  in earlier turns too. There is no loss on it: for templates that can think, `+ignore_empty_think` is added to
  `loss_scale`.
- The loss is on the tokens of each ANSWER, on `<|im_end|>` and on the line break after it. An answer that ends with
  `<|im_end|>` or `<|endoftext|>` gets no second one.
- Prompt and answer are tokenized apart. White space at the beginning of an answer counts as part of the think block:
  it has no loss, and changes the ids of the prompt's end.
- ms-swift's own inference leaves the empty think block out of earlier turns, its training does not. Here every turn is
  as in training. For a single turn both prompts are the same; its engine returns the think block before the answer.

The template of a packaged model is the base's own when it renders what was trained, else one that does: rendered with
nothing but the messages, as vLLM and transformers do for a user who knows nothing of switches.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestrator.workers.eval_files import ChatProbe, Message
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.formats import encode_plain, quote_jinja
from orchestrator.workers.specs import ChatSpec

# an answer whose only use is that another one differs from it
ANY_ANSWER = "a"
# no end of a turn holds it
MARKED_ANSWER = "0mark0"
WITHOUT_LIMIT = 10**9


@dataclass(frozen=True)
class Encoded:
    """A conversation's ids, and the positions of those of its last answer that the training puts a loss on.

    `taken_from` says where a limit of tokens took some: nowhere, from the "prompt" or from the "reference".
    """

    ids: list[int]
    targets: list[int]
    taken_from: str | None = None


@dataclass(frozen=True)
class ChatFormat:
    """`encode(messages, answer)` gives the ids; `stop_id` ends a turn; `facts` says which format it is.

    `template` is ms-swift's template, or None where the format is the model's own chat template.
    """

    encode: Callable[[list[Message], str], Encoded]
    stop_id: int | None
    facts: dict[str, Any] = field(default_factory=dict)
    template: Any = None

    def encode_prompt(self, messages: list[Message]) -> list[int]:
        """Return the ids in front of the answer that comes next."""
        encoded = self.encode(messages, ANY_ANSWER)
        return encoded.ids[: encoded.targets[0]]


def load_format(tokenizer: Any, spec: ChatSpec) -> ChatFormat:
    """Return the format of training: ms-swift's where the spec names it, else the tokenizer's own chat template."""
    return load_swift_format(tokenizer, spec) if spec.tool else load_own_format(tokenizer, spec.system)


def join_turns(messages: list[Message], answer: str) -> list[Message]:
    """Return the conversation with its last answer."""
    return [*messages, {"role": "assistant", "content": answer}]


def load_swift_format(tokenizer: Any, spec: ChatSpec) -> ChatFormat:
    """Return the format of ms-swift's template. Raises WorkerError for a template that it does not know."""
    template, loss_scale = build_swift_template(tokenizer, spec)

    def encode_all(messages: list[Message], answer: str) -> tuple[list[int], list[int]]:
        try:
            encoded = template.encode({"messages": join_turns(messages, answer)})
        except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
            start = messages[0]["content"][:60]
            raise WorkerError(f"ms-swift cannot encode the conversation that begins {start!r}: {error}") from error
        return encoded["input_ids"], encoded["labels"]

    def encode(messages: list[Message], answer: str) -> Encoded:
        ids, labels = encode_all(messages, answer)
        start = 0
        if any(message["role"] == "assistant" for message in messages):
            # earlier answers have labels too: the last one begins where another answer would make a difference
            other, _ = encode_all(messages, ANY_ANSWER)
            start = next((i for i, (one, two) in enumerate(zip(ids, other, strict=False)) if one != two), len(ids) - 1)
            while start > 0 and labels[start - 1] >= 0:
                start -= 1
        targets = [position for position in range(max(start, 1), len(ids)) if labels[position] >= 0]
        if not targets:
            raise WorkerError(f"an answer has no token that the training learns from: {answer[:60]!r}")
        return Encoded(ids, targets)

    meta = template.template_meta
    facts = {
        "format": f"ms-swift {spec.template}",
        "default_system": meta.default_system,
        "non_thinking_prefix": find_non_thinking_prefix(template),
        "loss_scale": loss_scale,
    }
    return ChatFormat(encode, meta.stop_token_id, facts, template)


def find_non_thinking_prefix(template: Any) -> str:
    """Return the empty think block in front of answers without thoughts; empty where training adds none, as in 3.6."""
    return template.template_meta.non_thinking_prefix if getattr(template, "add_non_thinking_prefix", False) else ""


def build_swift_template(tokenizer: Any, spec: ChatSpec) -> tuple[Any, str]:
    """Return ms-swift's template in training mode, over a tokenizer that transformers loaded, and what gets a loss.

    The latter as swift/arguments/base_args/template_args.py completes it. Raises WorkerError without ms-swift, and for
    a template that it does not know.
    """
    try:  # in ms-swift 3 it is swift.llm
        where = "swift.template" if importlib.util.find_spec("swift.template") is not None else "swift.llm"
        swift = importlib.import_module(where)
    except ImportError as error:
        raise WorkerError(f"the format is one of ms-swift, which cannot be imported: {error}") from error
    logging.getLogger("swift").setLevel(logging.WARNING)
    if spec.template not in swift.TEMPLATE_MAPPING:
        raise WorkerError(f"ms-swift has no template {spec.template!r}: its list is swift.template.TEMPLATE_MAPPING")
    meta = swift.TEMPLATE_MAPPING[spec.template]
    loss_scale = str(spec.template_args.get("loss_scale") or "default")
    # ms-swift 3 adds nothing by itself
    ignores = swift.__name__ == "swift.template" and not spec.template_args.get("disable_ignore_empty_think")
    if ignores and meta.is_thinking and meta.non_thinking_prefix and "ignore_empty_think" not in loss_scale:
        loss_scale += "+ignore_empty_think"
    # what ms-swift hangs on a tokenizer that it loads itself; nothing else of it is read for texts
    tokenizer.model_info = SimpleNamespace(
        config=None, task_type="causal_lm", max_model_len=WITHOUT_LIMIT, model_dir=tokenizer.name_or_path
    )
    tokenizer.model_meta = SimpleNamespace(is_multimodal=False, template=spec.template, candidate_templates=[])
    own = {"loss_scale", "disable_ignore_empty_think"}
    # a loss on the prompt too, which "all" asks for, is no measure of an answer
    base, *others = loss_scale.split("+")
    measured = "+".join(["default" if base == "all" else base, *others])
    template = swift.get_template(
        processor=tokenizer,  # the first of two in ms-swift 4, the second in 3
        default_system=spec.system,
        max_length=WITHOUT_LIMIT,
        template_type=spec.template,
        loss_scale=measured,
        **{key: value for key, value in spec.template_args.items() if value is not None and key not in own},
    )
    template.set_mode("train")
    return template, loss_scale


def render_own(tokenizer: Any, messages: list[Message], *, prompt: bool, **options: Any) -> str:
    """Return the conversation in the tokenizer's chat template. Raises WorkerError when it has none or refuses."""
    if not tokenizer.chat_template:
        raise WorkerError(f"{tokenizer.name_or_path} has no chat template: it is not a chat model")
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **options)
    except TemplateError as error:
        raise WorkerError(f"the chat template of {tokenizer.name_or_path} refuses a conversation: {error}") from error
    return text


def load_own_format(tokenizer: Any, system: str | None) -> ChatFormat:
    """Return the format of the tokenizer's own chat template, with thinking off where it has that switch."""

    def encode(messages: list[Message], answer: str) -> Encoded:
        shown = messages
        if system is not None and messages[0]["role"] != "system":
            shown = [{"role": "system", "content": system}, *messages]
        prompt = encode_plain(tokenizer, render_own(tokenizer, shown, prompt=True, enable_thinking=False))
        whole = render_own(tokenizer, join_turns(shown, MARKED_ANSWER), prompt=False, enable_thinking=False)
        end = whole[whole.rindex(MARKED_ANSWER) + len(MARKED_ANSWER) :]
        ids = prompt + encode_plain(tokenizer, answer + end)
        return Encoded(ids, list(range(len(prompt), len(ids))))

    ending = encode([{"role": "user", "content": ANY_ANSWER}], ANY_ANSWER)
    facts = {"format": "own chat template", "default_system": system}
    special = [i for i in ending.ids[ending.targets[0] + 1 :] if i in tokenizer.all_special_ids]
    return ChatFormat(encode, special[0] if special else tokenizer.eos_token_id, facts)


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
            message = f"{{'role': 'system', 'content': {quote_jinja(system)}}}"
            condition = "{%- if messages and messages[0].role != 'system' %}"
            lines.append(f"{condition}{{%- set messages = [{message}] + messages %}}{{%- endif %}}")
            changes.append("the system prompt of training is the default")
        if lines:
            yield "\n".join([*lines, own]), "adjusted", f"the base model's own chat template; {', '.join(changes)}"
    if trained.template is not None:
        text = write_template(tokenizer, trained.template)
        if text is not None:
            yield text, "written", "written after ms-swift's template, because the base model's own renders other ids"


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
    adds_bos = tokenizer.bos_token and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    start, _, finish = (system or "").partition("{{SYSTEM}}")
    values = {
        "default_system": meta.default_system or "",
        "bos": tokenizer.bos_token if meta.auto_add_bos and adds_bos else "",
        "no_system": found["prefix"] or "",
        "system_start": start,
        "system_end": finish,
        "user_start": before,
        "user_end": closing,
        "answer_start": behind.removeprefix(closing),
        "no_thinking": find_non_thinking_prefix(template),
        "answer_end": end,
        "between": separator,
    }
    settings = "".join(f"{{%- set {name} = {quote_jinja(value)} %}}\n" for name, value in values.items())
    body = "keeps_thinking" if keeps_thinking(template) else "drops_thinking"
    return settings + (TEMPLATES / f"{body}.jinja").read_text(encoding="utf-8")


def keeps_thinking(template: Any) -> bool:
    """Tell whether earlier answers keep their think blocks in training."""
    if hasattr(template, "_get_preserve_thinking"):
        return bool(template._get_preserve_thinking())  # noqa: SLF001  ms-swift 4 decides it from five settings
    # ms-swift 3 drops them where the last answer alone has a loss: Template of 3.12, ThinkingTemplate of 3.6
    rule = "base_strategy" if hasattr(template.loss_scale, "base_strategy") else "name"
    return bool(getattr(template.loss_scale, rule) != "last_round")
