"""Rerankers: the folder around their weights, and their scores by every way of every tool that trains them.

Everything is held against plain transformers, one pair at a time without padding, and against `CrossEncoder.predict`
over the packaged folder. The tool that trained the model is asked as well: FlagEmbedding about the packaged folder,
ms-swift about base, adapter and trained model. swift cuts a long prompt at its end, closing words and all, while
sentence-transformers keeps them, so pairs longer than `max_length` are not given to swift. sentence-transformers cuts
as the plain way does, so that of its models every probe is compared.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.workers import verification_checks as verify
from orchestrator.workers.engines import flagembedding, sentence_transformers, swift
from orchestrator.workers.engines.transformers import (
    HEAD_SEED,
    load_float32,
    load_tokenizer,
    load_whole,
    name_head,
    release,
)
from orchestrator.workers.eval_files import AWKWARD, EXAMPLES, Pair, PairProbe, build_pair_probes
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.kinds import Described, Request
from orchestrator.workers.merge import attach_adapter, check_adapter, read_whole_weights
from orchestrator.workers.reranker import folder as packaging
from orchestrator.workers.reranker import formats
from orchestrator.workers.reranker.scoring import wrap_pairs
from orchestrator.workers.specs import SCORERS, ScoringSpec, parse_spec
from orchestrator.workers.weights import WeightScan, hash_parameters, read_tensors, require_safetensors

FLAG, SENTENCE, SWIFT = "flagembedding", "sentence-transformers", "swift"
TASK_TYPES = {name: row["task"] for name, row in SCORERS.items() if row["kind"] == "reranker" and "task" in row}
SWIFT_TEMPLATE = "qwen3_reranker"
# ms-swift's templates that write two texts as an encoder's own tokenizer joins them
PAIR_TEMPLATES = ("bert", "bge_reranker")
LEAST_PROBES = 4
# what a server is held against later: the examples and one text with line breaks
KEPT_PROBES = (*EXAMPLES, AWKWARD[0])


@dataclass(frozen=True)
class RerankerSpec(ScoringSpec):
    """A scoring spec, and the tool that trained the model; `engine` is how swift was told to read it."""

    tool: str = FLAG
    engine: swift.EngineSettings | None = None


def parse(request: Request) -> RerankerSpec:
    """Return the spec. Raises WorkerError for one that is wrong, or whose model its tool did not train."""
    raw, found = request.raw_spec, asdict(parse_spec(request.raw_spec, "the scoring spec"))
    scorer, tool = found["scorer"], raw.get("tool")
    if scorer == "flag-llm-reranker" or (scorer == "cross-encoder" and tool not in {SENTENCE, SWIFT}):
        return RerankerSpec(**found)
    if scorer in TASK_TYPES and not (scorer == "cross-encoder" and tool == SENTENCE):
        return RerankerSpec(**found, tool=SWIFT, engine=read_engine(raw, scorer))
    if tool != SENTENCE:
        raise WorkerError(f"the scoring spec: a {scorer} model is packaged when its tool is {SENTENCE}, not {tool!r}")
    if request.adapter is not None:
        check_adapter(request.adapter)
    return RerankerSpec(**found, tool=SENTENCE)


def read_engine(raw: Mapping[str, Any], scorer: str) -> swift.EngineSettings:
    """Return how swift was told to read the model. Raises WorkerError for what the spec's scorer does not fit."""
    engine = swift.EngineSettings(
        model_type=raw.get("model_type", "qwen3_reranker"),
        task_type=raw.get("task_type", TASK_TYPES[scorer]),
        template=raw.get("template") or SWIFT_TEMPLATE,
    )
    if raw.get("tool") != SWIFT:
        raise WorkerError(f"the scoring spec: a {scorer} model is packaged when its tool is swift")
    if engine.task_type != TASK_TYPES[scorer]:
        raise WorkerError(
            f"the scoring spec: task_type {engine.task_type} does not fit the scorer {scorer}, whose models are "
            f"trained with task_type {TASK_TYPES[scorer]}"
        )
    templates = PAIR_TEMPLATES if scorer == "cross-encoder" else (SWIFT_TEMPLATE,)
    if engine.template not in templates:
        raise WorkerError(
            f"the scoring spec: template {engine.template} cannot be packaged; the scorer {scorer} asks in "
            f"{' or '.join(templates)}"
        )
    return engine


