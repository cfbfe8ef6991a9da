"""Package a chat model: a whole folder whose chat template asks it as it was trained, proved by its logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.workers.chat.card import ChatCardFacts, build_chat_card
from orchestrator.workers.chat.checks import check_stop, check_template
from orchestrator.workers.chat.encoding import ChatFormat, load_format
from orchestrator.workers.chat.model import load_chat_tokenizer
from orchestrator.workers.chat.probes import BUILT, build_chat_probes
from orchestrator.workers.chat.spec import TEMPLATE_ARGUMENTS, ChatSpec, parse_chat_spec
from orchestrator.workers.chat.template import Chosen, choose_template
from orchestrator.workers.chat.verify import (
    Seen,
    ask_base,
    ask_packaged,
    build_checks,
    build_questions,
    describe_probes,
)
from orchestrator.workers.eval_files import ChatRow, Message, read_chat_rows
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import write_json, write_text
from orchestrator.workers.kinds import Request
from orchestrator.workers.model_card import name_base
from orchestrator.workers.packaging import (
    copy_model,
    find_tokenizer,
    finish_report,
    hash_and_describe,
    scan_copied_weights,
)
from orchestrator.workers.tokenizer_files import read_json, set_chat_template, update_settings

PROBE_TOKENS = 16


def require_trained_format(request: Request, spec: ChatSpec, trained: ChatFormat) -> None:
    """Raise WorkerError when ms-swift's own record of the training names another format than the spec."""
    recorded: dict[str, Any] = {}
    for folder in (request.adapter, request.model):
        if folder is not None and not recorded:
            recorded = read_json(folder / "args.json")
    if spec.tool != "swift" or not recorded:
        return
    wanted = {**TEMPLATE_ARGUMENTS, **spec.template_args, "template": spec.template, "system": spec.system}
    wanted["loss_scale"] = trained.facts["loss_scale"]
    other = [
        f"{name} {recorded[name]!r} in training, {value!r} in the scoring spec"
        for name, value in wanted.items()
        # ms-swift fills agent_template in, which only decides how tools are written
        if name in recorded and name != "agent_template" and recorded[name] != value
    ]
    if other:
        raise WorkerError(*(f"the scoring spec is not the format of the training: {line}" for line in other))


def write_template_files(folder: Path, chosen: Chosen) -> None:
    """Write the chat template, the only one of the folder, and leave nothing of the trainer's loading behind."""
    set_chat_template(folder, chosen.text)
    update_settings(folder, padding_side="left")


def keep_stopping(folder: Path, stop_id: int | None) -> list[int]:
    """Make generation_config.json stop at the token that ends a trained turn; return all that it stops at."""
    config = read_json(folder / "generation_config.json")
    eos = config.get("eos_token_id", read_json(folder / "config.json").get("eos_token_id"))
    known = [one for one in (eos if isinstance(eos, list) else [eos]) if one is not None]
    stops = list(dict.fromkeys([*([] if stop_id is None else [stop_id]), *known]))
    if stops and config.get("eos_token_id") != stops:
        write_json(
            folder / "generation_config.json", {**config, "eos_token_id": stops[0] if len(stops) == 1 else stops}
        )
    return stops


def choose_prompts(request: Request, rows: list[ChatRow]) -> list[list[Message]]:
    """Return the test prompt (the user's, else the first eval row's) and one that every run has."""
    first = rows[0].messages
    if request.test_prompt is not None:
        first = [{"role": "user", "content": request.test_prompt}]
    return [first, BUILT[0].messages]


