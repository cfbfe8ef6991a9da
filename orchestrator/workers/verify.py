"""Prove that a packaged model is the model that was trained: every check, every number, and what a failure means."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.workers.merge import attach_adapter, load_base
from orchestrator.workers.probes import Probe
from orchestrator.workers.reference_scores import find_uncut, score_decoder, score_encoder
from orchestrator.workers.scoring import HEAD_SEED, Pair, load_scorer
from orchestrator.workers.scoring_spec import ScoringSpec
from orchestrator.workers.weights import WeightScan, hash_parameters

# Allowed difference of two ways to the same score, as a share of the score scale. Everything is computed in float32; what
# the merge rounds away depends on the dtype that the merged weights are stored in.
COMPUTE_TOLERANCE = 1e-3
MERGE_TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
# scores that differ by less than this share of the largest are equal
CONSTANT_SHARE = 1e-4
CHANGED_SHARE = 1e-6
# FlagEmbedding computes the logits of every position over the whole vocabulary
BATCH_SIZE = 4


@dataclass(frozen=True)
class Check:
    """One thing that was checked; `failure` says what is wrong and what it means when it did not pass."""

    name: str
    passed: bool
    failure: str
    numbers: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the check as JSON-ready data."""
        line = {} if self.passed else {"failure": self.failure}
        return {"name": self.name, "passed": self.passed, **line, **self.numbers}


@dataclass(frozen=True)
class Subject:
    """What is verified. `model` is the merged or fully trained folder, `packaged` the staged artefact."""

    base: str
    adapter: Path | None
    model: Path
    packaged: Path
    spec: ScoringSpec
    decoder: bool
    exact_template: bool
    device: str


@dataclass(frozen=True)
class Loaded:
    """One way of scoring the probes: the scores, hashes of the parameters, and keys that the files lacked."""

    scores: list[float]
    hashes: dict[str, str]
    missing: tuple[str, ...] = ()


def verify(subject: Subject, probes: Sequence[Probe], tokenizer: Any, scan: WeightScan) -> dict[str, Any]:
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
        check_complete(model),
        check_finite(scores),
        check_changed_weights(base, model),
        check_changed_scores(base.scores, model.scores),
        check_same("flagembedding", "the packaged model in FlagEmbedding", native, model.scores, COMPUTE_TOLERANCE),
        check_sentence_transformers(subject, native, sentence, uncut),
        check_not_constant(native),
    ]
    if adapter is not None:
        stored = max((MERGE_TOLERANCE.get(dtype, 1e-1) for dtype in scan.dtypes), default=1e-1)
        checks.append(check_same("merged", "the merged model", model.scores, adapter, stored))
        checks.append(check_merge_keeps_training(base.scores, adapter, model.scores))
    return {
        "version": 1,
        "passed": all(check.passed for check in checks),
        "checks": [check.to_json() for check in checks],
        "compute_dtype": "float32",
        "device": subject.device,
        "chat_template": "exact" if subject.exact_template else "approximate",
        "weights": scan.to_json(),
        "probes": [
            {
                "origin": probe.origin,
                "query": probe.pair[0][:80],
                "document": probe.pair[1][:80],
                "cut": index not in uncut,
                **{name: as_number(values[index]) for name, values in scores.items()},
            }
            for index, probe in enumerate(probes)
        ],
    }


def list_failures(report: dict[str, Any]) -> list[str]:
    """Return one line a failed check."""
    return [f"{check['name']}: {check['failure']}" for check in report["checks"] if not check["passed"]]


def as_number(value: float) -> float | None:
    """Return the value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None


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


def score_model(subject: Subject, pairs: Sequence[Pair], tokenizer: Any) -> Loaded:
    """Return the trained model's scores and hashes, and the weights that its files lack."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    loader = AutoModelForCausalLM if subject.decoder else AutoModelForSequenceClassification
    model, info = loader.from_pretrained(
        subject.model,
        dtype="float32",
        output_loading_info=True,
        trust_remote_code=subject.spec.trust_remote_code,
    )
    model = model.to(subject.device).eval()
    lacking = sorted(
        {*map(str, info.get("missing_keys", ())), *(str(key[0]) for key in info.get("mismatched_keys", ()))}
    )
    loaded = Loaded(
        scorer_of(subject)(model, tokenizer, subject.spec, pairs), hash_parameters(model), tuple(lacking)
    )
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
    """Return the packaged folder's scores in `CrossEncoder(folder).predict`, nothing else given but the dtype."""
    from sentence_transformers import CrossEncoder

    spec = subject.spec
    encoder = CrossEncoder(
        str(subject.packaged),
        device=subject.device,
        trust_remote_code=spec.trust_remote_code,
        model_kwargs={"torch_dtype": "float32"},
        local_files_only=True,
    )
    # a decoder's instructions are in its chat template; an encoder has none, its user puts them in front
    texts = list(pairs) if subject.decoder else [(spec.wrap_query(q), spec.wrap_document(d)) for q, d in pairs]
    scores = [float(value) for value in encoder.predict(texts, batch_size=BATCH_SIZE, show_progress_bar=False)]
    del encoder
    release()
    return scores


def measure_scale(scores: Sequence[float]) -> float:
    """Return the spread of the scores, at least a twentieth of the largest: float noise grows with the logits."""
    largest = max((abs(score) for score in scores), default=0.0)
    return max(max(scores) - min(scores), 0.05 * largest, 1e-6)


