"""Make a trained embedding model a folder that describes itself, whatever its base folder lacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.workers.embedding.card import CardFacts, build_card
from orchestrator.workers.embedding.end_token import append_end_token
from orchestrator.workers.embedding.files import read_own_modules, write_embedding_files
from orchestrator.workers.embedding.probes import TextProbe, build_probes
from orchestrator.workers.embedding.spec import EmbeddingSpec, parse_spec
from orchestrator.workers.embedding.verify import verify
from orchestrator.workers.embedding.ways import Subject, find_folder
from orchestrator.workers.engines.transformers import load_tokenizer
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import write_text
from orchestrator.workers.kinds import Request
from orchestrator.workers.kinds.probes import EXAMPLES
from orchestrator.workers.model_card import name_base
from orchestrator.workers.packaging import (
    copy_model,
    find_tokenizer,
    finish_report,
    hash_and_describe,
    scan_copied_weights,
)
from orchestrator.workers.tokenizer_files import read_json, update_settings

SHOWN_NUMBERS = 8
# what a server of this model is asked to see that it serves this model
KNOWN_TEXTS = (
    ("query", EXAMPLES[0][0]),
    ("document", EXAMPLES[0][1]),
    ("document", EXAMPLES[1][1]),
    ("query", EXAMPLES[2][0]),
)


def package(request: Request, folder: Path) -> None:
    """Fill `folder`, verify it and write the report. Raises WorkerError with one line a failed check."""
    asked = parse_spec(request.raw_spec, "the scoring spec")
    if request.adapter is not None and asked.tool != "swift":
        raise WorkerError('the adapter of an embedding model is verified in swift: the spec must say "tool": "swift"')
    # The weights stay as swift saves them, byte for byte, as Qwen3ForCausalLM with a head: AutoModel (and with it
    # sentence-transformers) drops the `model.` in front of names and leaves out a head; vLLM knows Qwen3-Embedding by
    # that very architecture, and makes a pooling model of it. A rewrite would only be one more thing to go wrong.
    copy_model(request, folder, trust_remote_code=asked.trust_remote_code)
    scan = scan_copied_weights(request, folder)
    spec = settle(asked, request, folder)
    trained = load_tokenizer(find_tokenizer(request), trust_remote_code=spec.trust_remote_code)
    write_format(folder, spec)
    probes = build_probes(request.probes, request.corpus, trained, spec.max_length, request.test_prompt)
    subject = Subject(request.base, request.adapter, request.model, folder, spec, request.device)
    report, vectors = verify(subject, probes, trained, scan)
    finish_report(request, report)
    describe(request, folder, spec, report, find_known(probes, vectors))


def settle(spec: EmbeddingSpec, request: Request, folder: Path) -> EmbeddingSpec:
    """Return the spec with the pooling and the length that the packaged folder will have.

    Raises WorkerError for a base whose modules do more than pool and normalise: swift does not save what they do.
    """
    config = read_json(folder / "config.json")
    longest = config.get("max_position_embeddings")
    if isinstance(longest, int) and 0 < longest < spec.max_length:
        spec = replace(spec, max_length=longest)
    dims = config.get("hidden_size")
    wrong = [dim for dim in (*spec.mrl_dims, spec.truncate_dim or 1) if isinstance(dims, int) and dim > dims]
    if wrong:
        raise WorkerError(f"the scoring spec asks for {wrong[0]} dimensions, but the model's vectors have {dims}")
    own = read_own_modules(Path(find_folder(request.base)))
    if own.others:
        raise WorkerError(f"{request.base} has the module {own.others[0]}, which cannot be packaged")
    if spec.pooling is None and own.pooling is None:
        raise WorkerError(f"neither the scoring spec nor {request.base} says how the model pools")
    return replace(spec, pooling=spec.pooling or own.pooling)


def write_format(folder: Path, spec: EmbeddingSpec) -> None:
    """Make tokenizer and modules those of the training."""
    if spec.pooling == "lasttoken":
        append_end_token(folder, trust_remote_code=spec.trust_remote_code)
        update_settings(folder, model_max_length=spec.max_length, padding_side="left")
    else:
        update_settings(folder, model_max_length=spec.max_length)
    # no text was ever wrapped as a chat, and a server that finds a chat template may do it
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    write_embedding_files(folder, spec)


def find_known(probes: Sequence[TextProbe], vectors: Any) -> list[dict[str, Any]]:
    """Return the texts that every packaged model keeps vectors of, with their vectors."""
    places = {(probe.kind, probe.text): index for index, probe in enumerate(probes)}
    return [{"text": text, "kind": kind, "vector": vectors[places[kind, text]].tolist()} for kind, text in KNOWN_TEXTS]


def describe(
    request: Request, folder: Path, spec: EmbeddingSpec, report: dict[str, Any], known: list[dict[str, Any]]
) -> None:
    """Write README.md and scoring.json."""
    base, hub_base = name_base(request.base, request.raw_spec)
    distances = {check["name"]: check.get("max_distance") for check in report["checks"]}
    apart = max(distances[name] for name in ("sentence-transformers", "transformers"))
    write_text(folder / "README.md", build_card(CardFacts(base, hub_base, spec, report["dims"], apart)))
    examples = known[:3]
    described = {
        **request.raw_spec,
        "version": 1,
        "base_model": base,
        "max_length": spec.max_length,
        "pooling": spec.pooling,
        "normalize": True,
        "dims": report["dims"],
        "mrl_dims": list(spec.mrl_dims),
        "prompts": {"query": spec.query_prompt, "document": spec.document_prompt},
        "examples_dtype": report["compute_dtype"],
        "examples": {
            "texts": [{**row, "vector": row["vector"][:SHOWN_NUMBERS]} for row in examples],
            "cosines": [
                [sum(a * b for a, b in zip(one["vector"], other["vector"], strict=True)) for other in examples]
                for one in examples
            ],
        },
        "probes": known,
    }
    hash_and_describe(folder, described)
