"""The checks of packaged embeddings, one function each: vectors in, verdict and what a failure means out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.workers.verification_checks import Check, as_number

# Allowed cosine distance of two ways to one vector. It is half the square of the angle: 1e-6 is an angle of 0.0014.
# Everything is computed in float32; what a merge rounds away depends on the dtype that its weights are stored in.
COMPUTE_DISTANCE = 1e-6
MERGE_DISTANCE = {"float32": 1e-6, "float16": 1e-5, "bfloat16": 1e-3}
# vectors that are nearer to each other than this are one
CONSTANT_DISTANCE = 1e-6
NORM_TOLERANCE = 1e-4


def measure_distances(vectors: Any, others: Any) -> Any:
    """Return the cosine distance of each row to its counterpart; exact where the cosine itself rounds to 1."""
    import numpy as np

    return 0.5 * ((np.asarray(vectors, dtype=np.float64) - np.asarray(others, dtype=np.float64)) ** 2).sum(axis=1)


def check_same_vectors(name: str, what: str, vectors: Any, expected: Any, allowed: float) -> Check:
    """Check that two ways of embedding with the same weights agree on every text."""
    distances = measure_distances(vectors, expected)
    largest = as_number(float(distances.max()))
    numbers = {"max_distance": largest, "allowed": allowed, "texts": len(distances)}
    apart = f"by up to {largest} in cosine distance, allowed {allowed:g}"
    failure = f"{what} {apart}: what would be shipped is not what was trained"
    return Check(name, largest is not None and largest <= allowed, failure, numbers)


def check_changed_vectors(base: Any, model: Any) -> Check:
    """Check that training moved at least one vector."""
    import numpy as np

    largest = float(np.abs(base - model).max())
    failure = f"every vector equals the base model's (largest difference {largest:.3g}): training had no effect"
    # NaN is check_finite's to report
    return Check("changed-vectors", not largest <= COMPUTE_DISTANCE, failure, {"max_difference": as_number(largest)})


def check_unit_length(vectors: Any) -> Check:
    """Check that the packaged model gives vectors of length 1."""
    import numpy as np

    furthest = float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max())
    failure = f"vectors are not of length 1 (up to {furthest:.3g} off): dot products would not be cosines"
    return Check("unit-length", not furthest > NORM_TOLERANCE, failure, {"furthest": as_number(furthest)})


def check_distinct_vectors(vectors: Any) -> Check:
    """Check that different texts get different vectors."""
    distances = measure_distances(vectors, vectors[:1])
    spread = float(distances.max())
    failure = f"all {len(vectors)} probes get the same vector (within {spread:.3g}): the model tells no texts apart"
    return Check("not-constant", not spread <= CONSTANT_DISTANCE, failure, {"max_distance": as_number(spread)})


def check_same_ids(other: Sequence[str], texts: int) -> Check:
    """Check that the packaged tokenizer gives the ids of training; `other` are texts where it does not."""
    example = repr(other[0][:60]) if other else ""
    failure = (
        f"the packaged tokenizer gives other tokens than the training for {len(other)} of {texts} probes, such as "
        f"{example}: the end token, or the place where long texts are cut, is not that of the training"
    )
    return Check("tokens", not other, failure, {"texts": texts, "other": len(other)})


def check_test_prompt(vector: Any, base: Any) -> Check:
    """Check that the user's own text gets a finite vector that is not the base model's."""
    import numpy as np

    difference = float(np.abs(vector - base).max())
    failure = "the test prompt's vector is NaN or infinite: the model is broken"
    if np.isfinite(difference):
        failure = (
            f"the test prompt gets the base model's vector (difference {difference:.3g}): training had no effect on it"
        )
    passed = bool(np.isfinite(difference)) and difference > COMPUTE_DISTANCE
    return Check("test-prompt", passed, failure, {"difference": as_number(difference)})
