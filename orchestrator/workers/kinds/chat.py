"""Chat models: the chat template that asks as in training, and the logits and answers of base, adapter and package.

Every model is asked in float32, one conversation at a time, without padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers import verification_checks as verify
from orchestrator.workers.chat import score as lm
from orchestrator.workers.chat.encoding import ChatFormat, Chosen, choose_template, load_format
from orchestrator.workers.engines.transformers import load_float32, load_tokenizer, load_whole
from orchestrator.workers.eval_files import BUILT, EXAMPLES, ChatProbe, Message, build_chat_probes, read_chat_rows
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_json, set_chat_template, update_settings, write_json
from orchestrator.workers.kinds import Described, Request
from orchestrator.workers.merge import attach_adapter
from orchestrator.workers.specs import TEMPLATE_ARGUMENTS, ChatSpec, parse_chat_spec
from orchestrator.workers.weights import WeightScan, hash_file, hash_parameters, read_tensors, require_safetensors

LONGEST_PROBE_TOKENS = 1024
# logits of a probe that are held against each other: at the last position, every n-th of the vocabulary
MAX_NUMBERS = 512
ANSWER_TOKENS = 48
PROBE_TOKENS = 16


@dataclass(frozen=True)
class Subject:
    """What is verified: `folder` is the package, `tokenizer` the training's and `packaged` the package's own.

    `chosen` is the chat template that was written, and `written` the same once more from the files: what is on the disk
    is what a user loads. `stops` are the tokens at which the package stops.
    """

    request: Request
    spec: ChatSpec
    folder: Path
    trained: ChatFormat
    tokenizer: Any
    packaged: Any
    probes: Sequence[ChatProbe]
    prompts: list[list[Message]]
    chosen: Chosen
    written: Chosen
    stops: list[int]


def parse(request: Request) -> ChatSpec:
    """Return the scoring spec. Raises WorkerError for one that is wrong."""
    return parse_chat_spec(request.raw_spec, "the scoring spec")


def prepare(request: Request, spec: ChatSpec, folder: Path) -> Subject:
    """Write the chat template that renders what was trained, and where to stop. Raises WorkerError."""
    rows, trust = read_chat_rows(request.probes), spec.trust_remote_code
    tokenizer = load_tokenizer(request.find_tokenizer(), trust_remote_code=trust)
    trained = load_format(tokenizer, spec)
    require_trained_format(request, spec, trained)
    probes, turns = build_chat_probes(rows), any(one["role"] == "assistant" for row in rows for one in row.messages)
    chosen = choose_template(tokenizer, trained, probes, turns=turns)
    set_chat_template(folder, chosen.text)
    update_settings(folder, padding_side="left")
    stops = keep_stopping(folder, trained.stop_id)
    packaged = load_tokenizer(folder, trust_remote_code=trust)
    written = choose_template(packaged, trained, probes, turns=turns)
    asked = rows[0].messages if request.test_prompt is None else [{"role": "user", "content": request.test_prompt}]
    prompts = [asked, BUILT[0].messages]  # the second is one that every run has
    return Subject(request, spec, folder, trained, tokenizer, packaged, probes, prompts, chosen, written, stops)


def require_trained_format(request: Request, spec: ChatSpec, trained: ChatFormat) -> None:
    """Raise WorkerError when ms-swift's own record of the training names another format than the spec."""
    recorded: dict[str, Any] = {}
    for folder in (request.adapter, request.model):
        if folder is not None and not recorded:
            recorded = read_json(folder / "args.json")
    if not spec.tool or not recorded:
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


@dataclass(frozen=True)
class Asked:
    """What one model made of the questions: `logits` are those of each probe that are looked at [probes, tokens]."""

    logits: Any
    answers: list[lm.Answer]
    stop_ids: list[int]


@dataclass(frozen=True)
class Seen:
    """What every model (base, adapter, packaged) made of the questions, and hashes of the parameters of two.

    `tied` says that the package's input and output embeddings are one.
    """

    models: dict[str, Asked]
    base_hashes: dict[str, str]
    hashes: dict[str, str]
    missing: tuple[str, ...]
    tied: bool