def describe_answers(
    tokenizer: Any, prompts: list[list[Message]], seen: dict[str, Seen]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what every model answered to the test prompt, and the packaged one's first tokens to each prompt."""
    test: dict[str, Any] = {"messages": prompts[0]}
    for name, one in seen.items():
        test[name] = tokenizer.decode(one.answers[0].ids, skip_special_tokens=True)
    probes = []
    for messages, answer in zip(prompts, seen["packaged"].answers, strict=True):
        ids = answer.ids[:PROBE_TOKENS]
        probes.append(
            {
                "messages": messages,
                "answer": tokenizer.decode(ids, skip_special_tokens=True),
                "token_ids": ids,
                "max_new_tokens": PROBE_TOKENS,
                "ended": answer.ended and len(answer.ids) < PROBE_TOKENS,
                # the least lead of a chosen token: what is below the serving side's rounding may turn out otherwise
                "least_margin": min((lead(top) for top in answer.top[:PROBE_TOKENS]), default=None),
            }
        )
    return test, probes


def lead(top: dict[int, float]) -> float:
    """Return how far the largest logit is ahead of the next."""
    first, second, *_ = sorted(top.values(), reverse=True)
    return first - second


def package(request: Request, folder: Path) -> None:
    """Fill `folder`, verify it and write the report. Raises WorkerError with one line a failed check."""
    spec = parse_chat_spec(request.raw_spec, "the scoring spec")
    trust = spec.trust_remote_code
    rows = read_chat_rows(request.probes)
    copy_model(request, folder, trust_remote_code=trust)
    scan = scan_copied_weights(request, folder)
    source = find_tokenizer(request)
    tokenizer = load_chat_tokenizer(str(source), trust_remote_code=trust)
    trained = load_format(tokenizer, spec)
    require_trained_format(request, spec, trained)
    probes = build_chat_probes(rows)
    turns = any(row.several_turns for row in rows)
    chosen = choose_template(tokenizer, trained, probes, turns=turns)
    write_template_files(folder, chosen)
    stops = keep_stopping(folder, trained.stop_id)
    packaged_tokenizer = load_chat_tokenizer(str(folder), trust_remote_code=trust)
    # once more from the files: what is on the disk is what a user loads
    written = choose_template(packaged_tokenizer, trained, probes, turns=turns)
    prompts = choose_prompts(request, rows)
    questions = build_questions(trained, tokenizer, probes, prompts)
    seen: dict[str, Seen] = {}
    seen["base"], adapted = ask_base(request, tokenizer, questions, trust=trust)
    if adapted is not None:
        seen["adapter"] = adapted
    seen["packaged"], tied = ask_packaged(folder, packaged_tokenizer, questions, request.device, trust=trust)
    wanted = bool(read_json(folder / "config.json").get("tie_word_embeddings", tied))
    checks = build_checks(request, folder, scan, seen, tied=(wanted, tied), count=len(probes))
    checks += [check_template(written), check_stop(trained.stop_id, stops)]
    test, examples = describe_answers(tokenizer, prompts, seen)
    heads = [(probe.origin, probe.messages[-1]["content"]) for probe in probes]
    finish_report(
        request,
        {
            "version": 1,
            "passed": all(check.passed for check in checks),
            "checks": [check.to_json() for check in checks],
            "compute_dtype": "float32",
            "device": request.device,
            "chat_template": chosen.source,
            "chat_template_note": chosen.note,
            "weights": scan.to_json(),
            "test_prompt": test,
            "probes": describe_probes(seen, heads, len(probes)),
        },
    )
    describe(request, spec, folder, chosen=chosen, trained=trained, examples=examples)


def describe(
    request: Request, spec: ChatSpec, folder: Path, *, chosen: Chosen, trained: ChatFormat, examples: list[Any]
) -> None:
    """Write README.md and scoring.json."""
    base, hub_base = name_base(request.base, request.raw_spec)
    facts = ChatCardFacts(
        base=base,
        hub_base=hub_base,
        spec=spec,
        template=chosen,
        system=trained.facts.get("default_system") or spec.system,
        thinks=bool(trained.facts.get("non_thinking_prefix")),
        adapter=request.adapter is not None,
        example=(examples[0]["messages"][-1]["content"], examples[0]["answer"]),
    )
    write_text(folder / "README.md", build_chat_card(facts))
    hash_and_describe(
        folder,
        {
            **request.raw_spec,
            "base_model": base,
            "chat_template": chosen.source,
            "chat_template_note": chosen.note,
            **{key: value for key, value in trained.facts.items() if key != "format"},
            "trained_format": trained.facts["format"],
            "probes": examples,
        },
    )
