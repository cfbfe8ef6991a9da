"""Package a reranker that swift trained in Qwen3-Reranker's prompt: scored by its words, or by a head of one label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.card_parts import name_base
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import write_text
from orchestrator.workers.packaging import (
    Request,
    copy_model,
    finish_report,
    hash_and_describe,
    load_tokenizer,
    restore_cache,
    scan_copied_weights,
)
from orchestrator.workers.reranker.probes import build_probes
from orchestrator.workers.reranker.report import describe_scores, find_agreement
from orchestrator.workers.reranker.scoring import answer_ids, native_chat_template
from orchestrator.workers.reranker.scoring_spec import ScoringSpec, parse_spec
from orchestrator.workers.reranker.sentence_transformers_files import write_decoder_files, write_score_head_files
from orchestrator.workers.reranker.swift_card import CardFacts, build_card
from orchestrator.workers.reranker.swift_verify import verify
from orchestrator.workers.reranker.verify import name_subject
from orchestrator.workers.swift_engine import EngineSettings
from orchestrator.workers.tokenizer_files import set_chat_template, update_settings

if TYPE_CHECKING:
    from orchestrator.workers.reranker.probes import Probe

TASK_TYPES = {"qwen3-native": "generative_reranker", "qwen3-score-head": "reranker"}
TEMPLATE = "qwen3_reranker"


def read_settings(raw: dict[str, Any], spec: ScoringSpec) -> EngineSettings:
    """Return how swift was told to read the model. Raises WorkerError for what the spec's scorer does not fit."""
    settings = EngineSettings(
        model_type=raw.get("model_type", "qwen3_reranker"),
        task_type=raw.get("task_type", TASK_TYPES[spec.scorer]),
        template=raw.get("template") or TEMPLATE,
    )
    if raw.get("tool") != "swift":
        raise WorkerError(f"the scoring spec: a {spec.scorer} model is packaged when its tool is swift")
    if settings.task_type != TASK_TYPES[spec.scorer]:
        raise WorkerError(
            f"the scoring spec: task_type {settings.task_type} does not fit the scorer {spec.scorer}, whose models "
            f"are trained with task_type {TASK_TYPES[spec.scorer]}"
        )
    if settings.template != TEMPLATE:
        raise WorkerError(
            f"the scoring spec: template {settings.template} cannot be packaged; the scorer {spec.scorer} asks in "
            f"{TEMPLATE}"
        )
    return settings


def write_format(folder: Path, spec: ScoringSpec) -> dict[str, Any]:
    """Write prompt, lengths and modules; return the ids that scoring.json names."""
    restore_cache(folder)
    update_settings(folder, model_max_length=spec.max_length, padding_side="left")
    set_chat_template(folder, native_chat_template(spec.effective_instruction))
    tokenizer = load_tokenizer(folder, trust_remote_code=spec.trust_remote_code)
    if spec.scorer == "qwen3-score-head":
        write_score_head_files(folder, tokenizer.pad_token_id)
        return {}
    ids = answer_ids(tokenizer, folder.name)
    write_decoder_files(folder, ids["yes"], ids["no"])
    return {
        "true_token": "yes",
        "true_token_id": ids["yes"],
        "false_token": "no",
        "false_token_id": ids["no"],
    }


def describe(
    request: Request, spec: ScoringSpec, folder: Path, report: dict[str, Any], probes: Sequence[Probe]
) -> dict[str, Any]:
    """Write README.md and return what scoring.json says."""
    base, hub_base = name_base(request.base, request.raw_spec)
    difference = find_agreement(report)["max_difference"]
    write_text(folder / "README.md", build_card(CardFacts(base, hub_base, spec, difference)))
    return {
        **request.raw_spec,
        **asdict(read_settings(request.raw_spec, spec)),
        "instruction": spec.effective_instruction,
        **describe_scores(spec, base, report, probes),
    }


def package(request: Request, folder: Path) -> None:
    """Fill `folder`, verify it and write the report. Raises WorkerError with one line a failed check."""
    spec = parse_spec(request.raw_spec, "the scoring spec")
    settings = read_settings(request.raw_spec, spec)
    copy_model(request, folder, trust_remote_code=spec.trust_remote_code)
    scan = scan_copied_weights(request, folder)
    ids = write_format(folder, spec)
    tokenizer = load_tokenizer(folder, trust_remote_code=spec.trust_remote_code)
    probes = build_probes(request.probes, tokenizer, spec.max_length)
    report = verify(name_subject(request, folder, spec), probes, tokenizer, scan, settings)
    finish_report(request, report)
    hash_and_describe(folder, {**describe(request, spec, folder, report, probes), **ids})
