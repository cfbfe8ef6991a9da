"""Embed texts in plain transformers, and in ms-swift's engine: what every other way of embedding is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.embedding.end_token import require_end_token
from orchestrator.workers.engines.swift import EngineSettings, import_engine, open_engine
from orchestrator.workers.engines.transformers import release
from orchestrator.workers.environment import weight_options
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.weights import hash_parameters

if TYPE_CHECKING:
    from orchestrator.workers.embedding.spec import EmbeddingSpec

BATCH_SIZE = 4


@dataclass(frozen=True)
class Plain:
    """What plain transformers gives: vectors one text at a time, vectors of padded batches, hashes, missing weights."""

    vectors: Any
    batched: Any
    hashes: dict[str, str]
    missing: tuple[str, ...]


def encode_ids(tokenizer: Any, spec: EmbeddingSpec, text: str) -> list[int]:
    """Return the ids of training: the text's own, cut from the right, then the end token when it is what is pooled."""
    if spec.pooling == "lasttoken":
        ids = tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"]
        return [*ids[: spec.max_length - 1], require_end_token(tokenizer, "the trained model")]
    return list(tokenizer(text, truncation=True, max_length=spec.max_length, padding=False)["input_ids"])


def pool(hidden: Any, mask: Any, pooling: str | None) -> Any:
    """Return one vector a row of `hidden` [texts, tokens, dimensions], as the second snippet of the card does."""
    if pooling == "lasttoken":  # padded on the left
        return hidden[:, -1]
    if pooling == "cls":
        return hidden[:, 0]
    return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)


def embed_plainly(
    model: str, tokenizer: Any, spec: EmbeddingSpec, texts: Sequence[str], *, device: str, packaged: Any = None
) -> Plain:
    """Return float32 unit vectors from AutoModel; `tokenizer` is the trained one, `packaged` (if any) makes batches."""
    import torch
    from torch.nn.functional import normalize
    from transformers import AutoModel

    loaded, info = AutoModel.from_pretrained(
        model,
        torch_dtype="float32",
        output_loading_info=True,
        trust_remote_code=spec.trust_remote_code,
        **weight_options(),
    )
    loaded = loaded.to(device).eval()
    vectors, batched = [], []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([encode_ids(tokenizer, spec, text)], device=device)
            hidden = loaded(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            vectors.append(normalize(pool(hidden, torch.ones_like(ids), spec.pooling), dim=1))
        for start in range(0, 0 if packaged is None else len(texts), BATCH_SIZE):
            batch = packaged(
                list(texts[start : start + BATCH_SIZE]),
                padding=True,
                truncation=True,
                max_length=spec.max_length,
                return_tensors="pt",
            ).to(device)
            hidden = loaded(**batch).last_hidden_state
            batched.append(normalize(pool(hidden, batch["attention_mask"], spec.pooling), dim=1))
    # a pooler is no part of the vector: BERT folders often come without its weights
    missing = {*map(str, info.get("missing_keys", ())), *(str(key[0]) for key in info.get("mismatched_keys", ()))}
    lacking = tuple(sorted(name for name in missing if not name.startswith("pooler.")))
    hashes = {name: value for name, value in hash_parameters(loaded).items() if not name.startswith("pooler.")}
    del loaded
    release()
    return Plain(join(vectors), join(batched), hashes, lacking)


def join(parts: Sequence[Any]) -> Any:
    """Return the batches of tensors as one array [texts, dimensions], or None where there are none."""
    import torch

    return torch.cat(list(parts)).float().cpu().numpy() if parts else None


def embed_in_swift(
    model: str, spec: EmbeddingSpec, texts: Sequence[str], device: str, adapter: Path | None = None
) -> Any:
    """Return the vectors of swift's engine, one text as one user message. Raises WorkerError when it refuses one."""
    import numpy as np

    settings = EngineSettings(model_type=spec.model_type, task_type="embedding", template=spec.template)
    engine = open_engine(model, settings, device, adapter)
    # one text at a time: swift pads on the left when it infers, and a BERT's positions (and its first token) would move
    engine.max_batch_size = 1
    swift = import_engine()
    requests = [swift.InferRequest(messages=[{"role": "user", "content": text}]) for text in texts]
    found = []
    for number, response in enumerate(engine.infer(requests, swift.RequestConfig(), use_tqdm=False), start=1):
        if not hasattr(response, "data"):
            raise WorkerError(f"swift cannot embed probe {number} of {len(texts)}: {response}")
        vector = response.data[0].embedding
        # PEFT calls a causal model inside its own wrapper past the hook by which swift pools
        if not isinstance(vector[0], float):
            raise WorkerError(
                f"{adapter or model}: swift gives a vector a token: it was not trained as an embedding model"
            )
        found.append(vector)
    del engine
    release()
    return np.asarray(found, dtype=np.float32)
