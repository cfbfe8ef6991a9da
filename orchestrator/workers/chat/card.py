"""Write the README of a packaged chat model: how to ask it as it was measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.workers.model_card import MODEL_PATH, code_span

RESULTS_MARK = "<!-- orch:results -->"


if TYPE_CHECKING:
    from orchestrator.workers.chat.spec import ChatSpec
    from orchestrator.workers.chat.template import Chosen


@dataclass(frozen=True)
class ChatCardFacts:
    """What the card may say. `thinks` says that the format has a switch for thinking."""

    base: str
    hub_base: bool
    spec: ChatSpec
    template: Chosen
    system: str | None
    thinks: bool
    adapter: bool
    example: tuple[str, str]


def build_chat_card(facts: ChatCardFacts) -> str:
    """Return the card's text; measured results may be written after `RESULTS_MARK`."""
    front = ["---", "pipeline_tag: text-generation", "library_name: transformers"]
    if facts.hub_base:
        front += [f"base_model: {facts.base}"]
    how = "with LoRA, merged," if facts.adapter else "with all weights"
    prompt, answer = facts.example
    sections = [
        "\n".join([*front, "---"]),
        "# Chat model",
        f"Fine-tuned {how} from {code_span(facts.base)} with ms-swift. The base model's licence applies.",
        f"## Use\n\n### transformers\n\n```python\n{build_transformers_snippet(facts)}```",
        f"### vLLM\n\n```bash\n{build_vllm_snippet(facts)}```",
        f"### ms-swift\n\n```bash\n{build_swift_snippet(facts)}```",
        f"## Format\n\n{describe_format(facts)}",
        f"Asked greedily in float32:\n\n{indent(prompt)}\n\nit answered\n\n{indent(answer)}",
        RESULTS_MARK,
    ]
    return "\n\n".join(sections) + "\n"


def indent(text: str) -> str:
    """Return the text as a Markdown code block, whatever is in it."""
    return "\n".join("    " + line for line in text[:1000].splitlines() or [""])


def build_transformers_snippet(facts: ChatCardFacts) -> str:
    """Return the code that answers one prompt as in the measurements."""
    spec = facts.spec
    trust = ", trust_remote_code=True" if spec.trust_remote_code else ""
    return "\n".join(
        [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'tokenizer = AutoTokenizer.from_pretrained("{MODEL_PATH}"{trust})',
            f'model = AutoModelForCausalLM.from_pretrained("{MODEL_PATH}", torch_dtype="{spec.dtype}"{trust})',
            'messages = [{"role": "user", "content": "What is the capital of France?"}]',
            "text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)",
            'inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False).to(model.device)',
            f"output = model.generate(**inputs, do_sample=False, max_new_tokens={spec.max_new_tokens})",
            'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
            "",
        ]
    )


def build_vllm_snippet(facts: ChatCardFacts) -> str:
    """Return the commands that serve the model with vLLM and ask it one question."""
    trust = " --trust-remote-code" if facts.spec.trust_remote_code else ""
    body = {
        "model": "tuned",
        "temperature": 0,
        "max_tokens": facts.spec.max_new_tokens,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }
    return "\n".join(
        [
            f"vllm serve {MODEL_PATH} --served-model-name tuned --dtype {facts.spec.dtype}{trust}",
            "curl http://localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\",
            f"  -d '{json.dumps(body)}'",
            "",
        ]
    )


def build_swift_snippet(facts: ChatCardFacts) -> str:
    """Return the commands that chat with, or serve, the model with ms-swift."""
    spec = facts.spec
    named = f"--model_type {spec.model_type} " if spec.model_type else ""
    if spec.template:
        named += f"--template {spec.template} "
    # a question mark as a shell's single-quoted text, whatever is in the prompt
    system = "--system '" + facts.system.replace("'", "'\\''") + "' " if facts.system else ""
    options = f"--model {MODEL_PATH} {named}{system}"
    return (
        f"swift infer  {options}--stream true --temperature 0 --max_new_tokens {spec.max_new_tokens}\n"
        f"swift deploy {options}--port 8000\n"
    )


def describe_format(facts: ChatCardFacts) -> str:
    """Return the format of training as a list."""
    spec, template = facts.spec, facts.template
    lines = [f"- chat template: {template.note}"]
    if facts.system:
        lines.append(f"- system prompt of training, used where a conversation has none: {json.dumps(facts.system)}")
    else:
        lines.append("- system prompt: none, unless a conversation brings one, as in training")
    if facts.thinks:
        lines.append(
            "- thinking: off. Every answer was trained behind an empty think block, which the chat template writes; "
            "with `enable_thinking=True` the model is asked in a format that this training did not touch"
        )
        lines.append("- `swift infer` and `swift deploy` return the empty think block in front of the answer")
        if template.kind == "written":
            lines.append(
                "- several turns: this template keeps the empty think block in earlier answers, as in training; "
                "`swift infer` and `swift deploy` leave it out"
            )
    lines += [
        f"- longest conversation in the measurements: {spec.max_length} tokens",
        "- `scoring.json` holds all of this for programs, with example answers and the hash of every file",
    ]
    return "\n".join(lines)
