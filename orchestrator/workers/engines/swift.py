"""Ask a model in ms-swift's own inference engine: what one that swift trained gives in the tool that trained it."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.engines.transformers import release
from orchestrator.workers.eval_files import Pair
from orchestrator.workers.failure import WorkerError

BATCH_SIZE = 4


@dataclass(frozen=True)
class EngineSettings:
    """How swift was told to read the model: its model type, task type and template, all by swift's names."""

    model_type: str
    task_type: str
    template: str


def open_engine(
    model: str | Path, settings: EngineSettings, device: str, adapter: Path | None = None, *, single: bool = False
) -> Any:
    """Return swift's engine over a folder or hub id, in float32, with the adapter on top when there is one.

    With `single` it takes one input at a time.
    """
    os.environ.setdefault("LOG_LEVEL", "ERROR")  # swift's logger reads it when it is imported
    import torch

    swift = import_engine()
    release()
    options = {
        "adapters": [] if adapter is None else [str(adapter)],
        "model_type": settings.model_type,
        "task_type": settings.task_type,
        "torch_dtype": torch.float32,
        "device_map": device,
        "max_batch_size": 1 if single else BATCH_SIZE,
        # a sigmoid would hide how far large scores are apart
        "reranker_use_activation": False,
    }
    if hasattr(swift, "TransformersEngine"):
        return swift.TransformersEngine(str(model), template_type=settings.template, **options)
    engine = swift.PtEngine(str(model), **options)
    engine.default_template = engine.template = swift.get_template(settings.template, engine.processor)
    return engine


def import_engine() -> Any:
    """Return swift's module of engines: swift.infer_engine, or swift.llm of ms-swift 3, where it is called PtEngine."""
    try:
        where = "swift.infer_engine" if importlib.util.find_spec("swift.infer_engine") is not None else "swift.llm"
        return importlib.import_module(where)
    except ImportError as error:
        raise WorkerError(f"ms-swift cannot be imported, and its model is verified in it: {error}") from error


def build_messages(instruction: str | None, query: str, document: str) -> list[dict[str, str]]:
    """Return the pair as swift's rows hold it; the reranker's template takes the instruction from a system message."""
    return [
        *([] if instruction is None else [{"role": "system", "content": instruction}]),
        {"role": "user", "content": query},
        {"role": "assistant", "content": document},
    ]


def infer(engine: Any, conversations: Sequence[list[dict[str, str]]], what: str, field: str) -> Iterator[Any]:
    """Yield swift's response to each conversation, which has the `field`. Raises WorkerError when swift refuses one."""
    swift = import_engine()
    requests = [swift.InferRequest(messages=messages) for messages in conversations]
    for number, response in enumerate(engine.infer(requests, swift.RequestConfig(), use_tqdm=False), start=1):
        if not hasattr(response, field):
            raise WorkerError(f"swift cannot {what} probe {number} of {len(requests)}: {response}")
        yield response


def score_in_engine(engine: Any, instruction: str | None, pairs: Sequence[Pair]) -> list[float]:
    """Return the raw score of each pair. Raises WorkerError when swift refuses one."""
    asked = [build_messages(instruction, *pair) for pair in pairs]
    contents = [found.choices[0].message.content for found in infer(engine, asked, "score", "choices")]
    return [float(one[0]) if isinstance(one, list) and len(one) == 1 else math.nan for one in contents]


def encode_in_engine(engine: Any, instruction: str | None, *pair: str) -> list[int]:
    """Return the token ids that swift feeds for the pair."""
    return list(engine.template.encode({"messages": build_messages(instruction, *pair)})["input_ids"])


def embed(
    model: str | Path, settings: EngineSettings, texts: Sequence[str], device: str, adapter: Path | None = None
) -> Any:
    """Return float32 vectors [texts, dimensions], one text as one user message.

    Raises WorkerError when swift refuses a text, and for a model that it does not read as an embedding model.
    """
    import numpy as np

    # swift pads on the left when it infers, and a BERT's positions (and its first token) would move
    engine = open_engine(model, settings, device, adapter, single=True)
    found = []
    for response in infer(engine, [[{"role": "user", "content": text}] for text in texts], "embed", "data"):
        vector = response.data[0].embedding
        # PEFT calls a causal model inside its own wrapper past the hook by which swift pools
        if not isinstance(vector[0], float):
            raise WorkerError(
                f"{adapter or model}: swift gives a vector a token: it was not trained as an embedding model"
            )
        found.append(vector)
    return np.asarray(found, dtype=np.float32)
