"""What every packaged reranker's report and scoring.json say alike: checks, scores of the probes, kept probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.workers.reranker.probes import AWKWARD, EXAMPLES
from orchestrator.workers.verification_checks import as_number

if TYPE_CHECKING:
    from orchestrator.workers.reranker.probes import Probe
    from orchestrator.workers.reranker.scoring_spec import ScoringSpec
    from orchestrator.workers.verification_checks import Check
    from orchestrator.workers.weights import WeightScan

# what a server is held against later: the examples and one text with line breaks
KEPT_PROBES = (*EXAMPLES, AWKWARD[0])


def build_report(
    checks: Sequence[Check],
    probes: Sequence[Probe],
    uncut: Sequence[int],
    columns: Mapping[str, Sequence[float | None]],
    *,
    scan: WeightScan,
    device: str,
    chat_template: str | None,
) -> dict[str, Any]:
    """Return the report: `passed`, every check and every score.

    `columns` holds, by way of scoring, one score a probe, None where that way was not asked. `uncut` are the places of
    the probes that no length limit touches.
    """
    return {
        "version": 1,
        "passed": all(check.passed for check in checks),
        "checks": [check.to_json() for check in checks],
        "compute_dtype": "float32",
        "device": device,
        "chat_template": chat_template,
        "weights": scan.to_json(),
        "probes": [
            {
                "origin": probe.origin,
                "query": probe.pair[0][:80],
                "document": probe.pair[1][:80],
                "cut": index not in uncut,
                **{
                    name: None if (value := values[index]) is None else as_number(value)
                    for name, values in columns.items()
                },
            }
            for index, probe in enumerate(probes)
        ],
    }


def find_agreement(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far sentence-transformers agreed with the library that scoring.json speaks for."""
    check = next(check for check in report["checks"] if check["name"] == "sentence-transformers")
    return {
        "agrees": check["agrees"],
        "max_difference": check["max_difference"],
        "chat_template": report["chat_template"],
    }


def describe_scores(spec: ScoringSpec, base: str, report: Mapping[str, Any], probes: Sequence[Probe]) -> dict[str, Any]:
    """Return what scoring.json says of base, length and agreement, and the kept probes with the folder's own scores."""
    scores = {probe.pair: row["sentence_transformers"] for probe, row in zip(probes, report["probes"], strict=True)}
    return {
        "base_model": base,
        "max_seq_length": spec.max_length,
        "sentence_transformers": find_agreement(report),
        "probes_dtype": report["compute_dtype"],
        "probes": [
            {"query": query, "document": document, "score": scores[query, document]} for query, document in KEPT_PROBES
        ],
    }