def compare(scores: Sequence[float], expected: Sequence[float], share: float) -> tuple[bool, dict[str, Any]]:
    """Return whether the scores agree within `share` of the scale of the expected ones, and the numbers."""
    differences = [abs(one - other) for one, other in zip(scores, expected, strict=True)]
    scale = measure_scale(expected) if expected else 1.0
    largest = max(differences, default=0.0)
    if not all(map(math.isfinite, differences)):  # max() may skip a NaN
        largest = math.inf
    return largest <= share * scale, {
        "max_difference": as_number(largest),
        "tolerance": as_number(share * scale),
        "share_of_scale": share,
        "scale": as_number(scale),
        "pairs": len(differences),
    }


def check_same(name: str, what: str, scores: Sequence[float], expected: Sequence[float], share: float) -> Check:
    """Check that two ways of scoring the same weights agree."""
    passed, numbers = compare(scores, expected, share)
    against = "the adapter on its base" if name == "merged" else "the trained model"
    failure = (
        f"{what} scores differently from {against} (up to {numbers['max_difference']}, allowed {numbers['tolerance']}): "
        "what would be shipped is not what was trained"
    )
    return Check(name, passed, failure, numbers)


def check_sentence_transformers(
    subject: Subject, native: Sequence[float], sentence: Sequence[float], uncut: Sequence[int]
) -> Check:
    """Check that CrossEncoder agrees with FlagEmbedding on every pair that no length limit cuts.

    The two cut differently, so the others are only reported. An approximate chat template is reported, not refused.
    """
    passed, numbers = compare([sentence[i] for i in uncut], [native[i] for i in uncut], COMPUTE_TOLERANCE)
    cut = [i for i in range(len(native)) if i not in uncut]
    numbers["cut_pairs"] = len(cut)
    numbers["cut_max_difference"] = as_number(max((abs(sentence[i] - native[i]) for i in cut), default=0.0))
    numbers["agrees"] = passed
    failure = (
        f"the packaged model scores differently in sentence-transformers than in FlagEmbedding (up to "
        f"{numbers['max_difference']}, allowed {numbers['tolerance']}): the folder would not give its users one score"
    )
    approximate = subject.decoder and not subject.exact_template and all(map(math.isfinite, sentence))
    return Check("sentence-transformers", passed or approximate, failure, numbers)


def check_weights(scan: WeightScan) -> Check:
    """Check that the packaged weights are finite, not empty and not absurd."""
    return Check(
        "weights", not scan.problems, "; ".join(scan.problems), {"tensors": scan.tensors, "parameters": scan.parameters}
    )


def check_complete(model: Loaded) -> Check:
    """Check that no weight had to be made up when the model was loaded."""
    failure = (
        f"{len(model.missing)} weights are not in the files and would be random, such as {', '.join(model.missing[:3])}: "
        "the checkpoint does not fit its config"
    )
    return Check("complete", not model.missing, failure, {"missing": list(model.missing[:20])})


def check_finite(scores: dict[str, list[float]]) -> Check:
    """Check that every score is a number."""
    bad = {name: sum(not math.isfinite(value) for value in values) for name, values in scores.items()}
    named = ", ".join(f"{name} ({count})" for name, count in bad.items() if count)
    return Check("finite", not named, f"scores are NaN or infinite in {named}: the model is broken", {"not_finite": bad})


def check_changed_weights(base: Loaded, model: Loaded) -> Check:
    """Check that training changed at least one weight that the base has too."""
    common = base.hashes.keys() & model.hashes.keys()
    changed = sorted(name for name in common if base.hashes[name] != model.hashes[name])
    failure = f"all {len(common)} weights equal the base model's: nothing was trained, or the base was packaged"
    if not common:
        failure = "no weight has a name in the base model: this model was not trained from that base"
    return Check("changed-weights", bool(changed), failure, {"changed": len(changed), "compared": len(common)})


def check_changed_scores(base: Sequence[float], model: Sequence[float]) -> Check:
    """Check that training changed at least one score."""
    differences = [abs(one - other) for one, other in zip(base, model, strict=True)]
    largest = max(differences)
    least = CHANGED_SHARE * max(map(abs, base))
    failure = f"every score equals the base model's (largest difference {largest:.3g}): training had no effect"
    # NaN is check_finite's to report
    passed = largest > least or not math.isfinite(largest)
    return Check("changed-scores", passed, failure, {"max_difference": as_number(largest), "least": as_number(least)})


def check_not_constant(scores: Sequence[float]) -> Check:
    """Check that different pairs get different scores."""
    spread, largest = max(scores) - min(scores), max(map(abs, scores))
    least = CONSTANT_SHARE * max(largest, 1e-3)
    failure = f"all {len(scores)} probes get the same score ({scores[0]:.6g}): the model ranks nothing"
    numbers = {"spread": as_number(spread), "least": as_number(least)}
    return Check("not-constant", spread > least or not math.isfinite(spread), failure, numbers)


def check_merge_keeps_training(base: Sequence[float], adapter: Sequence[float], model: Sequence[float]) -> Check:
    """Check that rounding the merged weights took less than half of what the adapter changes."""
    effect = sum(abs(one - other) for one, other in zip(adapter, base, strict=True)) / len(base)
    loss = sum(abs(one - other) for one, other in zip(model, adapter, strict=True)) / len(base)
    failure = (
        f"merging lost most of the training: it moves scores by {loss:.3g} where the adapter moves them by {effect:.3g}; "
        "merge in float32, or train longer or with a larger learning rate"
    )
    passed = loss < 0.5 * effect or not math.isfinite(loss + effect)
    return Check("merge-keeps-training", passed, failure, {"effect": as_number(effect), "loss": as_number(loss)})
