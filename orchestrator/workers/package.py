"""Make a trained reranker a folder that describes itself and is proved to be the model that was trained."""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import fresh_folder, write_json, write_text
from orchestrator.workers.model_card import CardFacts, build_card, name_base
from orchestrator.workers.probes import EXAMPLES, Probe, build_probes
from orchestrator.workers.scoring import Pair, choose_device
from orchestrator.workers.scoring_spec import ScoringSpec, load_raw_spec, parse_spec
from orchestrator.workers.sentence_transformers_files import write_decoder_files, write_encoder_files
from orchestrator.workers.tokenizer_files import (
    add_sentinel,
    copy_tokenizer,
    has_tokenizer,
    read_json,
    set_chat_template,
    update_settings,
)
from orchestrator.workers.training_format import (
    SENTINEL,
    build_chat_template,
    encode_pair,
    is_cut,
    sequence_length,
    true_token_id,
)
from orchestrator.workers.verification_checks import check_weights
from orchestrator.workers.verify import Subject, list_failures, verify
from orchestrator.workers.versions import read_versions
from orchestrator.workers.weights import INDEX, hash_file, require_safetensors, scan_weights

PACKAGED = {"flag-llm-reranker": True, "cross-encoder": False}  # scorer → is it a decoder
NOT_HASHED = ("README.md", "scoring.json")


@dataclass(frozen=True)
class Request:
    """What to package: the trained folder, where it came from, how it is scored, where it goes."""

    model: Path
    base: str
    adapter: Path | None
    raw_spec: dict[str, Any]
    spec: ScoringSpec
    probes: Path
    report: Path
    device: str

    @property
    def decoder(self) -> bool:
        """Whether the model is a causal language model."""
        return PACKAGED[self.spec.scorer]


def copy_model(request: Request, folder: Path) -> None:
    """Copy config, weights (byte for byte) and tokenizer. Raises WorkerError for pickles or parts that are missing."""
    if not (request.model / "config.json").is_file():
        raise WorkerError(
            f"{request.model} holds no config.json: it is not a whole model (an adapter must be merged first)"
        )
    files = require_safetensors(request.model)
    for path in files:
        shutil.copyfile(path, folder / path.name)
    extra = ["generation_config.json", INDEX]
    if request.spec.trust_remote_code:
        extra += [path.name for path in request.model.glob("*.py")]
    for name in extra:
        if (request.model / name).is_file():
            shutil.copyfile(request.model / name, folder / name)
    copy_tokenizer(find_tokenizer(request), folder)
    config = read_json(request.model / "config.json")
    # FlagEmbedding's decoder trainer turns it off and saves it so; generation without it is needlessly slow
    if request.decoder and config.get("use_cache") is False:
        config["use_cache"] = True
    write_json(folder / "config.json", config)


def find_tokenizer(request: Request) -> Path:
    """Return the first folder that holds a tokenizer: the model's, else the adapter's."""
    for folder in (request.model, request.adapter):
        if folder is not None and has_tokenizer(folder):
            return folder
    raise WorkerError(f"{request.model} holds no tokenizer")