@dataclass(frozen=True)
class Subject:
    """What is verified: `folder` is the package, `tokenizer` encodes the texts for every model but the package.

    `uncut` are the places of the probes that no length limit touches; `chat_template` is "exact" where the package's
    gives the ids of training, "approximate" where only nearly, None where it has none. `ids` are the tokens and lengths
    that scoring.json names.
    """

    request: Request
    spec: RerankerSpec
    folder: Path
    reference: formats.Reference
    tokenizer: Any
    probes: Sequence[PairProbe]
    uncut: list[int]
    chat_template: str | None
    ids: Mapping[str, Any]

    @property
    def pairs(self) -> list[Pair]:
        """The pairs of the probes."""
        return [probe.pair for probe in self.probes]


def prepare(request: Request, spec: RerankerSpec, folder: Path) -> Subject:
    """Write format, lengths and modules for sentence-transformers. Raises WorkerError for a format that cannot be."""
    reference, flag = formats.REFERENCES[spec.scorer, spec.tool], spec.tool == FLAG
    ids = {"max_seq_length": spec.max_length, **packaging.write_format(folder, spec)}
    # what FlagEmbedding trained is encoded as its trainer did it, by that tokenizer
    tokenizer = load_tokenizer(request.find_tokenizer() if flag else folder, trust_remote_code=spec.trust_remote_code)
    probes = build_pair_probes(request.probes, tokenizer, spec.max_length)
    if spec.tool == SENTENCE:
        probes.append(build_marked_probe(tokenizer, spec))
    pairs = [probe.pair for probe in probes]
    template: str | None = "exact"
    if spec.scorer == "flag-llm-reranker":
        ids = packaging.write_flagembedding_format(folder, spec, tokenizer)
        template = "exact" if packaging.write_exact_template(folder, spec, tokenizer, pairs) else "approximate"
    elif reads_two_texts(spec):
        template = None
    uncut = reference.find_uncut(tokenizer, spec, pairs)
    if spec.tool == SWIFT and len(uncut) < LEAST_PROBES:
        raise WorkerError(
            f"max_length {spec.max_length} cuts {len(probes) - len(uncut)} of {len(probes)} probes, which it counts "
            "with their prompt: too few are left to compare; raise max_length"
        )
    return Subject(request, spec, folder, reference, tokenizer, probes, uncut, template, ids)


def build_marked_probe(tokenizer: Any, spec: ScoringSpec) -> PairProbe:
    """Return a pair whose texts hold what the model's own input is made of: special tokens, its formats and their end.

    Such a text must change nothing about where an input ends, how it is padded, or at which token it is read.
    """
    marks = " ".join(dict.fromkeys([*tokenizer.all_special_tokens[:5], spec.special_token]))
    query = f"{marks} {spec.document_format} within".strip()
    return PairProbe((query, f"ends in what ends the input {marks}{spec.special_token}"), "awkward")


@dataclass(frozen=True)
class Seen:
    """The scores of the probes by every way, and hashes of the parameters of base and trained model.

    `plain` (the trained folder) and `sentence` (the package) have one score a probe; the others are of the probes at
    `places`. `base`, `adapter` and `trained` are one way over three models; `native` is the tool that trained. `head`
    says of each weight that the adapter holds whole whether it is the trained model's. `other_tokens` are documents
    that the package's chat template writes otherwise than the training.
    """

    plain: list[float]
    hashes: dict[str, str]
    missing: tuple[str, ...]
    sentence: list[float]
    places: Sequence[int]
    base: list[float]
    base_hashes: dict[str, str]
    trained: list[float]
    adapter: list[float] | None = None
    head: dict[str, bool] | None = None
    native: list[float] | None = None
    other_tokens: list[str] | None = None
    facts: Mapping[str, Any] | None = None


