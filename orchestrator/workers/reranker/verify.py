"""Prove that a packaged model is the model that was trained: every check, every number, and what a failure means."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.merge import attach_adapter, load_base
from orchestrator.workers.pickles import weight_options
from orchestrator.workers.reranker.heads import HEAD_SEED
from orchestrator.workers.reranker.reference_scores import find_uncut, score_decoder, score_encoder
from orchestrator.workers.reranker.report import build_report
from orchestrator.workers.reranker.scoring import Pair, load_scorer
from orchestrator.workers.verification_checks import (
    COMPUTE_TOLERANCE,
    MERGE_TOLERANCE,
    check_changed_scores,
    check_changed_weights,
    check_complete,
    check_finite,
    check_merge_keeps_training,
    check_not_constant,
    check_same,
    check_sentence_transformers,
    check_weights,
)
from orchestrator.workers.weights import WeightScan, hash_parameters

if TYPE_CHECKING:
    from orchestrator.workers.packaging import Request
    from orchestrator.workers.reranker.probes import Probe
    from orchestrator.workers.reranker.scoring_spec import ScoringSpec

# FlagEmbedding computes the logits of every position over the whole vocabulary
BATCH_SIZE = 4


@dataclass(frozen=True)
class Subject:
    """What is verified. `model` is the merged or fully trained folder, `packaged` the staged artefact."""

    base: str
    adapter: Path | None
    model: Path
    packaged: Path
    spec: ScoringSpec
    device: str

    @property
    def decoder(self) -> bool:
        """Whether the score is read from the language model's own head, and not from a head of one label."""
        return self.spec.scorer in ("flag-llm-reranker", "qwen3-native")


@dataclass(frozen=True)
class Loaded:
    """One way of scoring the probes: the scores, hashes of the parameters, and keys that the files lacked."""

    scores: list[float]
    hashes: dict[str, str]
    missing: tuple[str, ...] = ()


def name_subject(request: Request, folder: Path, spec: ScoringSpec) -> Subject:
    """Return what the request asks to verify, packaged into `folder`."""
    return Subject(request.base, request.adapter, request.model, folder, spec, request.device)


def verify(
    subject: Subject, probes: Sequence[Probe], tokenizer: Any, scan: WeightScan, *, exact_template: bool
) -> dict[str, Any]:
    """Return the report: `passed`, every check and every score. `tokenizer` is the trained folder's own."""
    pairs = [probe.pair for probe in probes]
    uncut = find_uncut(tokenizer, subject.spec, pairs, decoder=subject.decoder)
    base, adapter = score_base(subject, pairs, tokenizer)
    model = score_model(subject, pairs, tokenizer)
    native = score_natively(subject, pairs)
    sentence = score_with_sentence_transformers(subject, pairs)
    scores = {"base": base.scores, "model": model.scores, "flagembedding": native, "sentence_transformers": sentence}
    if adapter is not None:
        scores["adapter"] = adapter
    checks = [
        check_weights(scan),
        check_complete(model.missing),
        check_finite(scores),
        check_changed_weights(base.hashes, model.hashes),
        check_changed_scores(base.scores, model.scores),
        check_same("flagembedding", "the packaged model in FlagEmbedding", native, model.scores, COMPUTE_TOLERANCE),
        check_sentence_transformers(native, sentence, uncut, exact=exact_template),
        check_not_constant(native),
    ]
    if adapter is not None:
        stored = max((MERGE_TOLERANCE.get(dtype, 5e-2) for dtype in scan.dtypes), default=5e-2)
        checks.append(check_same("merged", "the merged model", model.scores, adapter, stored))
        checks.append(check_merge_keeps_training(base.scores, adapter, model.scores))
    template = "exact" if exact_template else "approximate"
    return build_report(checks, probes, uncut, scores, scan=scan, device=subject.device, chat_template=template)


