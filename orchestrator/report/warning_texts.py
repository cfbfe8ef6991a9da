"""Says what a reader must know before trusting the numbers, and what the report could not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.evaluation.measures import CHAT, PAIR, RETRIEVAL
from orchestrator.evaluation.metrics import describe_cut
from orchestrator.report.examples import fewest_generations
from orchestrator.report.record import RunRecord
from orchestrator.report.wording import counted

FEW_UNITS = 30


def build_warnings(record: RunRecord, metrics: Mapping[str, Any]) -> list[str]:
    """Return the warnings, the gravest first."""
    return [
        *_about_checks(record),
        *_about_loss(record),
        *_about_systems(metrics),
        *_about_evaluation(record, metrics),
        *_about_data(record),
    ]


def build_missing(record: RunRecord, metrics: Mapping[str, Any]) -> list[str]:
    """Return what is missing from the run folder, one sentence each."""
    missing = list(metrics["gaps"])
    if not any(system["role"] == "baseline" for system in metrics["systems"]):
        missing.append("No baseline was scored: the tuned model is not compared with anything.")
    if not record.training.points:
        missing.append("No training loss was logged: there is no loss curve.")
    if not record.checks:
        missing.append("The packaged model was not verified: the package stage left no checks.")
    missing += [
        f"{name} is missing or cannot be read."
        for name, piece in (
            ("data/ledger.json", record.ledger),
            ("data/stats.json", record.stats),
            ("provenance.json", record.provenance),
            ("recipe.yaml", record.recipe_text),
        )
        if piece is None
    ]
    return missing


def _about_checks(record: RunRecord) -> Iterator[str]:
    for check in record.checks:
        if check.numbers.get("agrees") is False and check.passed:
            yield (
                "sentence-transformers scores the packaged model approximately: "
                "no chat template says exactly what FlagEmbedding's tokenizer does."
            )
        if check.passed is False:
            yield f"The packaged model failed a check: {check.name}. {check.detail}".strip()


def _about_loss(record: RunRecord) -> Iterator[str]:
    if bad := sum(point.loss is None for point in record.training.points):
        yield f"The training loss is not a number at {counted(bad, 'logged step')}: the training diverged."
    if bad := sum(point.loss is None for point in record.training.evaluations):
        yield f"The validation loss is not a number at {counted(bad, 'evaluation')}."
    if record.training.is_dead:
        yield "The training loss is exactly 0 in the second half: the training diverged, or had nothing to learn."


def _about_systems(metrics: Mapping[str, Any]) -> Iterator[str]:
    for system in metrics["systems"]:
        if cut := describe_cut(system.get("scoring") or {}):
            yield f"{system['label']}: {cut}."
        if metrics["kind"] == CHAT:
            yield from _about_chat(system, metrics)
        elif metrics["kind"] == PAIR:
            if system["constant"]:
                yield f"{system['label']}: every pair got the same score; a correlation is not defined, and counts 0."
        else:
            yield from _about_ranking(system, metrics)


def _about_ranking(system: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    queries, label = metrics["eval"]["units"], system["label"]
    if system["constant"]:
        yield f"{label}: every document got the same score; the values are those of a random order."
    if missing := len(system["missing_queries"]):
        yield f"{label}: {missing} of {counted(queries, 'query')} have no scores and count 0."
    if system["id"] == metrics["headline"]["baseline"] and system["head"] == "new":
        yield (
            f"{label}: its scoring head is newly initialised, so it ranks at random; "
            "being better than it shows that the model learnt, not that it beats a trained reranker."
        )
    if tied := system["tied_queries"]:
        sampled = system["sampled_queries"]
        how = f"; for {sampled} of them the mean of {system['random_orders']} random orders" if sampled else ""
        yield (
            f"{label}: in {tied} of {counted(queries, 'query')} documents with different labels share a score; "
            f"their values are expectations over random orders{how}."
        )


def _about_chat(system: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    rows, label, scoring = metrics["eval"]["units"], system["label"], system["scoring"]
    if without := system["rows_without_tokens"]:
        yield (
            f"{label}: {without} of {counted(rows, 'row')} have no token of the reference within the length limit; "
            "they are left out of the loss."
        )
    for side in ("reference", "prompt"):
        if cut := _count(scoring, f"{side}s_cut"):
            yield f"{label}: the length limit cut the {side} of {cut} of {counted(rows, 'row')}."
    generations = system["generations"]
    if cut := _count(scoring, "hit_max_new_tokens"):
        limit = _count(scoring, "max_new_tokens")
        length = f" after {counted(limit, 'token')}" if limit else ""
        yield (
            f"{label}: {cut} of {counted(generations, 'generation')} were cut by max_new_tokens{length}; "
            "exact match and ROUGE-L count what was written until then."
        )
    if empty := _count(scoring, "empty_generations"):
        yield f"{label}: {empty} of {counted(generations, 'generation')} are empty."


def _count(scoring: Mapping[str, Any], key: str) -> int:
    """Return a count of scoring.json, 0 where it does not say."""
    value = scoring.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _about_evaluation(record: RunRecord, metrics: Mapping[str, Any]) -> Iterator[str]:
    if record.plan.smoke:
        yield "This is a smoke run on a tiny model: it shows that the pipeline works, not how good the model is."
    evaluation, unit = metrics["eval"], metrics["unit"]
    if evaluation is None:
        return
    units = evaluation["units"]
    if units < FEW_UNITS:
        yield f"Only {counted(units, unit)} measured: the interval is wide, and a small difference cannot be seen."
    if without := evaluation.get("queries_without_relevant"):
        yield f"{counted(without, 'query')} of {units} have no relevant document: they count 0 for every system."
    if metrics["kind"] == RETRIEVAL:
        yield "Documents of the corpus that nobody judged count as not relevant."
    if evaluation.get("distinct_scores") == 1:
        yield "Every pair of the evaluation set has the same score: no correlation is defined, and all count 0."
    if (generated := fewest_generations(metrics)) is not None:
        yield (
            f"{f'Only {generated:,}' if generated else 'None'} of {counted(units, 'row')} have a generation: "
            "exact match and ROUGE-L are over those, loss and perplexity over all."
        )


def _about_data(record: RunRecord) -> Iterator[str]:
    for name, side in ((record.ledger or {}).get("sides") or {}).items():
        dropped = side.get("dropped") or {}
        moved = side.get("moved_to_eval", 0) + side.get("moved_to_validation", 0)
        if side.get("rows_in") != side.get("kept", 0) + side.get("merged", 0) + moved + sum(dropped.values()):
            yield f"The ledger of the {name} data does not add up: rows are unaccounted for."
        if duplicates := dropped.get("duplicate"):
            yield f"{counted(duplicates, 'row')} of the {name} data repeated another and were dropped."
    warnings = (record.ledger or {}).get("warnings") or []
    for warning in warnings:
        yield f"{str(warning.get('message', '')).rstrip('.')}."
    if any(warning.get("code") == "texts-cut" for warning in warnings):
        return
    for name in ("train", "eval"):
        tokens = ((record.stats or {}).get(name) or {}).get("tokens") or {}
        if cut := tokens.get("tokens_cut"):
            documents, queries = tokens.get("documents_cut", 0), tokens.get("queries_cut", 0)
            yield (
                f"The length limits cut {counted(cut, 'token')} from {counted(documents, 'document')} "
                f"and {counted(queries, 'query')} of the {name} data."
            )
