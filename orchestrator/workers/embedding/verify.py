"""Prove that a packaged embedding model is the one that was trained: every check, every distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.workers.embedding.checks import (
    COMPUTE_DISTANCE,
    MERGE_DISTANCE,
    check_changed_vectors,
    check_distinct_vectors,
    check_same_ids,
    check_same_vectors,
    check_test_prompt,
    check_unit_length,
    measure_distances,
)
from orchestrator.workers.embedding.oracle import encode_ids
from orchestrator.workers.embedding.ways import Subject, Vectors, embed
from orchestrator.workers.verification_checks import (
    Check,
    as_number,
    check_changed_weights,
    check_complete,
    check_finite,
    check_merge_keeps_training,
    check_weights,
)

if TYPE_CHECKING:
    from orchestrator.workers.embedding.probes import TextProbe
    from orchestrator.workers.weights import WeightScan

NEAREST = 3


def verify(subject: Subject, probes: Sequence[TextProbe], trained: Any, scan: WeightScan) -> tuple[dict[str, Any], Any]:
    """Return the report (`passed`, every check, every distance) and the packaged model's vectors.

    `trained` is the tokenizer of the training.
    """
    found = embed(subject, probes, trained)
    checks = [check_weights(scan), check_complete(found.model.missing), check_ids(subject, probes, trained)]
    checks += compare(found, scan)
    report: dict[str, Any] = {
        "version": 1,
        "compute_dtype": "float32",
        "device": subject.device,
        "dims": int(found.packaged.shape[1]),
        "weights": scan.to_json(),
        "probes": describe_probes(found, probes),
    }
    for index, probe in enumerate(probes):
        if probe.origin == "test-prompt":
            checks.append(check_test_prompt(found.packaged[index], found.base.vectors[index]))
            report["test_prompt"] = describe_neighbours(found.packaged, probes, index)
    report["checks"] = [check.to_json() for check in checks]
    report["passed"] = all(check.passed for check in checks)
    return report, found.packaged


def check_ids(subject: Subject, probes: Sequence[TextProbe], trained: Any) -> Check:
    """Check that the packaged tokenizer, asked plainly, gives the ids of training for every probe."""
    from transformers import AutoTokenizer

    spec = subject.spec
    packaged = AutoTokenizer.from_pretrained(subject.packaged, trust_remote_code=spec.trust_remote_code)
    texts = [spec.wrap(probe.kind, probe.text) for probe in probes]
    other = [
        text for text in texts if list(packaged(text, truncation=True)["input_ids"]) != encode_ids(trained, spec, text)
    ]
    return check_same_ids(other, len(texts))


def compare(found: Vectors, scan: WeightScan) -> list[Check]:
    """Return the checks that look at vectors."""
    named = {"base": found.base.vectors, "model": found.model.vectors, "packaged": found.packaged}
    named |= {name: vectors for name in ("swift", "adapter") if (vectors := getattr(found, name)) is not None}
    oracle = found.model.vectors
    checks = [
        check_finite({name: vectors.ravel().tolist() for name, vectors in named.items()}),
        check_unit_length(found.packaged),
        check_distinct_vectors(found.packaged),
        check_changed_weights(found.base.hashes, found.model.hashes),
        check_changed_vectors(found.base.vectors, oracle),
        check_same_vectors(
            *("sentence-transformers", "the packaged model's vectors differ from the trained model's"),
            *(found.packaged, oracle, COMPUTE_DISTANCE),
        ),
        check_same_vectors(
            *("transformers", "plain transformers' vectors of padded batches differ from those of single texts"),
            *(found.model.batched, oracle, COMPUTE_DISTANCE),
        ),
        check_same_vectors(
            *("reloaded", "the packaged model, loaded once more, differs from itself"),
            *(found.reloaded, found.packaged, COMPUTE_DISTANCE),
        ),
    ]
    if found.swift is not None:
        difference = "the packaged model's vectors differ from those of the trained model in swift"
        checks.append(
            check_same_vectors("swift", difference, found.packaged[found.whole], found.swift, COMPUTE_DISTANCE)
        )
    if found.adapter is not None:
        stored = max((MERGE_DISTANCE.get(dtype, 1e-3) for dtype in scan.dtypes), default=1e-3)
        difference = "the merged model's vectors differ from those of the adapter on its base in swift"
        checks.append(check_same_vectors("merged", difference, found.swift, found.adapter, stored))
        base = found.base.vectors[found.whole]
        checks.append(
            check_merge_keeps_training(*(part.ravel().tolist() for part in (base, found.adapter, found.swift)))
        )
    return checks


def describe_probes(found: Vectors, probes: Sequence[TextProbe]) -> list[dict[str, Any]]:
    """Return what the report says of each probe: the cosine distance of the packaged vector to every other one."""
    others = {"base": found.base.vectors, "model": found.model.vectors, "transformers": found.model.batched}
    columns: dict[str, dict[int, float]] = {
        name: dict(enumerate(measure_distances(found.packaged, vectors).tolist())) for name, vectors in others.items()
    }
    for name, vectors in (("swift", found.swift), ("adapter", found.adapter)):
        if vectors is not None:
            distances = measure_distances(found.packaged[found.whole], vectors).tolist()
            columns[name] = dict(zip(found.whole, distances, strict=True))
    return [
        {
            "origin": probe.origin,
            "kind": probe.kind,
            "text": probe.text[:80],
            "cut": index not in found.whole,
            "distances": {
                name: as_number(values[index]) if index in values else None for name, values in columns.items()
            },
        }
        for index, probe in enumerate(probes)
    ]


def describe_neighbours(vectors: Any, probes: Sequence[TextProbe], index: int) -> dict[str, Any]:
    """Return the text, its vector, and the probes whose vectors are nearest to it."""
    import numpy as np

    cosines = vectors @ vectors[index]
    nearest = [other for other in np.argsort(-cosines, kind="stable").tolist() if other != index][:NEAREST]
    return {
        "text": probes[index].text,
        "vector": [as_number(value) for value in vectors[index].tolist()],
        "nearest": [{"text": probes[i].text[:200], "cosine": as_number(float(cosines[i]))} for i in nearest],
    }
