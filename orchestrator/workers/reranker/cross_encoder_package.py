"""Package a cross-encoder that sentence-transformers trained: an encoder, or a decoder that reads a written format.

What is packaged is a checkpoint: of it only weights, config and tokenizer are taken, and no pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.workers.card_parts import name_base
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import write_json, write_text
from orchestrator.workers.packaging import (
    Request,
    copy_model,
    finish_report,
    hash_and_describe,
    load_tokenizer,
    scan_copied_weights,
)
from orchestrator.workers.reranker.cross_encoder_card import CardFacts, build_card
from orchestrator.workers.reranker.cross_encoder_verify import reads_format, verify
from orchestrator.workers.reranker.formatted_head import build_format_template, choose_padding, format_of
from orchestrator.workers.reranker.probes import Probe, build_probes
from orchestrator.workers.reranker.report import describe_scores, find_agreement
from orchestrator.workers.reranker.scoring_spec import ScoringSpec, parse_spec
from orchestrator.workers.reranker.sentence_transformers_files import write_encoder_files, write_score_head_files
from orchestrator.workers.reranker.training_format import encode_plain
from orchestrator.workers.reranker.verify import name_subject
from orchestrator.workers.tokenizer_files import read_json, set_chat_template, update_settings


def refuse_foreign(request: Request) -> None:
    """Raise WorkerError for a model that sentence-transformers did not train, or trained as an adapter."""
    scorer, tool = request.raw_spec.get("scorer"), request.raw_spec.get("tool")
    if tool != "sentence-transformers":
        raise WorkerError(
            f"the scoring spec: a {scorer} model is packaged when its tool is sentence-transformers, not {tool!r}"
        )
    if request.adapter is not None:
        raise WorkerError(
            f"--adapter {request.adapter}: sentence-transformers trains whole models, so there is no adapter to package"
        )


def write_format(folder: Path, spec: ScoringSpec) -> None:
    """Write the format of a decoder's pairs, its padding, lengths and modules.

    The padding is written even when the checkpoint has one: it decides at which token the logit is read.
    """
    pair_format = format_of(spec)
    tokenizer = load_tokenizer(folder, trust_remote_code=spec.trust_remote_code)
    padding = choose_padding(tokenizer, pair_format)
    update_settings(
        folder, model_max_length=spec.max_length, padding_side="right", truncation_side="right", pad_token=padding
    )
    set_chat_template(folder, build_format_template(pair_format))
    pad_token_id = tokenizer.convert_tokens_to_ids(padding)
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "pad_token_id": pad_token_id})
    write_score_head_files(folder, pad_token_id)


def adds_special_tokens(tokenizer: Any) -> bool:
    """Tell whether the tokenizer puts tokens around a text, which the training's format does without."""
    return bool(tokenizer("a")["input_ids"] != encode_plain(tokenizer, "a"))


def build_marked_probe(tokenizer: Any, spec: ScoringSpec) -> Probe:
    """Return a pair whose texts hold what the model's own input is made of: special tokens, its formats and their end.

    Such a text must change nothing about where an input ends, how it is padded, or at which token it is read.
    """
    marks = " ".join(dict.fromkeys([*tokenizer.all_special_tokens[:5], spec.special_token]))
    query = f"{marks} {spec.document_format} within".strip()
    return Probe((query, f"ends in what ends the input {marks}{spec.special_token}"), "awkward")


def describe(
    request: Request, spec: ScoringSpec, folder: Path, report: dict[str, Any], probes: Sequence[Probe]
) -> dict[str, Any]:
    """Write README.md and return what scoring.json says."""
    base, hub_base = name_base(request.base, request.raw_spec)
    flagembedding = report["flagembedding"] or {}
    facts = CardFacts(
        base=base,
        hub_base=hub_base,
        spec=spec,
        formatted=reads_format(spec),
        difference=find_agreement(report)["max_difference"],
        flagembedding=flagembedding["max_difference"] if flagembedding.get("agrees") else None,
    )
    write_text(folder / "README.md", build_card(facts))
    return {**request.raw_spec, **describe_scores(spec, base, report, probes)}


def package(request: Request, folder: Path) -> None:
    """Fill `folder`, verify it and write the report. Raises WorkerError with one line a failed check."""
    spec = parse_spec(request.raw_spec, "the scoring spec")
    refuse_foreign(request)
    copy_model(request, folder, trust_remote_code=spec.trust_remote_code)
    scan = scan_copied_weights(request, folder)
    if reads_format(spec):
        write_format(folder, spec)
    else:
        update_settings(folder, model_max_length=spec.max_length)
        write_encoder_files(folder)
    tokenizer = load_tokenizer(folder, trust_remote_code=spec.trust_remote_code)
    probes = [*build_probes(request.probes, tokenizer, spec.max_length), build_marked_probe(tokenizer, spec)]
    report = verify(name_subject(request, folder, spec), probes, tokenizer, scan)
    finish_report(request, report)
    described = describe(request, spec, folder, report, probes)
    if reads_format(spec):
        described["adds_special_tokens"] = adds_special_tokens(tokenizer)
    hash_and_describe(folder, described)
