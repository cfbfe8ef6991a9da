"""Rerankers: the folder around their weights, and their scores by every way of every tool that trains them.

Everything is held against plain transformers, one pair at a time without padding, and against `CrossEncoder.predict`
over the packaged folder. The tool that trained the model is asked as well: FlagEmbedding about the packaged folder,
ms-swift about base, adapter and trained model. swift cuts a long prompt at its end, closing words and all, while
sentence-transformers keeps them, so pairs longer than `max_length` are not given to swift. sentence-transformers cuts
as the plain way does, so that of its models every probe is compared.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.workers import verification_checks as verify
from orchestrator.workers.engines import flagembedding, sentence_transformers, swift, transformers
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

    @property
    def reads_two_texts(self) -> bool:
        """Whether the package is an encoder that joins query and document by its tokenizer alone."""
        return self.scorer == "cross-encoder" and self.tool != FLAG


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

    def load(self, folder: Path | str, **changes: Any) -> tuple[Any, tuple[str, ...]]:
        """Return a model in float32 and the weights that its files lack; `changes` are settings of its config."""
        loader = "AutoModelForCausalLM" if self.reference.by_words else "AutoModelForSequenceClassification"
        trust = self.spec.trust_remote_code
        return transformers.load_float32(loader, folder, self.request.device, trust_remote_code=trust, **changes)

    def load_base(self) -> Any:
        """Return the base, whose files fill it; a head that is new on purpose is drawn by the seed."""
        request, task = self.request, "CAUSAL_LM" if self.reference.by_words else "SEQ_CLS"
        trust = self.spec.trust_remote_code
        return transformers.load_whole(request.base, task, "float32", request.device, trust_remote_code=trust)

    def score(self, model: Any) -> list[float]:
        """Return the probes' scores by the plain way."""
        return self.reference.score(model, self.tokenizer, self.spec, self.pairs)


def prepare(request: Request, spec: RerankerSpec, folder: Path) -> Subject:
    """Write format, lengths and modules for sentence-transformers. Raises WorkerError for a format that cannot be."""
    reference, flag = formats.REFERENCES[spec.scorer, spec.tool], spec.tool == FLAG
    trained = request.find_tokenizer()
    ids = {"max_seq_length": spec.max_length, **packaging.write_format(folder, spec, trained)}
    # what FlagEmbedding trained is encoded as its trainer did it, by that tokenizer
    tokenizer = transformers.load_tokenizer(trained if flag else folder, trust_remote_code=spec.trust_remote_code)
    probes = build_pair_probes(request.probes, tokenizer, spec.max_length)
    if spec.tool == SENTENCE:
        # texts that hold what the model's own input is made of (special tokens, its formats and their end) must change
        # nothing about where an input ends, how it is padded, or at which token it is read
        marks = " ".join(dict.fromkeys([*tokenizer.all_special_tokens[:5], spec.special_token]))
        query = f"{marks} {spec.document_format} within".strip()
        probes.append(PairProbe((query, f"ends in what ends the input {marks}{spec.special_token}"), "awkward"))
    pairs = [probe.pair for probe in probes]
    template: str | None = "exact"
    if spec.scorer == "flag-llm-reranker":
        template = "exact" if packaging.write_exact_template(folder, spec, tokenizer, pairs) else "approximate"
    elif spec.reads_two_texts:
        template = None
    uncut = reference.find_uncut(tokenizer, spec, pairs)
    if spec.tool == SWIFT and len(uncut) < LEAST_PROBES:
        raise WorkerError(
            f"max_length {spec.max_length} cuts {len(probes) - len(uncut)} of {len(probes)} probes, which it counts "
            "with their prompt: too few are left to compare; raise max_length"
        )
    return Subject(request, spec, folder, reference, tokenizer, probes, uncut, template, ids)


@dataclass(frozen=True)
class Seen:
    """The scores of the probes by every way, and hashes of the parameters of base and trained model.

    `ways` are scores by the place of the probe: of the `base`, the `model` (the trained folder), the `adapter` on its
    base, the package in `sentence_transformers`, and what the tool that trained gives, under its name. `head` says of
    each weight that the adapter holds whole whether it is the trained model's. `other_tokens` are documents that the
    package's chat template writes otherwise than the training.
    """

    ways: dict[str, dict[int, float]]
    hashes: dict[str, str]
    missing: tuple[str, ...]
    base_hashes: dict[str, str]
    head: dict[str, bool] | None = None
    other_tokens: list[str] | None = None
    facts: Mapping[str, Any] | None = None