def observe(subject: Subject) -> Seen:
    """Ask base, adapter on its base, and package, one model in memory at a time."""
    request, trust = subject.request, subject.spec.trust_remote_code
    model = load_whole(request.base, "CAUSAL_LM", "float32", request.device, trust_remote_code=trust)
    models, base_hashes = {"base": ask(model, subject, subject.tokenizer)}, hash_parameters(model)
    if request.adapter is not None:
        model = attach_adapter(model, request.adapter).eval()
        models["adapter"] = ask(model.get_base_model(), subject, subject.tokenizer)
    del model
    model, missing = load_float32("AutoModelForCausalLM", subject.folder, request.device, trust_remote_code=trust)
    models["packaged"], hashes = ask(model, subject, subject.packaged), hash_parameters(model)
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is model.get_input_embeddings().weight
    return Seen(models, base_hashes, hashes, missing, tied)


def ask(model: Any, subject: Subject, tokenizer: Any) -> Asked:
    """Return what the model makes of the probes with their answers, and its own answers to the prompts.

    Of a vocabulary's logits only some are looked at, of the same ids in models of different vocabularies. Raises
    WorkerError for a model that has no embedding of one of the tokens.
    """
    import numpy as np

    trained = subject.trained
    probes = [trained.encode(probe.messages, probe.answer).ids for probe in subject.probes]
    prompts = [trained.encode_prompt(messages) for messages in subject.prompts]
    rows, highest = model.get_input_embeddings().weight.shape[0], max(max(ids) for ids in (*probes, *prompts))
    if highest >= rows:
        raise WorkerError(
            f"{getattr(model.config, 'name_or_path', '') or 'the model'} has {rows} tokens, and the tokenizer gives a "
            f"probe token {highest}: the vocabulary was enlarged in training, so the two cannot be compared"
        )
    chat, step = lm.ChatModel(model, tokenizer, trained.stop_id), max(1, len(subject.tokenizer) // MAX_NUMBERS)
    last = (chat.compute_last_logits([ids[:LONGEST_PROBE_TOKENS]])[0, -1].float()[::step].cpu() for ids in probes)
    logits = np.stack([one.double().numpy() for one in last])
    return Asked(logits, chat.answer(prompts, ANSWER_TOKENS, top=True), chat.stop_ids)


def share_vocabulary(*logits: Any) -> list[Any]:
    """Return each model's logits [probes, tokens] of the tokens that every model has: training may add some."""
    width = min(rows.shape[1] for rows in logits)
    return [rows[:, :width] for rows in logits]


def compare(subject: Subject, seen: Seen, scan: WeightScan) -> list[verify.Check]:
    """Return the checks of files, logits, answers, chat template and the end of a turn."""
    base, packaged, adapted = seen.models["base"], seen.models["packaged"], seen.models.get("adapter")
    chosen, stop_id = subject.written, subject.trained.stop_id
    numbers = packaged.logits.ravel().tolist()
    wanted = bool(read_json(subject.folder / "config.json").get("tie_word_embeddings", seen.tied))
    trained, folder = subject.request.model, subject.folder
    # config and weights must be the trained folder's, byte for byte: then the two are one model
    copied = ["config.json", *(path.name for path in require_safetensors(trained))]
    other = [
        name
        for name in copied
        if not (folder / name).is_file() or hash_file(folder / name) != hash_file(trained / name)
    ]
    damaged = f"{', '.join(other)} of the package differ from the trained folder's: the copy is damaged"
    checks = [
        verify.Check("copied", not other, damaged, {"files": len(copied)}),
        check_tied(subject.folder, wanted=wanted, tied=seen.tied),
        verify.check_finite({name: one.logits.ravel().tolist() for name, one in seen.models.items()}),
        verify.check_changed_weights(seen.base_hashes, seen.hashes),
        verify.check_changed_scores(*(one.ravel().tolist() for one in share_vocabulary(base.logits, packaged.logits))),
        verify.check_not_constant(numbers),
        verify.Check(
            "chat-template",
            chosen.exact,
            f"the packaged chat template renders other ids than the training: {chosen.differs} probes of each origin; "
            "the model would be asked in a format that it was not trained in",
            {"chat_template": chosen.source, "differs": chosen.differs},
        ),
        verify.Check(
            "stop",
            stop_id is None or stop_id in subject.stops,
            f"generation_config.json does not stop at {stop_id}, which ends every trained answer: it never would stop",
            {"stop_ids": subject.stops},
        ),
    ]
    if adapted is None:
        return checks
    share, expected = verify.merge_tolerance(scan.dtypes, verify.MERGE_TOLERANCE), adapted.logits.ravel().tolist()
    shared = share_vocabulary(base.logits, adapted.logits, packaged.logits)
    tolerance = share * verify.measure_scale(expected)
    same, facts = lm.compare_answers(adapted.answers[0], packaged.answers[0], packaged.stop_ids, tolerance)
    failure = (
        f"the packaged model answers the test prompt differently from base and adapter, from token "
        f"{facts.get('first_difference')} on (margin {facts.get('margin')}, explained up to {tolerance:.3g})"
    )
    return [
        *checks,
        verify.check_same("merged", "the merged model", numbers, expected, share),
        verify.check_merge_keeps_training(*(one.ravel().tolist() for one in shared)),
        verify.Check("same-answer", same, failure, {**facts, "tokens": len(adapted.answers[0].ids)}),
    ]


def check_tied(folder: Path, *, wanted: bool, tied: bool) -> verify.Check:
    """Check that the embeddings are shared as the config says, and that the files hold no second, other output."""
    import torch

    tensors = [
        tensor
        for name, tensor in read_tensors(require_safetensors(folder))
        if name.endswith(("embed_tokens.weight", "lm_head.weight"))
    ]
    twice = len(tensors) == 2  # noqa: PLR2004
    differ = wanted and twice and not torch.equal(tensors[0], tensors[1])
    failure = (
        "the config ties input and output embeddings, the files hold two different ones: one of them is ignored"
        if differ
        else f"the config says tie_word_embeddings {wanted}, the loaded model says {tied}"
    )
    return verify.Check(
        "tied", wanted == tied and not differ, failure, {"tie_word_embeddings": wanted, "both_in_files": twice}
    )


def report(subject: Subject, seen: Seen) -> dict[str, Any]:
    """Return the template, every model's answer to the test prompt, and each probe's distances to the package."""
    test = {
        name: subject.tokenizer.decode(one.answers[0].ids, skip_special_tokens=True)
        for name, one in seen.models.items()
    }
    return {
        "chat_template": subject.chosen.source,
        "chat_template_note": subject.chosen.note,
        "test_prompt": {"messages": subject.prompts[0], **test},
        "probes": describe_probes({name: one.logits for name, one in seen.models.items()}, subject.probes),
    }


def describe_probes(logits: Mapping[str, Any], probes: Sequence[ChatProbe]) -> list[dict[str, Any]]:
    """Return, for each probe, where it comes from and how far the packaged model's logits are from the others'."""
    import numpy as np

    shared = dict(zip(logits, share_vocabulary(*logits.values()), strict=True))
    packaged = shared.pop("packaged")
    farthest = {f"from_{name}": np.abs(one - packaged).max(axis=1).tolist() for name, one in shared.items()}
    return [
        {
            "origin": probe.origin,
            "prompt": probe.messages[-1]["content"][:80],
            **{name: verify.as_number(numbers[index]) for name, numbers in farthest.items()},
        }
        for index, probe in enumerate(probes)
    ]


def describe(subject: Subject, seen: Seen, report: Mapping[str, Any]) -> Described:
    """Return the card, and what scoring.json says: the format of training, and the package's first tokens.

    A server is held against these later.
    """
    trained, chosen = subject.trained, subject.chosen
    examples = []
    for messages, answer in zip(subject.prompts, seen.models["packaged"].answers, strict=True):
        ids = answer.ids[:PROBE_TOKENS]
        # how far a chosen token is ahead: what is below the serving side's rounding may turn out otherwise
        best = (sorted(top.values(), reverse=True) for top in answer.top[:PROBE_TOKENS])
        examples.append(
            {
                "messages": messages,
                "answer": subject.tokenizer.decode(ids, skip_special_tokens=True),
                "token_ids": ids,
                "max_new_tokens": PROBE_TOKENS,
                "ended": answer.ended and len(answer.ids) < PROBE_TOKENS,
                "least_margin": min((first - second for first, second, *_ in best), default=None),
            }
        )
    facts = {
        "spec": subject.spec,
        "template": chosen,
        "system": trained.facts.get("default_system") or subject.spec.system,
        "thinks": bool(trained.facts.get("non_thinking_prefix")),
        "adapter": subject.request.adapter is not None,
        "prompt": examples[0]["messages"][-1]["content"],
        "answer": examples[0]["answer"],
        "question": EXAMPLES[0][0],
    }
    scoring = {
        "chat_template": report["chat_template"],
        "chat_template_note": report["chat_template_note"],
        **{key: value for key, value in trained.facts.items() if key != "format"},
        "trained_format": trained.facts["format"],
        "probes": examples,
    }
    return Described("chat", facts, scoring)
