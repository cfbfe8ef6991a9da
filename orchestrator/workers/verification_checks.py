"""The checks of a packaged model, one function each: numbers in, verdict and what a failure means out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.workers.weights import WeightScan

# Allowed difference of two ways to the same score, as a share of the score scale. Everything is computed in float32;
# what the merge rounds away depends on the dtype that the merged weights are stored in.
COMPUTE_TOLERANCE = 1e-3
MERGE_TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
# scores that differ by less than this share of the largest are equal
CONSTANT_SHARE = 1e-4
CHANGED_SHARE = 1e-6


def merge_tolerance(dtypes: Sequence[str], allowed: Mapping[str, float]) -> float:
    """Return what a merge may round away: what is allowed of the coarsest dtype that the weights are stored in."""
    return max((allowed.get(dtype, allowed["bfloat16"]) for dtype in dtypes), default=allowed["bfloat16"])


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


def as_number(value: float) -> float | None:
    """Return the value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None


def measure_scale(scores: Sequence[float]) -> float:
    """Return the spread of the scores, at least a twentieth of the largest: float noise grows with the logits."""
    largest = max((abs(score) for score in scores), default=0.0)
    return max(max(scores) - min(scores), 0.05 * largest, 1e-6)


def compare(scores: Sequence[float], expected: Sequence[float], share: float) -> tuple[bool, dict[str, Any]]:
    """Return whether the scores agree within `share` of the scale of the expected ones, and the numbers.

    Where there are more of the one than of the other, as of two vocabularies, they do not.
    """
    if len(scores) != len(expected):
        return False, {"max_difference": None, "tolerance": None, "pairs": [len(scores), len(expected)]}
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
        f"{what} scores differently from {against} (up to {numbers['max_difference']}, allowed "
        f"{numbers['tolerance']}): what would be shipped is not what was trained"
    )
    return Check(name, passed, failure, numbers)


def check_sentence_transformers(
    native: Sequence[float],
    sentence: Sequence[float],
    uncut: Sequence[int],
    *,
    exact: bool,
    library: str = "FlagEmbedding",
) -> Check:
    """Check that CrossEncoder agrees with `library`, the one that trained, on every pair that no length limit cuts.

    The two cut differently, so the others are only reported; an approximate chat template (not `exact`) likewise.
    """
    passed, numbers = compare([sentence[i] for i in uncut], [native[i] for i in uncut], COMPUTE_TOLERANCE)
    cut = [i for i in range(len(native)) if i not in uncut]
    numbers["cut_pairs"] = len(cut)
    numbers["cut_max_difference"] = as_number(max((abs(sentence[i] - native[i]) for i in cut), default=0.0))
    numbers["agrees"] = passed
    failure = (
        f"the packaged model scores differently in sentence-transformers than in {library} (up to "
        f"{numbers['max_difference']}, allowed {numbers['tolerance']}): the folder would not give its users one score"
    )
    approximate = not exact and all(map(math.isfinite, sentence))
    return Check("sentence-transformers", passed or approximate, failure, numbers)


def check_same_tokens(other: Sequence[str], pairs: int) -> Check:
    """Check that the packaged chat template gives the token ids of training; `other` are documents where not."""
    failure = (
        f"the packaged chat template gives other tokens than the training for {len(other)} of {pairs} probes, such as "
        f"{other[0][:60]!r}: the model would be asked in a form that it never saw"
        if other
        else ""
    )
    return Check("tokens", not other, failure, {"pairs": pairs, "other": len(other)})


def check_weights(scan: WeightScan) -> Check:
    """Check that the packaged weights are finite, not empty and not absurd."""
    return Check(
        "weights", not scan.problems, "; ".join(scan.problems), {"tensors": scan.tensors, "parameters": scan.parameters}
    )


def check_complete(missing: Sequence[str]) -> Check:
    """Check that no weight had to be made up when the model was loaded."""
    failure = (
        f"{len(missing)} weights are not in the files and would be random, such as {', '.join(missing[:3])}"
        ": the checkpoint does not fit its config"
    )
    return Check("complete", not missing, failure, {"missing": list(missing[:20])})


def check_finite(scores: dict[str, list[float]]) -> Check:
    """Check that every score is a number."""
    bad = {name: sum(not math.isfinite(value) for value in values) for name, values in scores.items()}
    named = ", ".join(f"{name} ({count})" for name, count in bad.items() if count)
    return Check(
        "finite", not named, f"scores are NaN or infinite in {named}: the model is broken", {"not_finite": bad}
    )


def check_changed_weights(base: Mapping[str, str], model: Mapping[str, str]) -> Check:
    """Check that training changed at least one weight that the base has too."""
    common = base.keys() & model.keys()
    changed = sorted(name for name in common if base[name] != model[name])
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
        f"merging lost most of the training: it moves scores by {loss:.3g}, the adapter by {effect:.3g}; "
        "merge in float32, or train longer or with a larger learning rate"
    )
    passed = loss < 0.5 * effect or not math.isfinite(loss + effect)
    return Check("merge-keeps-training", passed, failure, {"effect": as_number(effect), "loss": as_number(loss)})


def check_head(same: Mapping[str, bool]) -> Check:
    """Check that the weights that were trained whole, beside LoRA, are those of the merged model."""
    other = sorted(name for name, equal in same.items() if not equal)
    failure = f"the head is not the one that was trained: {', '.join(other[:3])} differ from the adapter's"
    return Check("head", not other, failure, {"compared": len(same), "other": len(other)})