def load_tokenizer(folder: Path, spec: ScoringSpec) -> Any:
    """Return the folder's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=spec.trust_remote_code)


def renders_same_ids(folder: Path, spec: ScoringSpec, trained: Any, pairs: list[Pair]) -> bool:
    """Tell whether the packaged tokenizer and chat template give the ids of training, for every pair that fits."""
    packaged = load_tokenizer(folder, spec)
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


def describe(request: Request, folder: Path, report: dict[str, Any], trained: Any, max_seq_length: int) -> None:
    """Write README.md and scoring.json."""
    base, hub_base = name_base(request.base)
    checks = {check["name"]: check for check in report["checks"]}
    agreement = checks["sentence-transformers"]
    exact = report["chat_template"] == "exact"
    facts = CardFacts(
        base=base,
        hub_base=hub_base,
        spec=request.spec,
        decoder=request.decoder,
        exact_template=exact,
        max_seq_length=max_seq_length,
        difference=agreement["max_difference"],
    )
    write_text(folder / "README.md", build_card(facts))
    examples = [probe["flagembedding"] for probe in report["probes"] if probe["origin"] == "example"]
    described: dict[str, Any] = {**request.raw_spec, "base_model": base, "max_seq_length": max_seq_length}
    if request.decoder:
        described["true_token"] = request.spec.true_token
        described["true_token_id"] = true_token_id(trained, request.spec)
    described["sentence_transformers"] = {
        "agrees": agreement["agrees"],
        "max_difference": agreement["max_difference"],
        "chat_template": report["chat_template"] if request.decoder else None,
    }
    described["examples_dtype"] = report["compute_dtype"]
    described["examples"] = [
        {"query": query, "document": document, "score": score}
        for (query, document), score in zip(EXAMPLES, examples, strict=True)
    ]
    described["versions"] = read_versions()
    described["files"] = {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_HASHED
    }
    write_json(folder / "scoring.json", described)


def package(request: Request, folder: Path) -> None:
    """Fill `folder`, verify it and write the report. Raises WorkerError with one line a failed check."""
    request.report.unlink(missing_ok=True)
    copy_model(request, folder)
    scan = scan_weights(require_safetensors(folder))
    if scan.problems:  # nothing else is worth computing
        checks = [check_weights(scan).to_json()]
        write_json(request.report, {"version": 1, "passed": False, "checks": checks, "weights": scan.to_json()})
        raise WorkerError(*(f"weights: {problem}" for problem in scan.problems))
    trained = load_tokenizer(find_tokenizer(request), request.spec)
    probes: list[Probe] = build_probes(request.probes, trained, request.spec.max_length)
    if request.decoder:
        exact = write_decoder_format(folder, request.spec, trained, [probe.pair for probe in probes])
        max_seq_length = sequence_length(trained, request.spec)
    else:
        exact, max_seq_length = True, request.spec.max_length
        update_settings(folder, model_max_length=max_seq_length)
        write_encoder_files(folder)
    subject = Subject(
        base=request.base,
        adapter=request.adapter,
        model=request.model,
        packaged=folder,
        spec=request.spec,
        decoder=request.decoder,
        exact_template=exact,
        device=request.device,
    )
    report = verify(subject, probes, trained, scan)
    report["versions"] = read_versions()
    write_json(request.report, report)
    failures = list_failures(report)
    if failures:
        raise WorkerError(*failures)
    describe(request, folder, report, trained, max_seq_length)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def main(argv: list[str]) -> int:
    """Write the packaged model to `--out`, which appears whole and verified or not at all."""
    parser = argparse.ArgumentParser(prog="workers package", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="the merged or fully trained folder")
    parser.add_argument("--base", required=True, help="the model that training started from, a folder or a hub id")
    parser.add_argument("--adapter", type=Path, help="the LoRA adapter that was merged")
    parser.add_argument("--scoring", type=Path, required=True, help="the scoring spec, JSON")
    parser.add_argument("--probes", type=Path, required=True, help="the canonical eval file, JSONL")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True, help="where the verification goes, JSON")
    parser.add_argument("--device", help="cpu or cuda; the GPU when there is one")
    options = parser.parse_args(argv)
    # the folder must load without a network, and the base model was fetched when it was trained
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    raw = load_raw_spec(options.scoring)
    spec = parse_spec(raw, str(options.scoring))
    if spec.scorer not in PACKAGED:
        raise WorkerError(
            f"{options.scoring}: a {spec.scorer} model cannot be packaged; known are {', '.join(PACKAGED)}"
        )
    request = Request(
        model=options.model,
        base=options.base,
        adapter=options.adapter,
        raw_spec=raw,
        spec=spec,
        probes=options.probes,
        report=options.report,
        device=choose_device(options.device),
    )
    with fresh_folder(options.out) as folder:
        package(request, folder)
    return 0
