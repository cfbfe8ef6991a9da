"""Embed the probes of a packaged model by every way: in plain transformers, as users load it, and in ms-swift.

swift cuts a long text at its end, end token and all, while sentence-transformers keeps the end token. Texts longer than
`max_length` are therefore not given to swift: they are embedded by the others, and compared there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.embedding.oracle import BATCH_SIZE, Plain, embed_in_swift, embed_plainly
from orchestrator.workers.engines.transformers import release
from orchestrator.workers.environment import weight_options
from orchestrator.workers.failure import WorkerError

if TYPE_CHECKING:
    from orchestrator.workers.embedding.probes import TextProbe
    from orchestrator.workers.embedding.spec import EmbeddingSpec


@dataclass(frozen=True)
class Subject:
    """What is verified. `model` is the merged or fully trained folder, `packaged` the staged artefact."""

    base: str
    adapter: Path | None
    model: Path
    packaged: Path
    spec: EmbeddingSpec
    device: str


@dataclass(frozen=True)
class Vectors:
    """Float32 vectors of the probes by every way; the last two, from swift, of the `whole` probes only."""

    base: Plain
    model: Plain
    packaged: Any
    reloaded: Any
    whole: list[int]
    swift: Any = None
    adapter: Any = None


def embed(subject: Subject, probes: Sequence[TextProbe], trained: Any) -> Vectors:
    """Embed the probes by every way, one model in memory at a time."""
    from transformers import AutoTokenizer

    spec, device = subject.spec, subject.device
    texts = [spec.wrap(probe.kind, probe.text) for probe in probes]
    tokenizer = AutoTokenizer.from_pretrained(subject.packaged, trust_remote_code=spec.trust_remote_code)
    base_folder = find_folder(subject.base)
    # before swift is imported, which changes classes of transformers
    base = embed_plainly(base_folder, trained, spec, texts, device=device)
    model = embed_plainly(str(subject.packaged), trained, spec, texts, device=device, packaged=tokenizer)
    packaged, reloaded = (embed_packaged(subject, probes, batch_size) for batch_size in (BATCH_SIZE, 1))
    whole = [
        i for i, text in enumerate(texts) if len(tokenizer(text, truncation=False)["input_ids"]) <= spec.max_length
    ]
    swift = adapter = None
    # a model with made-up weights is refused without asking anybody else
    if spec.tool == "swift" and not model.missing:
        uncut = [texts[i] for i in whole]
        swift = embed_in_swift(str(subject.model), spec, uncut, device)
        if subject.adapter is not None:
            adapter = embed_in_swift(base_folder, spec, uncut, device, subject.adapter)
    return Vectors(base, model, packaged, reloaded, whole, swift, adapter)


def find_folder(model: str) -> str:
    """Return the folder of a model that is on this machine: swift would ask another hub than the one it came from.

    Raises WorkerError for a hub id that was never downloaded.
    """
    if Path(model).is_dir():
        return model
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(model, local_files_only=True))
    except (OSError, ValueError) as error:
        raise WorkerError(
            f"{model} is neither a folder nor in the Hugging Face cache of this machine: give the folder that training "
            "started from"
        ) from error


def embed_packaged(subject: Subject, probes: Sequence[TextProbe], batch_size: int) -> Any:
    """Return the vectors of `SentenceTransformer(folder)` with its own prompts, nothing else given but the dtype."""
    import numpy as np
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(
        str(subject.packaged),
        device=subject.device,
        trust_remote_code=subject.spec.trust_remote_code,
        model_kwargs={"torch_dtype": "float32", **weight_options()},
        local_files_only=True,
    )
    vectors: Any = np.empty((len(probes), int(encoder.get_embedding_dimension() or 0)), dtype=np.float32)
    for kind in ("query", "document"):
        rows = [index for index, probe in enumerate(probes) if probe.kind == kind]
        encode = encoder.encode_query if kind == "query" else encoder.encode_document
        vectors[rows] = encode([probes[row].text for row in rows], batch_size=batch_size, show_progress_bar=False)
    del encoder
    release()
    return vectors