def observe(subject: Subject) -> Seen:
    """Score the probes by every way, one model in memory at a time."""
    request, spec, pairs = subject.request, subject.spec, subject.pairs
    model, missing = load_trained(subject, request.model)
    plain, hashes = score(subject, model), hash_parameters(model)
    del model
    release()
    # a decoder's instructions are in its chat template; an encoder has none, its user puts them in front
    texts = wrap_pairs(spec, pairs) if (spec.scorer, spec.tool) == ("cross-encoder", FLAG) else pairs
    sentence = sentence_transformers.predict(
        subject.folder, texts, request.device, trust_remote_code=spec.trust_remote_code
    )
    seen = {"plain": plain, "hashes": hashes, "missing": missing, "sentence": sentence, "trained": plain}
    # the tool comes last: importing swift changes classes of transformers
    return Seen(**{**seen, "places": range(len(pairs)), **TOOLS[spec.tool].observe(subject, sentence)})


def load_trained(subject: Subject, folder: Path | str, **changes: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the model in float32 and the weights that its files lack; `changes` are settings of its config."""
    loader = "AutoModelForCausalLM" if subject.reference.by_words else "AutoModelForSequenceClassification"
    trust = subject.spec.trust_remote_code
    return load_float32(loader, folder, subject.request.device, trust_remote_code=trust, **changes)


def score(subject: Subject, model: Any) -> list[float]:
    """Return the probes' scores by the plain way."""
    return subject.reference.score(model, subject.tokenizer, subject.spec, subject.pairs)


def observe_flagembedding(subject: Subject, _sentence: Sequence[float]) -> dict[str, Any]:
    """Return base and adapter in plain transformers, and the packaged folder in FlagEmbedding."""
    import torch

    request, spec = subject.request, subject.spec
    torch.manual_seed(HEAD_SEED)
    task_type = "CAUSAL_LM" if subject.reference.by_words else "SEQ_CLS"
    trust = spec.trust_remote_code
    model = load_whole(request.base, task_type, "float32", request.device, trust_remote_code=trust)
    base, hashes, adapter = score(subject, model), hash_parameters(model), None
    if request.adapter is not None:
        adapter = score(subject, attach_adapter(model, request.adapter).eval())
    del model
    release()
    native = ask_flagembedding(subject, subject.pairs)
    return {"base": base, "base_hashes": hashes, "adapter": adapter, "native": native}


def ask_flagembedding(subject: Subject, pairs: Sequence[Pair]) -> list[float]:
    """Return the packaged folder's scores in FlagEmbedding."""
    # it computes the logits of every position over the whole vocabulary
    spec = replace(subject.spec, dtype="float32", batch_size=4)
    reranker = flagembedding.open_reranker(str(subject.folder), spec, subject.request.device)
    scores = flagembedding.score_pairs(reranker, pairs)
    del reranker
    release()
    return scores


def observe_sentence_transformers(subject: Subject, sentence: Sequence[float]) -> dict[str, Any]:
    """Return the base in plain transformers, and for an encoder what FlagEmbedding makes of the packaged folder.

    Any two random heads give other scores: what a base lacks (its head, and the pooler of a masked language model) is
    taken from the trained model, so that a difference means that the model behind the head was trained.
    """
    import torch

    request, formatted = subject.request, subject.spec.scorer == "formatted-head"
    torch.manual_seed(HEAD_SEED)  # for what the trained files lack as well, which the check for completeness reports
    model, lacking = load_trained(subject, request.base, num_labels=1)
    tensors = read_tensors(require_safetensors(request.model))
    model.load_state_dict({name: tensor for name, tensor in tensors if name in lacking}, strict=False)
    hashes = {name: digest for name, digest in hash_parameters(model).items() if name not in lacking}
    base = score(subject, model)
    del model
    release()
    found: dict[str, Any] = {"base": base, "base_hashes": hashes}
    if request.adapter is not None:
        found["adapter"] = score_adapter(subject, request.adapter)
        saved = dict(read_tensors(require_safetensors(request.model)))
        wanted = read_whole_weights(request.adapter)
        found["head"] = {name: name in saved and is_same(saved[name], tensor) for name, tensor in wanted.items()}
    if formatted:
        found["other_tokens"] = find_other_tokens(
            subject, subject.pairs, lambda pair: formats.encode_formatted(subject.tokenizer, subject.spec, *pair)
        )
    flag = None if formatted else compare_with_flagembedding(subject, sentence)
    return {**found, "facts": {"base_head": "trained" if lacking else "own", "flagembedding": flag}}


def find_other_tokens(
    subject: Subject,
    pairs: Sequence[Pair],
    encode: Callable[[Pair], list[int]],
    write: Callable[[Any, Pair], list[int]] = packaging.render_ids,
) -> list[str]:
    """Return the documents that the package writes in other ids than the training, which `encode` gives."""
    return [pair[1] for pair in pairs if write(subject.tokenizer, pair) != encode(pair)]


def score_adapter(subject: Subject, adapter: Path) -> list[float]:
    """Return the probes' scores of base and adapter, which brings the head along."""
    request, trust = subject.request, subject.spec.trust_remote_code
    model = load_whole(request.base, "SEQ_CLS", "float32", request.device, trust_remote_code=trust)
    scores = score(subject, attach_adapter(model, adapter).eval())
    release()
    return scores


def is_same(saved: Any, trained: Any) -> bool:
    """Tell whether a saved weight is the trained one, in the width that it was saved in."""
    import torch

    return bool(torch.equal(saved, trained.to(saved.dtype)))


def compare_with_flagembedding(subject: Subject, sentence: Sequence[float]) -> dict[str, Any] | None:
    """Return how far FlagReranker is from CrossEncoder on the probes that neither cuts; None where it is not installed.

    Nothing depends on it but what the card may say, so a FlagEmbedding that cannot load the folder is only reported.
    """
    if importlib.util.find_spec("FlagEmbedding") is None:
        return None
    by_flagembedding = formats.REFERENCES["cross-encoder", FLAG]
    whole = by_flagembedding.find_uncut(subject.tokenizer, subject.spec, subject.pairs)
    try:
        found = ask_flagembedding(subject, [subject.pairs[index] for index in whole])
    except Exception as error:  # noqa: BLE001  whatever an optional library throws
        return {"agrees": False, "max_difference": None, "error": f"{type(error).__name__}: {error}"}
    agrees, numbers = verify.compare(found, [sentence[index] for index in whole], verify.COMPUTE_TOLERANCE)
    return {"agrees": agrees, "max_difference": numbers["max_difference"]}


def observe_swift(subject: Subject, _sentence: Sequence[float]) -> dict[str, Any]:
    """Return base, adapter on base, and trained model in swift's engine.

    A base without a head is scored behind the trained one, so that a difference means that the model behind it was
    trained.
    """
    request, two_texts = subject.request, reads_two_texts(subject.spec)
    instruction = None if two_texts else subject.spec.effective_instruction
    pairs = [subject.pairs[index] for index in subject.uncut]
    head, lacking = name_base_head(subject), {"score.weight"}
    if head == "trained" and two_texts:  # an encoder's head may be several layers
        lacking = set(load_trained(subject, request.base, num_labels=1)[1])
        release()
    engine = open_swift(subject, request.base)
    hashes = hash_parameters(engine.model)
    if head == "trained":
        hashes = {name: digest for name, digest in hashes.items() if name not in lacking}
        # the check for completeness says when the trained files lack one
        tensors = read_tensors(require_safetensors(request.model))
        engine.model.load_state_dict({name: tensor for name, tensor in tensors if name in lacking}, strict=False)
    base, adapter = swift.score_in_engine(engine, instruction, pairs), None
    del engine
    release()
    if request.adapter is not None:
        adapter = swift.score_in_engine(open_swift(subject, request.base, request.adapter), instruction, pairs)
        release()
    engine = open_swift(subject, request.model)
    write = encode_joined if two_texts else packaging.render_ids
    other = find_other_tokens(subject, pairs, partial(swift.encode_in_engine, engine, instruction), write)
    trained = swift.score_in_engine(engine, instruction, pairs)
    del engine
    release()
    found = {"places": subject.uncut, "base": base, "base_hashes": hashes, "adapter": adapter}
    return {**found, "trained": trained, "native": trained, "other_tokens": other, "facts": {"base_head": head}}


def open_swift(subject: Subject, model: Path | str, adapter: Path | None = None) -> Any:
    """Return swift's engine over the model."""
    assert subject.spec.engine is not None  # noqa: S101  parse gives every swift model one
    # swift pads on the left when it infers, where an encoder reads its first token
    single = reads_two_texts(subject.spec)
    return swift.open_engine(model, subject.spec.engine, subject.request.device, adapter, single=single)


def reads_two_texts(spec: RerankerSpec) -> bool:
    """Tell whether the package is an encoder that joins query and document by its tokenizer alone."""
    return spec.scorer == "cross-encoder" and spec.tool != FLAG


def encode_joined(tokenizer: Any, pair: Pair) -> list[int]:
    """Return the ids of the pair as the tokenizer joins two texts."""
    return list(tokenizer(*pair)["input_ids"])


def name_base_head(subject: Subject) -> str | None:
    """Return which head the base was scored with: its own, or the trained one where it has none; None: its words."""
    if subject.reference.by_words:
        return None
    head = name_head(subject.request.base, trust_remote_code=subject.spec.trust_remote_code)
    return "own" if head == "pretrained" else "trained"


@dataclass(frozen=True)
class Tool:
    """A tool that trains rerankers: `reference` is what CrossEncoder is held against.

    `observe` returns the rest of what is `Seen`, from the subject and CrossEncoder's scores. `asked` says whose scores
    the tool itself gives, None where it gives none of its own. `cuts_alike` says that CrossEncoder cuts a long pair as
    the reference does.
    """

    observe: Callable[[Subject, Sequence[float]], dict[str, Any]]
    reference: str
    asked: str | None = None
    cuts_alike: bool = False


TOOLS = {
    FLAG: Tool(observe_flagembedding, "FlagEmbedding", "the packaged model in FlagEmbedding"),
    SENTENCE: Tool(observe_sentence_transformers, "transformers", cuts_alike=True),
    SWIFT: Tool(observe_swift, "swift", "the model in swift"),
}


def compare(subject: Subject, seen: Seen, scan: WeightScan) -> list[verify.Check]:
    """Return the checks that hold the ways of scoring against each other."""
    name, tool = subject.spec.tool, TOOLS[subject.spec.tool]
    in_tool = dict(zip(seen.places, seen.native or (), strict=False))
    trained = [in_tool.get(index, one) for index, one in enumerate(seen.plain)]
    checks = [] if seen.other_tokens is None else [verify.check_same_tokens(seen.other_tokens, len(seen.places))]
    checks += [
        verify.check_finite({name: list(scores.values()) for name, scores in name_columns(subject, seen).items()}),
        verify.check_changed_weights(seen.base_hashes, seen.hashes),
        verify.check_changed_scores(seen.base, seen.trained),
    ]
    if seen.native is not None:
        plain = [seen.plain[index] for index in seen.places]
        checks.append(verify.check_same(name, str(tool.asked), seen.native, plain, verify.COMPUTE_TOLERANCE))
    exact = subject.chat_template != "approximate"
    uncut = range(len(trained)) if tool.cuts_alike else subject.uncut
    checks += [
        verify.check_sentence_transformers(trained, seen.sentence, uncut, exact=exact, library=tool.reference),
        verify.check_not_constant(seen.sentence if seen.native is None else seen.native),
    ]
    if seen.adapter is not None:
        share = verify.merge_tolerance(scan.dtypes, verify.MERGE_TOLERANCE)
        checks.append(verify.check_same("merged", "the merged model", seen.trained, seen.adapter, share))
        checks.append(verify.check_merge_keeps_training(seen.base, seen.adapter, seen.trained))
    if seen.head:
        checks.append(verify.check_head(seen.head))
    return checks


def name_columns(subject: Subject, seen: Seen) -> dict[str, dict[int, float]]:
    """Return the scores of every way under the name that reports give it, by the place of the probe."""
    every = range(len(subject.probes))
    columns = {
        "base": dict(zip(seen.places, seen.base, strict=True)),
        "model": dict(zip(every, seen.plain, strict=True)),
    }
    for name, scores in (("adapter", seen.adapter), (subject.spec.tool, seen.native)):
        if scores is not None:
            columns[name] = dict(zip(seen.places, scores, strict=True))
    return {**columns, "sentence_transformers": dict(zip(every, seen.sentence, strict=True))}


def report(subject: Subject, seen: Seen) -> dict[str, Any]:
    """Return every score of every probe, None where a way was not asked, and how exact the chat template is."""
    columns = name_columns(subject, seen)
    probes = [
        {
            "origin": probe.origin,
            "query": probe.pair[0][:80],
            "document": probe.pair[1][:80],
            "cut": index not in subject.uncut,
            **{name: verify.as_number(scores[index]) if index in scores else None for name, scores in columns.items()},
        }
        for index, probe in enumerate(subject.probes)
    ]
    return {"chat_template": subject.chat_template, "probes": probes, **(seen.facts or {})}


def describe(subject: Subject, seen: Seen, report: Mapping[str, Any]) -> Described:
    """Return the card of the tool, and what scoring.json says: lengths, ids, agreement, and scores of known pairs."""
    spec, check = subject.spec, next(one for one in report["checks"] if one["name"] == SENTENCE)
    flag, decoder, other = spec.tool == FLAG, spec.scorer != "cross-encoder", report.get("flagembedding") or {}
    facts = {
        "spec": spec,
        "decoder": decoder,
        "trainer": "ms-swift" if spec.tool == SWIFT else spec.tool,
        "by_words": subject.reference.by_words,
        "exact": subject.chat_template == "exact",
        "max_seq_length": subject.ids["max_seq_length"],
        "difference": check["max_difference"],
        "flagembedding": other["max_difference"] if other.get("agrees") else None,
        "pair_format": formats.format_of(spec) if spec.scorer == "formatted-head" else None,
        "prefix": formats.NATIVE_PREFIX,
        "suffix": formats.NATIVE_SUFFIX,
    }
    agreement = {
        "agrees": check["agrees"],
        "max_difference": check["max_difference"],
        "chat_template": subject.chat_template if decoder else None,
    }
    scores = dict(zip(subject.pairs, (seen.native if flag else None) or seen.sentence, strict=True))
    known = [
        {"query": query, "document": document, "score": verify.as_number(scores[query, document])}
        for query, document in (EXAMPLES if flag else KEPT_PROBES)
    ]
    kept = "examples" if flag else "probes"
    scoring = {**subject.ids, "sentence_transformers": agreement, f"{kept}_dtype": report["compute_dtype"], kept: known}
    if spec.engine is not None:
        scoring |= {**asdict(spec.engine), "instruction": spec.effective_instruction}
    return Described(f"reranker-{SENTENCE if reads_two_texts(spec) else spec.tool}", facts, scoring)