def observe(subject: Subject) -> Seen:
    """Score the probes by every way, one model in memory at a time."""
    request, spec, pairs = subject.request, subject.spec, subject.pairs
    model, missing = subject.load(request.model)
    plain, hashes = subject.score(model), hash_parameters(model)
    del model
    # a decoder's instructions are in its chat template; an encoder has none, its user puts them in front
    texts = wrap_pairs(spec, pairs) if (spec.scorer, spec.tool) == ("cross-encoder", FLAG) else pairs
    trust = spec.trust_remote_code
    sentence = sentence_transformers.predict(subject.folder, texts, request.device, trust_remote_code=trust)
    # the tool comes last: importing swift changes classes of transformers
    asked, found = TOOLS[spec.tool].observe(subject, sentence)
    places = range(len(pairs)) if spec.tool != SWIFT else subject.uncut
    ways = {name: dict(zip(places, scores, strict=True)) for name, scores in asked.items()}
    ways |= {"model": dict(enumerate(plain)), "sentence_transformers": dict(enumerate(sentence))}
    return Seen(ways, hashes, missing, **found)


# the scores of the tool's ways by name, and the rest of what is `Seen`
Observed = tuple[dict[str, list[float]], dict[str, Any]]


def observe_flagembedding(subject: Subject, _sentence: Sequence[float]) -> Observed:
    """Return base and adapter in plain transformers, and the packaged folder in FlagEmbedding."""
    import torch

    torch.manual_seed(transformers.HEAD_SEED)
    model = subject.load_base()
    ways, hashes = {"base": subject.score(model)}, hash_parameters(model)
    if subject.request.adapter is not None:
        ways["adapter"] = subject.score(attach_adapter(model, subject.request.adapter).eval())
    del model
    return {**ways, FLAG: ask_flagembedding(subject, subject.pairs)}, {"base_hashes": hashes}


def ask_flagembedding(subject: Subject, pairs: Sequence[Pair]) -> list[float]:
    """Return the packaged folder's scores in FlagEmbedding."""
    # it computes the logits of every position over the whole vocabulary
    spec = replace(subject.spec, dtype="float32", batch_size=4)
    reranker = flagembedding.open_reranker(str(subject.folder), spec, subject.request.device)
    return flagembedding.score_pairs(reranker, pairs)


def give_head(model: Any, trained: Path, lacking: Collection[str]) -> dict[str, str]:
    """Give a base what it lacks from the trained model, and return hashes of the parameters that are its own.

    Any two random heads give other scores: so a difference means that the model behind the head was trained. The check
    for completeness says when the trained files lack one as well.
    """
    tensors = read_tensors(require_safetensors(trained))
    model.load_state_dict({name: tensor for name, tensor in tensors if name in lacking}, strict=False)
    return {name: digest for name, digest in hash_parameters(model).items() if name not in lacking}


def observe_sentence_transformers(subject: Subject, sentence: Sequence[float]) -> Observed:
    """Return the base in plain transformers, and for an encoder what FlagEmbedding makes of the packaged folder.

    What a base lacks is its head, and the pooler of a masked language model.
    """
    import torch

    request, formatted = subject.request, subject.spec.scorer == "formatted-head"
    torch.manual_seed(transformers.HEAD_SEED)
    model, lacking = subject.load(request.base, num_labels=1)
    found: dict[str, Any] = {"base_hashes": give_head(model, request.model, lacking)}
    ways = {"base": subject.score(model)}
    del model
    if request.adapter is not None:  # which brings the head along
        ways["adapter"] = subject.score(attach_adapter(subject.load_base(), request.adapter).eval())
        saved = dict(read_tensors(require_safetensors(request.model)))
        found["head"] = {
            name: name in saved and torch.equal(saved[name], tensor.to(saved[name].dtype))
            for name, tensor in read_whole_weights(request.adapter).items()
        }
    if formatted:
        encode = partial(formats.write_pair(subject.spec).encode, subject.tokenizer)
        found["other_tokens"] = find_other_tokens(subject, subject.pairs, encode)
    flag = None if formatted else compare_with_flagembedding(subject, sentence)
    return ways, {**found, "facts": {"base_head": "trained" if lacking else "own", "flagembedding": flag}}


def find_other_tokens(
    subject: Subject,
    pairs: Sequence[Pair],
    encode: Callable[..., list[int]],
    write: Callable[[Any, Pair], list[int]] = packaging.render_ids,
) -> list[str]:
    """Return the documents that the package writes in other ids than the training, which `encode` gives."""
    return [pair[1] for pair in pairs if write(subject.tokenizer, pair) != encode(*pair)]


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