def release() -> None:
    """Give back the memory of models that went out of scope."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def scorer_of(subject: Subject) -> Callable[[Any, Any, ScoringSpec, Sequence[Pair]], list[float]]:
    """Return the oracle for this kind of model."""
    return score_decoder if subject.decoder else score_encoder


def score_base(subject: Subject, pairs: Sequence[Pair], tokenizer: Any) -> tuple[Loaded, list[float] | None]:
    """Return the base model's scores and hashes, and its scores with the adapter on top when there is one."""
    import torch

    torch.manual_seed(HEAD_SEED)
    model = load_base(
        subject.base,
        "CAUSAL_LM" if subject.decoder else "SEQ_CLS",
        "float32",
        trust_remote_code=subject.spec.trust_remote_code,
    )
    model = model.to(subject.device).eval()
    score = scorer_of(subject)
    base = Loaded(score(model, tokenizer, subject.spec, pairs), hash_parameters(model))
    adapted = None
    if subject.adapter is not None:
        adapted = score(attach_adapter(model, subject.adapter).eval(), tokenizer, subject.spec, pairs)
    del model
    release()
    return base, adapted


def load_trained(
    folder: Path | str, spec: ScoringSpec, device: str, *, decoder: bool, **changes: Any
) -> tuple[Any, tuple[str, ...]]:
    """Return the model in float32 and the weights that its files lack; a decoder is a causal language model.

    `changes` are settings of its config.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    loader = AutoModelForCausalLM if decoder else AutoModelForSequenceClassification
    model, info = loader.from_pretrained(
        folder,
        torch_dtype="float32",
        output_loading_info=True,
        trust_remote_code=spec.trust_remote_code,
        **weight_options(),
        **changes,
    )
    lacking = {*map(str, info.get("missing_keys", ())), *(str(key[0]) for key in info.get("mismatched_keys", ()))}
    return model.to(device).eval(), tuple(sorted(lacking))


def score_model(subject: Subject, pairs: Sequence[Pair], tokenizer: Any) -> Loaded:
    """Return the trained model's scores and hashes, and the weights that its files lack."""
    model, missing = load_trained(subject.model, subject.spec, subject.device, decoder=subject.decoder)
    loaded = Loaded(scorer_of(subject)(model, tokenizer, subject.spec, pairs), hash_parameters(model), missing)
    del model
    release()
    return loaded


def score_natively(subject: Subject, pairs: Sequence[Pair]) -> list[float]:
    """Return the packaged folder's scores in FlagEmbedding."""
    spec = replace(subject.spec, dtype="float32", batch_size=BATCH_SIZE)
    if subject.decoder:
        scores = load_scorer(str(subject.packaged), spec, subject.device).score(pairs, None)
    else:
        from FlagEmbedding import FlagReranker

        reranker = FlagReranker(
            str(subject.packaged),
            query_instruction_for_rerank=spec.query_instruction,
            query_instruction_format=spec.query_instruction_format,
            passage_instruction_for_rerank=spec.passage_instruction,
            passage_instruction_format=spec.passage_instruction_format,
            trust_remote_code=spec.trust_remote_code,
            devices=[subject.device],
            batch_size=BATCH_SIZE,
            query_max_length=spec.query_max_length,
            max_length=spec.max_length,
            normalize=False,
        )
        scores = [float(value) for value in reranker.compute_score([list(pair) for pair in pairs])]
    release()
    return scores


def score_with_sentence_transformers(subject: Subject, pairs: Sequence[Pair]) -> list[float]:
    """Return the packaged folder's scores in sentence-transformers."""
    # a decoder's instructions are in its chat template; an encoder has none, its user puts them in front
    spec = subject.spec
    texts = list(pairs) if subject.decoder else [(spec.wrap_query(q), spec.wrap_document(d)) for q, d in pairs]
    return predict_with_cross_encoder(subject.packaged, spec, subject.device, texts)


def predict_with_cross_encoder(folder: Path, spec: ScoringSpec, device: str, pairs: Sequence[Pair]) -> list[float]:
    """Return the folder's scores in `CrossEncoder(folder).predict`, nothing else given but the dtype."""
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(
        str(folder),
        device=device,
        trust_remote_code=spec.trust_remote_code,
        model_kwargs={"torch_dtype": "float32", **weight_options()},
        local_files_only=True,
    )
    scores = [float(value) for value in encoder.predict(list(pairs), batch_size=BATCH_SIZE, show_progress_bar=False)]
    del encoder
    release()
    return scores
