"""Prove that a packaged cross-encoder is the one that sentence-transformers trained, against plain transformers.

The trained folder is scored pair by pair without padding or chat template, the packaged one by `CrossEncoder.predict`
in batches. Both cut a long pair alike, so every probe is compared.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.reranker.heads import HEAD_SEED
from orchestrator.workers.reranker.reference_scores import (
    encode_formatted,
    find_uncut,
    find_within,
    score_formatted,
    score_two_texts,
)
from orchestrator.workers.reranker.report import build_report
from orchestrator.workers.reranker.verify import (
    Loaded,
    load_trained,
    predict_with_cross_encoder,
    release,
    score_natively,
)
from orchestrator.workers.verification_checks import (
    COMPUTE_TOLERANCE,
    Check,
    check_changed_scores,
    check_changed_weights,
    check_complete,
    check_finite,
    check_not_constant,
    check_same_tokens,
    check_sentence_transformers,
    check_weights,
    compare,
)
from orchestrator.workers.weights import WeightScan, hash_parameters, read_tensors, require_safetensors

if TYPE_CHECKING:
    from orchestrator.workers.reranker.probes import Probe
    from orchestrator.workers.reranker.scoring import Pair
    from orchestrator.workers.reranker.scoring_spec import ScoringSpec
    from orchestrator.workers.reranker.verify import Subject


def reads_format(spec: ScoringSpec) -> bool:
    """Tell whether the model is a decoder that reads pairs in a written format; the other kind is an encoder."""
    return spec.scorer == "formatted-head"


def verify(subject: Subject, probes: Sequence[Probe], tokenizer: Any, scan: WeightScan) -> dict[str, Any]:
    """Return the report: `passed`, every check, every score, and whether FlagEmbedding gives the same ones.

    `tokenizer` is the packaged folder's, which encodes the texts of the trained folder too.
    """
    pairs = [probe.pair for probe in probes]
    formatted = reads_format(subject.spec)
    model = score_model(subject, pairs, tokenizer)
    base = score_base(subject, pairs, tokenizer)
    sentence = predict_with_cross_encoder(subject.packaged, subject.spec, subject.device, pairs)
    scores = {"base": base.scores, "model": model.scores, "sentence_transformers": sentence}
    checks = [
        check_weights(scan),
        check_complete(model.missing),
        check_finite(scores),
        check_changed_weights(base.hashes, model.hashes),
        check_changed_scores(base.scores, model.scores),
        check_sentence_transformers(model.scores, sentence, range(len(pairs)), exact=True, library="transformers"),
        check_not_constant(sentence),
    ]
    if formatted:
        checks.append(check_template(tokenizer, subject.spec, pairs))
    report = build_report(
        checks,
        probes,
        find_within(tokenizer, subject.spec, pairs),
        scores,
        scan=scan,
        device=subject.device,
        chat_template="exact" if formatted else None,
    )
    flagembedding = None if formatted else compare_with_flagembedding(subject, pairs, sentence, tokenizer)
    return {**report, "base_head": "trained" if base.missing else "own", "flagembedding": flagembedding}


def oracle_of(spec: ScoringSpec) -> Callable[[Any, Any, ScoringSpec, Sequence[Pair]], list[float]]:
    """Return the plain way of scoring this kind of model."""
    return score_formatted if reads_format(spec) else score_two_texts


def score_model(subject: Subject, pairs: Sequence[Pair], tokenizer: Any) -> Loaded:
    """Return the trained model's scores in plain transformers, hashes, and the weights that its files lack."""
    model, missing = load_trained(subject.model, subject.spec, subject.device, decoder=False)
    scores = oracle_of(subject.spec)(model, tokenizer, subject.spec, pairs)
    loaded = Loaded(scores, hash_parameters(model), missing)
    del model
    release()
    return loaded


def score_base(subject: Subject, pairs: Sequence[Pair], tokenizer: Any) -> Loaded:
    """Return the base model's scores, hashes of the parameters that it brings along, and those that it lacks.

    Any two random heads give other scores: what a base lacks (its head, and the pooler of a masked language model) is
    taken from the trained model, so that a difference means that the model behind the head was trained.
    """
    import torch

    torch.manual_seed(HEAD_SEED)  # for what the trained files lack as well, which the check for completeness reports
    model, lacking = load_trained(subject.base, subject.spec, subject.device, decoder=False, num_labels=1)
    model.load_state_dict(read_named(subject.model, lacking), strict=False)
    hashes = {name: digest for name, digest in hash_parameters(model).items() if name not in lacking}
    loaded = Loaded(oracle_of(subject.spec)(model, tokenizer, subject.spec, pairs), hashes, lacking)
    del model
    release()
    return loaded


def read_named(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return the named tensors that the folder's weights hold."""
    return {name: tensor for name, tensor in read_tensors(require_safetensors(folder)) if name in names}


def check_template(tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair]) -> Check:
    """Check that the packaged chat template gives the ids of the written format, for pairs of any length."""
    other = []
    for query, document in pairs:
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        if list(rendered) != encode_formatted(tokenizer, spec, query, document):
            other.append(document)
    return check_same_tokens(other, len(pairs))


def compare_with_flagembedding(
    subject: Subject, pairs: Sequence[Pair], sentence: Sequence[float], tokenizer: Any
) -> dict[str, Any] | None:
    """Return how far FlagReranker is from CrossEncoder on the probes that neither cuts; None where it is not installed.

    Nothing depends on it but what the card may say, so a FlagEmbedding that cannot load the folder is only reported.
    """
    if importlib.util.find_spec("FlagEmbedding") is None:
        return None
    whole = find_uncut(tokenizer, subject.spec, pairs, decoder=False)
    try:
        found = score_natively(subject, [pairs[index] for index in whole])
    except Exception as error:  # noqa: BLE001  whatever an optional library throws
        return {"agrees": False, "max_difference": None, "error": f"{type(error).__name__}: {error}"}
    agrees, numbers = compare(found, [sentence[index] for index in whole], COMPUTE_TOLERANCE)
    return {"agrees": agrees, "max_difference": numbers["max_difference"]}
