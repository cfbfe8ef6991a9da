"""Prove that a packaged reranker is the one that swift trained: in swift, in plain transformers, in CrossEncoder.

swift cuts a long prompt at its end, closing words and all, while sentence-transformers keeps the closing words. Pairs
longer than `max_length` are therefore not given to swift: they are scored by the other two, and only reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.heads import name_head
from orchestrator.workers.reranker.reference_scores import find_uncut_native, score_head, score_native
from orchestrator.workers.reranker.report import build_report
from orchestrator.workers.reranker.verify import Loaded, load_trained, predict_with_cross_encoder, release
from orchestrator.workers.swift_engine import EngineSettings, encode_in_engine, open_engine, score_in_engine
from orchestrator.workers.verification_checks import (
    COMPUTE_TOLERANCE,
    MERGE_TOLERANCE,
    Check,
    check_changed_scores,
    check_changed_weights,
    check_complete,
    check_finite,
    check_merge_keeps_training,
    check_not_constant,
    check_same,
    check_same_tokens,
    check_sentence_transformers,
    check_weights,
)
from orchestrator.workers.weights import WeightScan, hash_parameters, read_tensors, require_safetensors

if TYPE_CHECKING:
    from orchestrator.workers.reranker.probes import Probe
    from orchestrator.workers.reranker.scoring import Pair
    from orchestrator.workers.reranker.verify import Subject

HEAD = "score.weight"
LEAST_PROBES = 4


def verify(
    subject: Subject, probes: Sequence[Probe], tokenizer: Any, scan: WeightScan, settings: EngineSettings
) -> dict[str, Any]:
    """Return the report: `passed`, every check and every score. `tokenizer` is the packaged folder's."""
    pairs = [probe.pair for probe in probes]
    uncut = find_uncut_native(tokenizer, subject.spec, pairs)
    if len(uncut) < LEAST_PROBES:
        raise WorkerError(
            f"max_length {subject.spec.max_length} cuts {len(pairs) - len(uncut)} of {len(pairs)} probes, which "
            "it counts with their prompt: too few are left to compare; raise max_length"
        )
    whole = [pairs[i] for i in uncut]
    # before swift is imported, which changes classes of transformers
    plain = score_model(subject, pairs, tokenizer)
    sentence = predict_with_cross_encoder(subject.packaged, subject.spec, subject.device, pairs)
    base = score_base(subject, settings, whole)
    adapter = None if subject.adapter is None else score_adapter(subject, settings, subject.adapter, whole)
    swift, same_tokens = score_trained(subject, settings, whole, tokenizer)
    checks = [
        check_weights(scan),
        check_complete(plain.missing),
        same_tokens,
        check_finite(
            {"base": base.scores, "adapter": adapter or [], "swift": swift}
            | {"model": plain.scores, "sentence_transformers": sentence}
        ),
        *compare_scores(uncut, plain=plain, sentence=sentence, base=base, adapter=adapter, swift=swift, scan=scan),
    ]
    columns: dict[str, list[float | None]] = {"model": [*plain.scores], "sentence_transformers": [*sentence]}
    for name, values in (("base", base.scores), ("adapter", adapter), ("swift", swift)):
        if values is not None:
            columns[name] = spread(values, uncut, len(pairs))
    report = build_report(checks, probes, uncut, columns, scan=scan, device=subject.device, chat_template="exact")
    return {**report, "base_head": name_base_head(subject)}


def spread(values: Sequence[float], places: Sequence[int], count: int) -> list[float | None]:
    """Return a list of `count` entries with the values at their places and None elsewhere."""
    found = dict(zip(places, values, strict=True))
    return [found.get(index) for index in range(count)]


def compare_scores(
    uncut: Sequence[int],
    *,
    plain: Loaded,
    sentence: Sequence[float],
    base: Loaded,
    adapter: Sequence[float] | None,
    swift: Sequence[float],
    scan: WeightScan,
) -> list[Check]:
    """Return the checks that hold ways of scoring against each other."""
    whole = [plain.scores[i] for i in uncut]
    in_swift = dict(zip(uncut, swift, strict=True))
    native = [in_swift.get(index, score) for index, score in enumerate(plain.scores)]
    checks = [
        check_changed_weights(base.hashes, plain.hashes),
        check_changed_scores(base.scores, swift),
        check_same("swift", "the model in swift", swift, whole, COMPUTE_TOLERANCE),
        check_sentence_transformers(native, sentence, uncut, exact=True, library="swift"),
        check_not_constant(swift),
    ]
    if adapter is not None:
        stored = max((MERGE_TOLERANCE.get(dtype, 5e-2) for dtype in scan.dtypes), default=5e-2)
        checks.append(check_same("merged", "the merged model", swift, adapter, stored))
        checks.append(check_merge_keeps_training(base.scores, adapter, swift))
    return checks


def name_base_head(subject: Subject) -> str | None:
    """Return which head the base was scored with: its own, or the trained one where it has none; None: its words."""
    if subject.decoder:
        return None
    head = name_head(subject.base, trust_remote_code=subject.spec.trust_remote_code)
    return "own" if head == "pretrained" else "trained"


def score_base(subject: Subject, settings: EngineSettings, pairs: Sequence[Pair]) -> Loaded:
    """Return the base model's scores in swift, and hashes of the parameters that it brings along.

    Any two random heads give other scores: a base without a head is scored behind the trained one, so that a difference
    means that the model behind it was trained.
    """
    engine = open_engine(subject.base, settings, subject.device)
    hashes = hash_parameters(engine.model)
    if name_base_head(subject) == "trained":
        hashes.pop(HEAD, None)
        head = dict(read_tensors(require_safetensors(subject.model))).get(HEAD)
        if head is not None:  # the check for completeness says when it is missing
            engine.model.score.weight.data.copy_(head)
    loaded = Loaded(score_in_engine(engine, subject.spec.effective_instruction, pairs), hashes)
    del engine
    release()
    return loaded


def score_adapter(subject: Subject, settings: EngineSettings, adapter: Path, pairs: Sequence[Pair]) -> list[float]:
    """Return the scores of the adapter on its base in swift: the model as training left it."""
    engine = open_engine(subject.base, settings, subject.device, adapter)
    scores = score_in_engine(engine, subject.spec.effective_instruction, pairs)
    del engine
    release()
    return scores


def score_model(subject: Subject, pairs: Sequence[Pair], tokenizer: Any) -> Loaded:
    """Return the trained model's scores in plain transformers, hashes, and the weights that its files lack."""
    model, missing = load_trained(subject.model, subject.spec, subject.device, decoder=subject.decoder)
    score = score_native if subject.decoder else score_head
    loaded = Loaded(score(model, tokenizer, subject.spec, pairs), hash_parameters(model), missing)
    del model
    release()
    return loaded


def score_trained(
    subject: Subject, settings: EngineSettings, pairs: Sequence[Pair], tokenizer: Any
) -> tuple[list[float], Check]:
    """Return the trained model's scores in swift, and whether the packaged chat template gives swift's token ids."""
    engine = open_engine(subject.model, settings, subject.device)
    instruction = subject.spec.effective_instruction
    other = []
    for query, document in pairs:
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        packaged = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        if list(packaged) != encode_in_engine(engine, instruction, (query, document)):
            other.append(document)
    scores = score_in_engine(engine, instruction, pairs)
    del engine
    release()
    return scores, check_same_tokens(other, len(pairs))
