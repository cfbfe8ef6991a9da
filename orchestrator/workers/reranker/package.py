"""Package a reranker that FlagEmbedding trained: it scores alike in FlagEmbedding and in sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.card_parts import name_base
from orchestrator.workers.folders import write_text
from orchestrator.workers.packaging import (
    Request,
    copy_model,
    find_tokenizer,
    finish_report,
    hash_and_describe,
    load_tokenizer,
    restore_cache,
    scan_copied_weights,
)
from orchestrator.workers.reranker.card import CardFacts, build_card
from orchestrator.workers.reranker.probes import EXAMPLES, build_probes
from orchestrator.workers.reranker.report import find_agreement
from orchestrator.workers.reranker.scoring_spec import ScoringSpec, parse_spec
from orchestrator.workers.reranker.sentence_transformers_files import write_decoder_files, write_encoder_files
from orchestrator.workers.reranker.training_format import (
    SENTINEL,
    build_chat_template,
    encode_pair,
    is_cut,
    sequence_length,
    true_token_id,
)
from orchestrator.workers.reranker.verify import name_subject, verify
from orchestrator.workers.tokenizer_files import add_sentinel, set_chat_template, update_settings

if TYPE_CHECKING:
    from orchestrator.workers.reranker.scoring import Pair


def is_decoder(spec: ScoringSpec) -> bool:
    """Tell whether the spec's model is a causal language model; the other kind is an encoder with a head."""
    return spec.scorer == "flag-llm-reranker"


def renders_same_ids(folder: Path, spec: ScoringSpec, trained: Any, pairs: list[Pair]) -> bool:
    """Tell whether the packaged tokenizer and chat template give the ids of training, for every pair that fits."""
    packaged = load_tokenizer(folder, trust_remote_code=spec.trust_remote_code)
    for query, document in pairs:
        if is_cut(trained, spec, query, document):
            continue
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        ids = packaged.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        expected = encode_pair(trained, spec, query, document)
        if list(ids) != expected or encode_pair(packaged, spec, query, document) != expected:
            return False
    return True


def write_decoder_format(folder: Path, spec: ScoringSpec, trained: Any, pairs: list[Pair]) -> bool:
    """Write chat template, lengths and modules; tell whether the template gives exactly the ids of training."""
    update_settings(folder, model_max_length=sequence_length(trained, spec), padding_side="left")
    write_decoder_files(folder, true_token_id(trained, spec))
    kept = {
        name: (folder / name).read_bytes()
        for name in ("tokenizer.json", "tokenizer_config.json")
        if (folder / name).is_file()
    }
    if add_sentinel(folder, SENTINEL):
        set_chat_template(folder, build_chat_template(trained, spec))
        if renders_same_ids(folder, spec, trained, pairs):
            return True
        for name, content in kept.items():
            (folder / name).write_bytes(content)
    set_chat_template(folder, build_chat_template(trained, spec, sentinel=""))
    return renders_same_ids(folder, spec, trained, pairs)


def describe(request: Request, spec: ScoringSpec, folder: Path, report: dict[str, Any], trained: Any) -> None:
    """Write README.md and scoring.json."""
    decoder = is_decoder(spec)
    max_seq_length = sequence_length(trained, spec) if decoder else spec.max_length
    base, hub_base = name_base(request.base, request.raw_spec)
    agreement = find_agreement(report)
    facts = CardFacts(
        base=base,
        hub_base=hub_base,
        spec=spec,
        decoder=decoder,
        exact_template=report["chat_template"] == "exact",
        max_seq_length=max_seq_length,
        difference=agreement["max_difference"],
    )
    write_text(folder / "README.md", build_card(facts))
    examples = [probe["flagembedding"] for probe in report["probes"] if probe["origin"] == "example"]
    described: dict[str, Any] = {**request.raw_spec, "base_model": base, "max_seq_length": max_seq_length}
    if decoder:
        described["true_token"] = spec.true_token
        described["true_token_id"] = true_token_id(trained, spec)
    described["sentence_transformers"] = {
        **agreement,
        "chat_template": agreement["chat_template"] if decoder else None,
    }
    described["examples_dtype"] = report["compute_dtype"]
    described["examples"] = [
        {"query": query, "document": document, "score": score}
        for (query, document), score in zip(EXAMPLES, examples, strict=True)
    ]
    hash_and_describe(folder, described)


def package(request: Request, folder: Path) -> None:
    """Fill `folder`, verify it and write the report. Raises WorkerError with one line a failed check."""
    spec = parse_spec(request.raw_spec, "the scoring spec")
    decoder = is_decoder(spec)
    copy_model(request, folder, trust_remote_code=spec.trust_remote_code)
    scan = scan_copied_weights(request, folder)
    trained = load_tokenizer(find_tokenizer(request), trust_remote_code=spec.trust_remote_code)
    probes = build_probes(request.probes, trained, spec.max_length)
    if decoder:
        restore_cache(folder)
        exact = write_decoder_format(folder, spec, trained, [probe.pair for probe in probes])
    else:
        exact = True
        update_settings(folder, model_max_length=spec.max_length)
        write_encoder_files(folder)
    subject = name_subject(request, folder, spec)
    report = verify(subject, probes, trained, scan, exact_template=exact)
    finish_report(request, report)
    describe(request, spec, folder, report, trained)