def observe_swift(subject: Subject, _sentence: Sequence[float]) -> Observed:
    """Return base, adapter on base, and trained model in swift's engine; a base without a head gets the trained one."""
    request, spec = subject.request, subject.spec
    instruction = None if spec.reads_two_texts else spec.effective_instruction
    pairs = [subject.pairs[index] for index in subject.uncut]
    head, lacking = None, set[str]()  # the base is scored by its words
    if not subject.reference.by_words:
        own = transformers.name_head(request.base, trust_remote_code=spec.trust_remote_code) == "pretrained"
        head, lacking = ("own", lacking) if own else ("trained", {"score.weight"})
        if not own and spec.reads_two_texts:  # an encoder's head may be several layers
            lacking = set(subject.load(request.base, num_labels=1)[1])
    engine = open_swift(subject, request.base)
    hashes = give_head(engine.model, request.model, lacking)
    ways = {"base": swift.score_in_engine(engine, instruction, pairs)}
    del engine
    if request.adapter is not None:
        engine = open_swift(subject, request.base, request.adapter)
        ways["adapter"] = swift.score_in_engine(engine, instruction, pairs)
        del engine
    engine = open_swift(subject, request.model)
    encode = partial(swift.encode_in_engine, engine, instruction)
    joined = (lambda tokenizer, pair: tokenizer(*pair)["input_ids"]) if spec.reads_two_texts else packaging.render_ids
    other = find_other_tokens(subject, pairs, encode, joined)
    ways[SWIFT] = swift.score_in_engine(engine, instruction, pairs)
    return ways, {"base_hashes": hashes, "other_tokens": other, "facts": {"base_head": head}}


def open_swift(subject: Subject, model: Path | str, adapter: Path | None = None) -> Any:
    """Return swift's engine over the model."""
    assert subject.spec.engine is not None  # noqa: S101  parse gives every swift model one
    # swift pads on the left when it infers, where an encoder reads its first token
    single = subject.spec.reads_two_texts
    return swift.open_engine(model, subject.spec.engine, subject.request.device, adapter, single=single)


@dataclass(frozen=True)
class Tool:
    """A tool that trains rerankers: `reference` is what CrossEncoder is held against.

    `observe` is given CrossEncoder's scores. `asked` says whose scores the tool itself gives, None where it gives none
    of its own. `cuts_alike` says that CrossEncoder cuts a long pair as the reference does.
    """

    observe: Callable[[Subject, Sequence[float]], Observed]
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
    ways, name, tool = seen.ways, subject.spec.tool, TOOLS[subject.spec.tool]
    every, sentence = {**ways["model"], **ways.get(name, {})}, list(ways["sentence_transformers"].values())
    base, adapter, native = (list(ways.get(way, {}).values()) for way in ("base", "adapter", name))
    plain = [ways["model"][place] for place in ways["base"]]
    trained = native if name == SWIFT else plain
    checks = [] if seen.other_tokens is None else [verify.check_same_tokens(seen.other_tokens, len(base))]
    checks += [
        verify.check_finite({way: list(scores.values()) for way, scores in ways.items()}),
        verify.check_changed_weights(seen.base_hashes, seen.hashes),
        verify.check_changed_scores(base, trained),
    ]
    if native:
        checks.append(verify.check_same(name, str(tool.asked), native, plain, verify.COMPUTE_TOLERANCE))
    exact, library = subject.chat_template != "approximate", tool.reference
    uncut = range(len(sentence)) if tool.cuts_alike else subject.uncut
    checks += [
        verify.check_sentence_transformers(list(every.values()), sentence, uncut, exact=exact, library=library),
        verify.check_not_constant(native or sentence),
    ]
    if adapter:
        share = verify.merge_tolerance(scan.dtypes, verify.MERGE_TOLERANCE)
        checks.append(verify.check_same("merged", "the merged model", trained, adapter, share))
        checks.append(verify.check_merge_keeps_training(base, adapter, trained))
    if seen.head:
        checks.append(verify.check_head(seen.head))
    return checks


def report(subject: Subject, seen: Seen) -> dict[str, Any]:
    """Return every score of every probe, None where a way was not asked, and how exact the chat template is."""
    probes = [
        {
            "origin": probe.origin,
            "query": probe.pair[0][:80],
            "document": probe.pair[1][:80],
            "cut": index not in subject.uncut,
            **{
                name: verify.as_number(scores[index]) if index in scores else None for name, scores in seen.ways.items()
            },
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
        "pair_format": formats.write_pair(spec) if spec.scorer == "formatted-head" else None,
        "prefix": formats.NATIVE_PREFIX,
        "suffix": formats.NATIVE_SUFFIX,
    }
    agreement = {
        "agrees": check["agrees"],
        "max_difference": check["max_difference"],
        "chat_template": subject.chat_template if decoder else None,
    }
    scores = dict(zip(subject.pairs, seen.ways[FLAG if flag else "sentence_transformers"].values(), strict=True))
    known = [
        {"query": query, "document": document, "score": verify.as_number(scores[query, document])}
        for query, document in (EXAMPLES if flag else KEPT_PROBES)
    ]
    kept = "examples" if flag else "probes"
    scoring = {**subject.ids, "sentence_transformers": agreement, f"{kept}_dtype": report["compute_dtype"], kept: known}
    if spec.engine is not None:
        scoring |= {**asdict(spec.engine), "instruction": spec.effective_instruction}
    return Described(f"reranker-{SENTENCE if spec.reads_two_texts else spec.tool}", facts, scoring)
